"""The values that templates compute with, behaving as Go's do: kinds, truth, equality, order.

Strings are Python's. Go's may hold bytes that are not UTF-8 (`"\\xff"`, half a character cut by
`slice`); such a byte is carried as the surrogate that "surrogateescape" makes of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from packer_plugin_osc_chroot.template.errors import TemplateError


class Literal(str):
    """A string that is final text: what it holds is never taken for a template again.

    What functions make of it is final text too.
    """

    __slots__ = ()


class StringMap(dict[str, str]):
    """Data of Go's type map[string]string: `index` of a missing key gives the empty string."""


class Fields(Mapping[str, object]):
    """Data that stands for a Go struct: a field it does not have is an error when executed."""

    def __init__(self, /, **fields: object) -> None:
        self._fields = fields

    def __getitem__(self, name: str) -> object:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


@dataclass(frozen=True, slots=True)
class NoValue:
    """What a missing map key is. `path` is how the template names it, empty if unknown."""

    path: str = ""


NO_VALUE: Final = NoValue()


class Byte(int):
    """Go's uint8: what indexing a string gives."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False)
class GoMap:
    """A map. `of_strings`: its values' type is string; `untyped_keys`: its keys' is interface{}."""

    entries: Mapping[str, "Value"]
    of_strings: bool = False
    untyped_keys: bool = False
    is_nil: bool = False

    @property
    def type_name(self) -> str:
        key = "interface {}" if self.untyped_keys else "string"
        return f"map[{key}]{'string' if self.of_strings else 'interface {}'}"


@dataclass(frozen=True, slots=True, eq=False)
class GoSlice:
    """A slice of interface{}: `items` up to its capacity, of which `length` are in it."""

    items: tuple["Value", ...]
    length: int


@dataclass(frozen=True, slots=True, eq=False)
class GoStruct:
    """A pointer to a struct."""

    entries: Mapping[str, "Value"]


Value = NoValue | None | bool | int | float | complex | str | GoMap | GoSlice | GoStruct
"""None is a nil interface inside a map or slice: it prints as NoValue does, but has no fields."""

DECODE_DATA: Final = GoMap({}, untyped_keys=True, is_nil=True)
"""What the SDK's Decode renders a configuration with: a nil map."""


def to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def from_bytes(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def join(parts: Sequence[str]) -> str:
    """Concatenates as Go does: halves of a character become that character."""
    text = "".join(parts)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return from_bytes(to_bytes(text))
    return text


def from_data(data: object) -> Value:
    """The template value of what a caller gives as data; None is Go's nil data."""
    return NO_VALUE if data is None else _from_object(data)


def _from_object(data: object) -> Value:
    match data:
        case None | bool() | int() | float() | str() | GoMap():
            return data
        case Fields():
            return GoStruct({name: _from_object(value) for name, value in data.items()})
        case Mapping():
            entries = {str(name): _from_object(value) for name, value in data.items()}
            return GoMap(entries, of_strings=isinstance(data, StringMap))
        case list() | tuple():
            items = tuple(_from_object(item) for item in data)
            return GoSlice(items, len(items))
    raise TypeError(f"template data cannot hold {type(data).__name__}")


def type_name(value: Value) -> str:
    """The name of the value's Go type."""
    match value:
        case NoValue() | None:
            return "<nil>"
        case bool():
            return "bool"
        case Byte():
            return "uint8"
        case int():
            return "int"
        case float():
            return "float64"
        case complex():
            return "complex128"
        case str():
            return "string"
        case GoMap():
            return value.type_name
        case GoSlice():
            return "[]interface {}"
        case GoStruct():
            # Go's builders have named types; without a name, the fields are the name.
            fields = "; ".join(f"{name} {type_name(item)}" for name, item in value.entries.items())
            return f"*struct {{ {fields} }}" if fields else "*struct {}"


def is_nil(value: Value) -> bool:
    return (
        value is None or isinstance(value, NoValue) or (isinstance(value, GoMap) and value.is_nil)
    )


def is_true(value: Value) -> bool:
    """Whether a value is not the zero of its type."""
    match value:
        case NoValue() | None:
            return False
        case GoMap():
            return bool(value.entries)
        case GoSlice():
            return value.length > 0
        case GoStruct():
            return True
        case _:
            return bool(value)


def _basic_kind(value: Value) -> str:
    """The group of types a value can be compared in; empty for maps, slices, structs and nil."""
    match value:
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "float64"
        case complex():
            return "complex128"
        case str():
            return "string"
        case _:
            return ""


def equal(one: Value, other: Value) -> bool:
    """Go's ==; nil equals nil only. Raises TemplateError where the types cannot be compared."""
    kind = _basic_kind(one)
    if kind != _basic_kind(other):
        if is_untyped_nil(one) or is_untyped_nil(other):
            return False
        raise _incompatible(one, other)
    if kind == "string":
        assert isinstance(one, str) and isinstance(other, str)
        return str(one) == str(other)
    if kind:
        return one == other
    if is_nil(one) or is_nil(other):
        if not (is_untyped_nil(one) or is_untyped_nil(other) or type(one) is type(other)):
            raise _incompatible(one, other)
        return is_nil(one) == is_nil(other)
    if not (isinstance(one, GoStruct) and isinstance(other, GoStruct)):
        raise TemplateError(f"values of type {type_name(other)} cannot be compared")
    return one is other


def is_untyped_nil(value: Value) -> bool:
    return value is None or isinstance(value, NoValue)


def less(one: Value, other: Value) -> bool:
    """Go's <, for numbers of one kind and strings. Raises TemplateError for anything else."""
    kind = _basic_kind(one)
    if not kind or not _basic_kind(other) or kind in ("bool", "complex128"):
        raise TemplateError(f"values of type {type_name(one)} and {type_name(other)} have no order")
    if kind != _basic_kind(other):
        raise _incompatible(one, other)
    if isinstance(one, str) and isinstance(other, str):
        return to_bytes(one) < to_bytes(other)
    assert isinstance(one, int | float) and isinstance(other, int | float)
    return one < other


def _incompatible(one: Value, other: Value) -> TemplateError:
    return TemplateError(
        f"incompatible types for comparison: {type_name(one)} and {type_name(other)}"
    )
