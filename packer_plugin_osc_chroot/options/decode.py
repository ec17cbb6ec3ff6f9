"""Raw values as Packer hands them over, turned into the types of the options table.

Legacy JSON templates write numbers and booleans as strings at will, and Packer's own builders accept
that; the rules here are theirs (mapstructure's weak decoding), except that a number with a fraction
is refused where a whole one is wanted. HCL2 values arrive already typed by core.
"""

from collections.abc import Mapping
from typing import Any

from packer_plugin_osc_chroot.options.declaration import Kind

UNKNOWN = "<unknown>"
"""What core puts in place of a data source's string that is not evaluated at `packer validate`."""

_TRUE = {"1", "t", "T", "true", "TRUE", "True"}
_FALSE = {"", "0", "f", "F", "false", "FALSE", "False"}


class WrongType(Exception):
    """A value that cannot be the wanted type; `path` leads to it from the option's name."""

    def __init__(self, expected: str, value: object, path: str = "") -> None:
        super().__init__(f"expected {expected}, found {describe(value)}")
        self.path = path


def describe(value: object) -> str:
    """A value in the words of an error: its kind and, where short, itself."""
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{value}"' if len(value) <= 40 else f'"{value[:37]}…"'
        case int() | float():
            return f"the number {value:g}" if isinstance(value, float) else f"the number {value}"
        case list():
            return "a list"
        case dict():
            return "a map"
    return type(value).__name__


def decode(kind: Kind, value: object) -> Any:
    """The value as its kind's Python type: str, bool, int, tuples, or a dict of strings.

    Raises WrongType. None is not a value and must be handled by the caller.
    """
    match kind:
        case Kind.STRING:
            return _string(value)
        case Kind.BOOL:
            return _bool(value)
        case Kind.INT:
            return _int(value)
        case Kind.STRINGS:
            return _strings(value, kind.described)
        case Kind.TUPLES:
            return _tuples(value)
        case Kind.STRING_MAP:
            return _string_map(value)


def _string(value: object, path: str = "") -> str:
    match value:
        case str():
            return value
        case bool():
            return "1" if value else "0"
        case int():
            return str(value)
        case float():
            return str(int(value)) if value.is_integer() else repr(value)
    raise WrongType("a string", value, path)


def _bool(value: object) -> bool:
    match value:
        case bool():
            return value
        case int() | float():
            return value != 0
        case str() if value in _TRUE:
            return True
        case str() if value in _FALSE or value == UNKNOWN:
            return False
    raise WrongType(Kind.BOOL.described, value)


def _int(value: object) -> int:
    match value:
        case bool():
            return int(value)
        case int():
            return value
        case float() if value.is_integer():
            return int(value)
        case str() if value in ("", UNKNOWN):
            return 0
        case str():
            try:
                # Base 0 takes 0x10 as Go does; a leading zero alone means octal there.
                digits = value.lstrip("+-")
                if len(digits) > 1 and digits.isdigit() and digits.startswith("0"):
                    return int(value, 8)
                return int(value, 0)
            except ValueError:
                pass
    raise WrongType(Kind.INT.described, value)


def _strings(value: object, expected: str, path: str = "") -> tuple[str, ...]:
    match value:
        case str():
            return tuple(value.split(",")) if value else ()
        case list():
            return tuple(_string(item, f"{path}[{i}]") for i, item in enumerate(value))
        case dict():
            raise WrongType(expected, value, path)
    return (_string(value, path),)


def _tuples(value: object) -> tuple[tuple[str, ...], ...]:
    if value == UNKNOWN:
        return ()
    if not isinstance(value, list):
        raise WrongType(Kind.TUPLES.described, value)
    for i, item in enumerate(value):
        if not isinstance(item, list):
            raise WrongType("a list of strings", item, f"[{i}]")
    return tuple(_strings(item, "a list of strings", f"[{i}]") for i, item in enumerate(value))


def _string_map(value: object) -> dict[str, str]:
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        # HCL1 and weak decoding: a list of maps is their union, later ones winning.
        merged: dict[str, object] = {}
        for item in value:
            merged.update(item)
        value = merged
    if value == UNKNOWN or value == "":
        return {}
    if not isinstance(value, dict):
        raise WrongType(Kind.STRING_MAP.described, value)
    return {str(key): _string(item, f".{key}") for key, item in value.items()}
