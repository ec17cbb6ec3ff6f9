"""Go's own template functions: printing, comparing, indexing, escaping.

`and` and `or` are here by their signature only: they do not evaluate all their arguments, so the
compiler makes them itself.
"""

import urllib.parse
from collections.abc import Callable

from packer_plugin_osc_chroot.template import formatting, values
from packer_plugin_osc_chroot.template.errors import TemplateError
from packer_plugin_osc_chroot.template.quoting import is_printable, is_raw_byte
from packer_plugin_osc_chroot.template.scope import Call, Function, Parameter
from packer_plugin_osc_chroot.template.values import (
    NO_VALUE,
    Byte,
    GoMap,
    GoSlice,
    GoStruct,
    NoValue,
    Value,
    from_bytes,
    is_true,
    is_untyped_nil,
    to_bytes,
    type_name,
)

SHORT_CIRCUIT = frozenset(["and", "or"])


def _not(_call: Call, value: Value) -> bool:
    return not is_true(value)


def _eq(_call: Call, first: Value, *others: Value) -> bool:
    if not others:
        raise TemplateError("missing argument for comparison")
    return any(values.equal(first, other) for other in others)


def _ne(_call: Call, one: Value, other: Value) -> bool:
    return not values.equal(one, other)


def _lt(_call: Call, one: Value, other: Value) -> bool:
    return values.less(one, other)


def _le(_call: Call, one: Value, other: Value) -> bool:
    return values.less(one, other) or values.equal(one, other)


def _gt(_call: Call, one: Value, other: Value) -> bool:
    return not (values.less(one, other) or values.equal(one, other))


def _ge(_call: Call, one: Value, other: Value) -> bool:
    return not values.less(one, other)


def _len(_call: Call, value: Value) -> int:
    match value:
        case str():
            return len(to_bytes(value))
        case GoMap():
            return len(value.entries)
        case GoSlice():
            return value.length
    raise TemplateError(f"len of a value of type {type_name(value)}")


def _position(index: Value, limit: int) -> int:
    """An index into a string or slice of so many elements, its end included."""
    if isinstance(index, bool) or not isinstance(index, int):
        raise TemplateError(f"cannot index a string or slice with type {type_name(index)}")
    if not 0 <= index <= limit:
        raise TemplateError(f"index out of range: {index}")
    return int(index)


def _index(_call: Call, item: Value, *indexes: Value) -> Value:
    if is_untyped_nil(item):
        raise TemplateError("index of untyped nil")
    for index in indexes:
        item = _element(item, index)
    return item


def _element(item: Value, index: Value) -> Value:
    match item:
        case str():
            data = to_bytes(item)
            position = _position(index, len(data) - 1)
            return Byte(data[position])
        case GoSlice():
            return item.items[_position(index, item.length - 1)]
        case GoMap():
            return _entry(item, index)
    raise TemplateError(f"cannot index a value of type {type_name(item)}")


def _entry(item: GoMap, key: Value) -> Value:
    if isinstance(key, str):
        missing = "" if item.of_strings else None
        return item.entries.get(str(key), missing)
    if item.untyped_keys:
        if isinstance(key, GoMap | GoSlice) and not item.is_nil:
            raise TemplateError(f"a map has no keys of type {type_name(key)}")
        return None
    raise TemplateError(f"a map's key is a string, not of type {type_name(key)}")


def _slice(_call: Call, item: Value, *indexes: Value) -> Value:
    if len(indexes) > 3:
        raise TemplateError(f"too many slice indexes: {len(indexes)}")
    match item:
        case str():
            if len(indexes) == 3:
                raise TemplateError("a string cannot be sliced by three indexes")
            data = to_bytes(item)
            low, high, _ = _bounds(indexes, len(data), len(data))
            return from_bytes(data[low:high])
        case GoSlice():
            low, high, end = _bounds(indexes, item.length, len(item.items))
            return GoSlice(item.items[low:end], high - low)
    raise TemplateError(f"cannot slice a value of type {type_name(item)}")


def _bounds(indexes: tuple[Value, ...], length: int, capacity: int) -> tuple[int, int, int]:
    bounds = [0, length, capacity]
    for at, index in enumerate(indexes):
        bounds[at] = _position(index, capacity)
    low, high, end = bounds
    if low > high or high > end:
        raise TemplateError(f"invalid slice indexes: {low}, {high}, {end}")
    return low, high, end


def _call(_call: Call, function: Value, *_arguments: Value) -> Value:
    raise TemplateError(f"call of a value of type {type_name(function)}, which is no function")


def _print(_call: Call, *arguments: Value) -> str:
    return formatting.sprint(arguments)


def _println(_call: Call, *arguments: Value) -> str:
    return formatting.sprintln(arguments)


def _printf(_call: Call, layout: str, *arguments: Value) -> str:
    return formatting.sprintf(layout, arguments)


def _as_text(arguments: tuple[Value, ...]) -> str:
    """The text that the escaping functions escape: nil shows as in an action's output."""
    shown = [value if _prints_itself(value) else formatting.show(value) for value in arguments]
    return formatting.sprint(shown)


def _prints_itself(value: Value) -> bool:
    return not (value is None or isinstance(value, NoValue | GoStruct))


_HTML = str.maketrans(
    {"\0": "\ufffd", '"': "&#34;", "'": "&#39;", "&": "&amp;", "<": "&lt;", ">": "&gt;"}
)


def _html(_call: Call, *arguments: Value) -> str:
    return _as_text(arguments).translate(_HTML)


_JAVASCRIPT = {
    "\\": r"\\",
    "'": r"\'",
    '"': r"\"",
    "<": r"\u003C",
    ">": r"\u003E",
    "&": r"\u0026",
    "=": r"\u003D",
}


def _javascript(character: str) -> str:
    escape = _JAVASCRIPT.get(character)
    if escape is not None:
        return escape
    code = ord(character)
    if code < 0x20:
        return f"\\u00{code:02X}"
    if code < 0x80 or is_raw_byte(character) or is_printable(character):
        return character
    return f"\\u{code:04X}"


def _js(_call: Call, *arguments: Value) -> str:
    return "".join(map(_javascript, _as_text(arguments)))


def _urlquery(_call: Call, *arguments: Value) -> str:
    return urllib.parse.quote_plus(to_bytes(_as_text(arguments)), safe="")


def _compiled(_call: Call, *_arguments: Value) -> Value:
    return NO_VALUE


_ANY = Parameter.ANY
_SIGNATURES: tuple[
    tuple[str, tuple[Parameter, ...], Parameter | None, Callable[..., Value]], ...
] = (
    ("and", (_ANY,), _ANY, _compiled),
    ("or", (_ANY,), _ANY, _compiled),
    ("not", (_ANY,), None, _not),
    ("call", (_ANY,), _ANY, _call),
    ("html", (), _ANY, _html),
    ("js", (), _ANY, _js),
    ("urlquery", (), _ANY, _urlquery),
    ("index", (_ANY,), _ANY, _index),
    ("slice", (_ANY,), _ANY, _slice),
    ("len", (_ANY,), None, _len),
    ("print", (), _ANY, _print),
    ("println", (), _ANY, _println),
    ("printf", (Parameter.STRING,), _ANY, _printf),
    ("eq", (_ANY,), _ANY, _eq),
    ("ne", (_ANY, _ANY), None, _ne),
    ("lt", (_ANY, _ANY), None, _lt),
    ("le", (_ANY, _ANY), None, _le),
    ("gt", (_ANY, _ANY), None, _gt),
    ("ge", (_ANY, _ANY), None, _ge),
)

BUILTINS = {signature[0]: Function(*signature) for signature in _SIGNATURES}
