"""How options are declared: the field metadata of `config.Config`, and what is derived from it.

An option is one field of a frozen dataclass, made with `option(…)`; its annotation is its type. From
these come decoding (`tables.py`), the config spec that the shim embeds and the reference page
(`generate.py`), the late-template list and the redaction list. Nothing else declares an option.
A field whose type is such a dataclass itself, or a tuple of them, is a nested block.
"""

import dataclasses
import enum
import functools
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

Check = Callable[[Any], str | None]
"""Looks at a decoded value; returns what is wrong with it ("must be …, found …"), or None. It is not
asked about a value that core does not know yet."""


class Block:
    """What the dataclass of a nested block derives from."""

    def problems(self) -> Iterable[tuple[str, str]]:
        """What is wrong with its options together: the name of one, and what is wrong."""
        return ()


class Kind(enum.Enum):
    """The shapes an option's value may have. The value is how users are told of it."""

    STRING = "a string"
    BOOL = "true or false"
    INT = "a whole number"
    DURATION = 'a duration such as "15m"'
    STRINGS = "a list of strings"
    TUPLES = "a list of lists of strings"
    STRING_MAP = "a map of strings"
    BLOCK = "a block"
    BLOCKS = "a list of blocks"

    @property
    def cty(self) -> object:
        """The type of an attribute, in cty's JSON notation. Blocks are none."""
        return {
            Kind.STRING: "string",
            Kind.BOOL: "bool",
            Kind.INT: "number",
            Kind.DURATION: "string",
            Kind.STRINGS: ["list", "string"],
            Kind.TUPLES: ["list", ["list", "string"]],
            Kind.STRING_MAP: ["map", "string"],
        }[self]


_KINDS: Mapping[object, Kind] = {
    str: Kind.STRING,
    bool: Kind.BOOL,
    int: Kind.INT,
    float: Kind.DURATION,
    tuple[str, ...]: Kind.STRINGS,
    tuple[tuple[str, ...], ...]: Kind.TUPLES,
    Mapping[str, str]: Kind.STRING_MAP,
}


@dataclasses.dataclass(frozen=True)
class Option:
    """One row of a table.

    `table` holds the rows of a nested block. `check` looks at the value, `each` at every item of a
    list, or at every pair of a map's key and value. `late`: rendered during the build, when its data is
    known; at Prepare it is tried with made-up data. `fields`: what it may refer to then.
    `secret`: never shown. `default_text`: the default in the user's words, where `default` alone
    does not say it. `older`: former names, accepted with a warning. `single`: a name that takes one
    string of this list. `block`: a name under which a map is written as blocks, each with one of its
    entries, and `pair` the table of such a block: its key and its value.
    """

    name: str
    kind: Kind
    table: type[Block] | None
    doc: str
    default: Any
    default_text: str
    required: bool
    late: bool
    fields: tuple[str, ...]
    secret: bool
    check: Check | None
    each: Check | None
    older: tuple[str, ...]
    single: str
    block: str
    pair: type[Block] | None

    @property
    def spellings(self) -> Iterator["Spelling"]:
        """Every name under which it may be given, its own first."""
        yield Spelling(self.name, self.kind, self.table)
        for name in self.older:
            yield Spelling(name, self.kind, self.table, is_older=True)
        if self.single:
            yield Spelling(self.single, Kind.STRING, None)
        if self.block:
            yield Spelling(self.block, Kind.BLOCKS, self.pair)


@dataclasses.dataclass(frozen=True)
class Spelling:
    """A name that an option may be given by, and the shape of what is given there."""

    name: str
    kind: Kind
    table: type[Block] | None
    is_older: bool = False


def option(
    doc: str,
    *,
    default: Any = None,
    default_text: str = "",
    required: bool = False,
    fields: tuple[str, ...] = (),
    secret: bool = False,
    check: Check | None = None,
    each: Check | None = None,
    older: tuple[str, ...] = (),
    single: str = "",
    block: str = "",
    pair: type[Block] | None = None,
) -> Any:
    """A dataclass field that is an option. `doc` is its text in the reference page (Markdown)."""
    metadata = {
        "doc": doc,
        "default": default,
        "default_text": default_text,
        "required": required,
        "late": bool(fields),
        "fields": fields,
        "secret": secret,
        "check": check,
        "each": each,
        "older": older,
        "single": single,
        "block": block,
        "pair": pair,
    }
    if default == {}:
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def options_of(table: type) -> Sequence[Option]:
    """The rows of a table, in the order of its fields."""
    return _rows(table)


@functools.cache
def _rows(table: Any) -> Sequence[Option]:
    hints = typing.get_type_hints(table)
    rows = []
    for field in dataclasses.fields(table):
        if "doc" not in field.metadata:
            continue
        kind, nested = _kind_of(hints[field.name])
        rows.append(Option(name=field.name, kind=kind, table=nested, **field.metadata))
    return tuple(rows)


def _kind_of(hint: object) -> tuple[Kind, type[Block] | None]:
    args = [arg for arg in typing.get_args(hint) if arg is not type(None)]
    if type(None) in typing.get_args(hint) and len(args) == 1:
        (hint,) = args
    if kind := _KINDS.get(hint):
        return kind, None
    if isinstance(hint, type) and issubclass(hint, Block):
        return Kind.BLOCK, hint
    return Kind.BLOCKS, args[0]
