"""The syntax tree of a template: what the parser makes and the compiler reads. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dot:
    """`.`"""


@dataclass(frozen=True, slots=True)
class Nil:
    """`nil`"""


@dataclass(frozen=True, slots=True)
class Bool:
    value: bool


@dataclass(frozen=True, slots=True)
class Number:
    """A constant under each type that can hold it exactly, as Go's untyped constants.

    `ideal` is its value where no type is asked for; None when it overflows int (an error only when
    it is executed).
    """

    text: str
    integer: int | None
    ideal: int | float | complex | None


@dataclass(frozen=True, slots=True)
class String:
    value: str


@dataclass(frozen=True, slots=True)
class Identifier:
    """A function's name."""

    name: str


@dataclass(frozen=True, slots=True)
class Field:
    """`.A.B`, looked up in dot."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """`$x.A.B`; `name` has its dollar sign."""

    name: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """`(pipeline).A.B` or `function.A.B`."""

    operand: "Pipe | Identifier"
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pipe:
    """Commands feeding each other, and the variables that get the result.

    `text` is the source, for messages.
    """

    variables: tuple[str, ...]
    assigns: bool
    commands: tuple["Command", ...]
    text: str
    position: int


Operand = Dot | Nil | Bool | Number | String | Identifier | Field | Variable | Chain | Pipe


@dataclass(frozen=True, slots=True)
class Command:
    """A function, field or constant, and its arguments."""

    operands: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Action:
    pipe: Pipe


@dataclass(frozen=True, slots=True)
class Branch:
    """`if` and `with`. `escapes`: a break or continue in it belongs to a range around it."""

    rebinds_dot: bool
    pipe: Pipe
    body: "Body"
    otherwise: "Body"
    escapes: bool


@dataclass(frozen=True, slots=True)
class Range:
    """`escapes` can come from the else branch only."""

    pipe: Pipe
    body: "Body"
    otherwise: "Body"
    escapes: bool


@dataclass(frozen=True, slots=True)
class Break:
    """`break`"""


@dataclass(frozen=True, slots=True)
class Continue:
    """`continue`"""


@dataclass(frozen=True, slots=True)
class Invoke:
    """`{{template "name" pipeline}}`, and what a `block` leaves behind."""

    name: str
    pipe: Pipe | None


Statement = Text | Action | Branch | Range | Break | Continue | Invoke
Body = tuple[Statement, ...]

GO_WHITESPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


def is_blank(body: Body) -> bool:
    """Whether a template holds white space only: such a one never replaces another of its name."""
    return all(isinstance(part, Text) and not part.text.strip(GO_WHITESPACE) for part in body)


ROOT = "root"
"""The main template's name, as the SDK calls it: templates can define and call it."""


@dataclass(frozen=True, slots=True)
class Tree:
    """All templates of one source text, by name; `ROOT` is always there. `parts`: its size."""

    templates: Mapping[str, Body]
    parts: int
