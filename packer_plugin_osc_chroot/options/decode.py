"""Raw values as Packer hands them over, turned into the types of the options table.

Legacy JSON templates write numbers and booleans as strings at will, and Packer's own builders accept
that; the rules here are theirs (mapstructure's weak decoding), except that a number with a fraction
is refused where a whole one is wanted. HCL2 values arrive already typed by core.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from packer_plugin_osc_chroot.options.declaration import Kind, Option, options_of
from packer_plugin_osc_chroot.options.duration import parse_duration
from packer_plugin_osc_chroot.options.report import Report

UNKNOWN = "<unknown>"
"""What core puts in place of a data source's string that is not evaluated at `packer validate`."""

_TRUE = {"1", "t", "T", "true", "TRUE", "True"}
_FALSE = {"", "0", "f", "F", "false", "FALSE", "False"}


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


def decode(kind: Kind, value: object, path: str, report: Report, table: type | None = None) -> Any:
    """The value as its kind's Python type: str, bool, int, seconds, tuples, a dict of strings, or an
    instance of `table` (a tuple of them for BLOCKS).

    What is wrong goes to the report, and something of the right type is returned; None where the
    value says that nothing is set. A None given must be handled by the caller.
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
        case Kind.BLOCK:
            return _block(value, path, report, table)
        case Kind.BLOCKS:
            return _blocks(value, path, report, table)


def decode_rows(
    rows: Sequence[Option], raw: Mapping[str, Any], path: str, report: Report
) -> dict[str, Any]:
    """What `raw` holds for the rows of a table, by the rows' own names; `path` leads to `raw`.

    Names that no row has are errors. A row that is not given is not in the result.
    """
    prefix = f"{path}." if path else ""
    _report_unknown(rows, raw, prefix, report)
    values: dict[str, Any] = {}
    for row in rows:
        given = [
            (spelling, raw[spelling.name])
            for spelling in row.spellings
            if _is_given(raw.get(spelling.name), spelling.kind)
        ]
        for spelling, _ in given:
            if spelling.is_older:
                report.warn(
                    f"{prefix}{spelling.name}", f"the older spelling of {row.name}: write that"
                )
        firm = [each for each in given if each[0].name != row.block]
        if len(firm) > 1:
            names = " and ".join(f"{prefix}{spelling.name}" for spelling, _ in firm)
            report.error(
                f"{prefix}{firm[1][0].name}",
                f"{names} mean the same; give {prefix}{row.name} only",
            )
            continue
        for spelling, value in given:
            place = f"{prefix}{spelling.name}"
            found = decode(spelling.kind, value, place, report, spelling.table)
            if spelling.name == row.single:
                found = (found,) if found else ()
            elif spelling.name == row.block:
                found = {**values.get(row.name, {}), **_pairs(row, found)}
            if found is not None:
                values[row.name] = found
    return values


def _is_given(value: object, kind: Kind) -> bool:
    # HCL2 gives an empty list for a block that is not there.
    return value is not None and not (kind is Kind.BLOCKS and value == [])


def _pairs(row: Option, blocks: Sequence[Any]) -> dict[str, str]:
    """Blocks of a key and a value, as a map."""
    assert row.pair is not None, "a row with a block has its table"
    key, value = (inner.name for inner in options_of(row.pair))
    return {getattr(block, key): getattr(block, value) for block in blocks}


def _report_unknown(
    rows: Sequence[Option], raw: Mapping[str, Any], prefix: str, report: Report
) -> None:
    known = [spelling.name for row in rows for spelling in row.spellings]
    for name in sorted(raw):
        if name in known or (not prefix and name.startswith("packer_")):
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        hint = f'did you mean "{near[0]}"?' if near else "see the documentation for what there is"
        report.error(f"{prefix}{name}", f"unknown option; {hint}")


def _wrong(expected: str, value: object, path: str, report: Report) -> None:
    report.error(path, f"expected {expected}, found {describe(value)}")


def _string(value: object, path: str, report: Report) -> str:
    match value:
        case str():
            return value
        case bool():
            return "1" if value else "0"
        case int():
            return str(value)
        case float():
            return str(int(value)) if value.is_integer() else repr(value)
    _wrong(Kind.STRING.value, value, path, report)
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
    _wrong(Kind.BOOL.value, value, path, report)
    return False


def _int(value: object, path: str, report: Report) -> int:
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
    _wrong(Kind.INT.value, value, path, report)
    return 0


def _duration(value: object, path: str, report: Report) -> float | None:
    if value == UNKNOWN or value == "":
        return None
    seconds = parse_duration(value) if isinstance(value, str) else None
    if seconds is None:
        _wrong(Kind.DURATION.value, value, path, report)
    return seconds


def _strings(value: object, path: str, report: Report) -> tuple[str, ...]:
    match value:
        case str():
            return tuple(value.split(",")) if value else ()
        case list():
            return tuple(_string(item, f"{path}[{i}]", report) for i, item in enumerate(value))
        case dict():
            _wrong(Kind.STRINGS.value, value, path, report)
            return ()
    return (_string(value, path, report),)


def _tuples(value: object, path: str, report: Report) -> tuple[tuple[str, ...], ...]:
    if value == UNKNOWN:
        return ()
    if not isinstance(value, list):
        _wrong(Kind.TUPLES.value, value, path, report)
        return ()
    tuples = []
    for i, item in enumerate(value):
        if isinstance(item, list):
            tuples.append(_strings(item, f"{path}[{i}]", report))
        else:
            _wrong(Kind.STRINGS.value, item, f"{path}[{i}]", report)
    return tuple(tuples)


def _string_map(value: object, path: str, report: Report) -> dict[str, str]:
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        # HCL1 and weak decoding: a list of maps is their union, later ones winning.
        merged: dict[str, object] = {}
        for item in value:
            merged.update(item)
        value = merged
    if value == UNKNOWN or value == "":
        return {}
    if not isinstance(value, dict):
        _wrong(Kind.STRING_MAP.value, value, path, report)
        return {}
    return {str(key): _string(item, f"{path}.{key}", report) for key, item in value.items()}


def _block(value: object, path: str, report: Report, table: type | None) -> Any:
    assert table is not None, "a block has a table"
    if value == UNKNOWN:
        return None
    if not isinstance(value, dict):
        _wrong(Kind.BLOCK.value, value, path, report)
        return None
    given = {key: item for key, item in value.items() if item is not None}
    return table(**decode_rows(options_of(table), given, path, report))


def _blocks(value: object, path: str, report: Report, table: type | None) -> tuple[Any, ...]:
    if value == UNKNOWN or value == "":
        return ()
    if isinstance(value, dict):
        # Weak decoding: one is a list of one.
        value = [value] if value else []
    if not isinstance(value, list):
        _wrong(Kind.BLOCKS.value, value, path, report)
        return ()
    blocks = [_block(item, f"{path}[{i}]", report, table) for i, item in enumerate(value)]
    return tuple(block for block in blocks if block is not None)
