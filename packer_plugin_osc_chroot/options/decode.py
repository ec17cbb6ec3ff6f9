"""Raw values as Packer hands them over, turned into the types of the options table.

Legacy JSON templates write numbers and booleans as strings at will, and Packer's own builders accept
that; the rules here are theirs (mapstructure's weak decoding), and a test compares the two. Refused
here is what can only be a mistake: a number with a fraction or beyond 64 bits where a whole one is
wanted, a number without unit as a duration, a map or a single value as a list of lists. A map's null
leaves its key out.
HCL2 values arrive already typed by core.
"""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Any

from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.options import checks
from packer_plugin_osc_chroot.options.declaration import Kind
from packer_plugin_osc_chroot.options.duration import parse_duration
from packer_plugin_osc_chroot.options.report import Report

UNKNOWN = "<unknown>"
"""What core puts in place of a data source's string that is not evaluated at `packer validate`."""

_MAX_INT = 2**63 - 1
_TRUE = {"1", "t", "T", "true", "TRUE", "True"}
_FALSE = {"", "0", "f", "F", "false", "FALSE", "False"}


def load_json(text: str | bytes) -> Any:
    """What the shim sends, whole numbers of any length included: beyond floats' range, infinite."""
    return json.loads(text, parse_int=lambda digits: (int if len(digits) < 300 else float)(digits))


def load_config(text: bytes) -> dict[str, Any]:
    """One configuration, as `load_json`. Raises BuildError, in words for the user, where it is none."""
    try:
        found = load_json(text)
    except RecursionError:
        raise BuildError("an option's value is nested too deep") from None
    except ValueError as error:
        raise BuildError(f"the shim sent a configuration that is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise BuildError("the shim sent a configuration that is no object")
    return found


def holds_unknown(value: object) -> bool:
    """Whether something that core does not know yet is in a decoded value."""
    match value:
        case str():
            return UNKNOWN in value
        case tuple():
            return any(holds_unknown(item) for item in value)
        case Mapping():
            return any(holds_unknown(item) for pair in value.items() for item in pair)
    return False


def describe(value: object) -> str:
    """A value in the words of an error: its kind and, where short, itself."""
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{_shortened(value)}"'
        case int() | float():
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            return f"the number {_shortened(shown)}"
        case list():
            return "a list"
        case dict():
            return "a map"
    return type(value).__name__


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:36]}…"


def decode(kind: Kind, value: object, path: str, report: Report) -> Any:
    """The value as its kind's Python type: str, bool, int, seconds, tuples, or a dict of strings.

    What is wrong goes to the report, and something of the right type is returned; None where the
    value says that nothing is set. A None given must be handled by the caller, and so must blocks.
    """
    match kind:
        case Kind.STRING:
            return _string(value, path, report)
        case Kind.BOOL:
            return _bool(value, path, report)
        case Kind.INT:
            return _int(value, path, report)
        case Kind.DURATION:
            return _duration(value, path, report)
        case Kind.STRINGS:
            return _strings(value, path, report)
        case Kind.TUPLES:
            return _tuples(value, path, report)
        case Kind.STRING_MAP:
            return _string_map(value, path, report)
    raise AssertionError(f"{kind} is no kind of a single value")


def wrong_type(kind: Kind, value: object, path: str, report: Report) -> None:
    report.error(path, f"expected {kind.value}, found {describe(value)}")


def _string(value: object, path: str, report: Report) -> str:
    match value:
        case str():
            if problem := checks.text(value):
                report.error(path, problem)
                return ""
            return value
        case bool():
            return "1" if value else "0"
        case int():
            return str(value)
        case float() if math.isfinite(value):
            # Go writes all digits and no exponent.
            return format(Decimal(repr(value)), "f").removesuffix(".0")
        case None:
            # A list's null.
            return ""
    wrong_type(Kind.STRING, value, path, report)
    return ""


def _bool(value: object, path: str, report: Report) -> bool:
    match value:
        case bool():
            return value
        case int() | float():
            return value != 0
        case str() if value in _TRUE:
            return True
        case str() if value in _FALSE or value == UNKNOWN:
            return False
    wrong_type(Kind.BOOL, value, path, report)
    return False


def _int(value: object, path: str, report: Report) -> int:
    number = _whole_number(value)
    if number is None or abs(number) > _MAX_INT:
        wrong_type(Kind.INT, value, path, report)
        return 0
    return number


def _whole_number(value: object) -> int | None:
    match value:
        case bool() | int():
            return int(value)
        case float() if value.is_integer():
            return int(value)
        case str() if value in ("", UNKNOWN):
            return 0
        case str() if value.isascii() and not any(char.isspace() for char in value):
            # Base 0 takes 0x10 as Go does; a leading zero alone means octal there.
            digits = value.lstrip("+-")
            is_octal = len(digits) > 1 and digits.isdigit() and digits.startswith("0")
            with suppress(ValueError):
                return int(value, 8 if is_octal else 0)
    return None


def _duration(value: object, path: str, report: Report) -> float | None:
    if value == UNKNOWN or value == "":
        return None
    seconds = parse_duration(value) if isinstance(value, str) else None
    if seconds is None:
        wrong_type(Kind.DURATION, value, path, report)
    return seconds


def _strings(value: object, path: str, report: Report) -> tuple[str, ...]:
    match value:
        case str():
            text = _string(value, path, report)
            return tuple(text.split(",")) if text else ()
        case list():
            return tuple(_string(item, f"{path}[{i}]", report) for i, item in enumerate(value))
        case dict():
            wrong_type(Kind.STRINGS, value, path, report)
            return ()
    return (_string(value, path, report),)


def _tuples(value: object, path: str, report: Report) -> tuple[tuple[str, ...], ...]:
    if value == UNKNOWN:
        return ()
    if not isinstance(value, list):
        wrong_type(Kind.TUPLES, value, path, report)
        return ()
    tuples = []
    for i, item in enumerate(value):
        if isinstance(item, list | str):
            tuples.append(_strings(item, f"{path}[{i}]", report))
        else:
            wrong_type(Kind.STRINGS, item, f"{path}[{i}]", report)
    return tuple(tuples)


def _string_map(value: object, path: str, report: Report) -> dict[str, str]:
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        # HCL1 and weak decoding: a list of maps is their union, later ones winning.
        merged: dict[str, object] = {}
        for item in value:
            merged.update(item)
        value = merged
    if value == UNKNOWN:
        return {}
    if not isinstance(value, dict):
        wrong_type(Kind.STRING_MAP, value, path, report)
        return {}
    # Null is "not set" everywhere: `Name = var.named ? "x" : null` is no tag where it is null.
    return {
        _string(key, path, report): _string(item, f"{path}.{key}", report)
        for key, item in value.items()
        if item is not None
    }
