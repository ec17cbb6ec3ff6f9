"""How options are declared: the field metadata of `config.Config`, and what is derived from it.

An option is one field of a frozen dataclass, made with `option(…)`; its annotation is its type. From
these come decoding (`decode.py`), the config spec that the shim embeds and the reference page
(`generate.py`), the late-template list and the redaction list. Nothing else declares an option.
"""

import dataclasses
import enum
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Check = Callable[[Any], str | None]
"""Looks at a decoded value; returns what is wrong with it ("must be …, found …"), or None."""


class Kind(enum.Enum):
    """The shapes an option's value may have. The value is its type in cty's JSON notation."""

    STRING = "string"
    BOOL = "bool"
    INT = "number"
    STRINGS = ("list", "string")
    TUPLES = ("list", ("list", "string"))
    STRING_MAP = ("map", "string")

    @property
    def cty(self) -> object:
        """The type as JSON writes it: strings and nested lists."""

        def plain(value: object) -> object:
            return [plain(item) for item in value] if isinstance(value, tuple) else value

        return plain(self.value)

    @property
    def described(self) -> str:
        """The type in the user's words."""
        return {
            Kind.STRING: "a string",
            Kind.BOOL: "true or false",
            Kind.INT: "a whole number",
            Kind.STRINGS: "a list of strings",
            Kind.TUPLES: "a list of lists of strings",
            Kind.STRING_MAP: "a map of strings",
        }[self]


_KINDS: Mapping[object, Kind] = {
    str: Kind.STRING,
    bool: Kind.BOOL,
    int: Kind.INT,
    tuple[str, ...]: Kind.STRINGS,
    tuple[tuple[str, ...], ...]: Kind.TUPLES,
    Mapping[str, str]: Kind.STRING_MAP,
}


@dataclasses.dataclass(frozen=True)
class Option:
    """One row of the table.

    `late`: rendered during the build, when its data is known; at Prepare it is tried with made-up
    data. `fields`: what it may refer to then.
    `secret`: never shown. `default_text`: the default in the user's words, where `default` alone
    does not say it.
    """

    name: str
    kind: Kind
    doc: str
    default: Any
    default_text: str
    required: bool
    late: bool
    fields: tuple[str, ...]
    secret: bool
    check: Check | None


def option(
    doc: str,
    *,
    default: Any = None,
    default_text: str = "",
    required: bool = False,
    fields: tuple[str, ...] = (),
    secret: bool = False,
    check: Check | None = None,
) -> Any:
    """A dataclass field that is an option. `doc` is its text in the reference page (Markdown)."""
    return dataclasses.field(
        default=default,
        metadata={
            "doc": doc,
            "default_text": default_text,
            "required": required,
            "late": bool(fields),
            "fields": fields,
            "secret": secret,
            "check": check,
        },
    )


def options_of(table: type) -> Sequence[Option]:
    """The rows of a table, in the order of its fields."""
    hints = typing.get_type_hints(table)
    rows = []
    for field in dataclasses.fields(table):
        if "doc" not in field.metadata:
            continue
        rows.append(
            Option(
                name=field.name,
                kind=_kind_of(hints[field.name]),
                default=field.default,
                **field.metadata,
            )
        )
    return rows


def _kind_of(hint: object) -> Kind:
    args = [arg for arg in typing.get_args(hint) if arg is not type(None)]
    if type(None) in typing.get_args(hint) and len(args) == 1:
        hint = args[0]
    return _KINDS[hint]
