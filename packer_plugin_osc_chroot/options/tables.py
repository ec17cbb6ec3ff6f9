"""What a template holds for the rows of a table: names looked up, values decoded, each checked.

Blocks are read the same way, with the table of the block; what is wrong inside is reported with the
path that leads to it.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from packer_plugin_osc_chroot.options.declaration import Block, Kind, Option, Spelling, options_of
from packer_plugin_osc_chroot.options.decode import UNKNOWN, decode, holds_unknown, wrong_type
from packer_plugin_osc_chroot.options.report import Report


def read_rows(
    rows: Sequence[Option], raw: Mapping[str, Any], path: str, report: Report
) -> dict[str, Any]:
    """What `raw` holds for `rows`, by the rows' own names; `path` leads to `raw`.

    Names that no row has are errors. What is not set is not in the result; a row with an error
    anywhere inside has failed in the report under its own name too.
    """
    prefix = f"{path}." if path else ""
    _report_unknown(rows, raw, prefix, report)
    values: dict[str, Any] = {}
    for row in rows:
        value = _read_row(row, raw, prefix, report)
        if any(report.has_failed(f"{prefix}{spelling.name}") for spelling in row.spellings):
            report.fail(f"{prefix}{row.name}")
        elif row.required and not value:
            report.error(f"{prefix}{row.name}", "required, and not set")
        if value is not None:
            values[row.name] = value
    return values


def _read_row(row: Option, raw: Mapping[str, Any], prefix: str, report: Report) -> Any:
    given = [each for each in row.spellings if _is_given(raw.get(each.name), each.kind)]
    for spelling in given:
        if spelling.is_older:
            report.warn(
                f"{prefix}{spelling.name}",
                f'an older spelling; write "{row.name}", which is the same',
            )
    # Blocks of a map's entries may stand beside the map itself.
    names = [f"{prefix}{each.name}" for each in given if each.name != row.block]
    if len(names) > 1:
        report.error(names[1], f"{' and '.join(names)} are the same option; give one of them")
        return None
    if names:
        report.write_as(f"{prefix}{row.name}", names[0])
    result: Any = None
    for spelling in given:
        place = f"{prefix}{spelling.name}"
        value = _read_value(spelling, raw[spelling.name], place, report)
        if value is None:
            continue
        if spelling.name == row.single:
            if value and row.each and not holds_unknown(value) and (problem := row.each(value)):
                report.error(place, problem)
            return (value,) if value else None
        if spelling.name == row.block:
            value = _entries(row, value, result or {}, place, report)
        joined = {**result, **value} if result else value
        # Empty strings and 0 are "not set"; a duration is not, when it was written.
        if (value or row.kind is Kind.DURATION) and not report.has_failed(place):
            # What stands in the map has been looked at where it stands.
            _check_items(row, value, place, report)
            _check(row, joined, place, report)
        result = joined
    return result


def _check(row: Option, value: Any, path: str, report: Report) -> None:
    """What core does not know yet passes."""
    if row.check and not holds_unknown(value) and (problem := row.check(value)):
        report.error(path, problem)


def _check_items(row: Option, value: Any, path: str, report: Report) -> None:
    """Of a list or a map, each alone."""
    if row.each is None:
        return
    if row.kind is Kind.STRING_MAP:
        items = [(f".{name}", (name, text)) for name, text in value.items()]
    else:
        items = [(f"[{i}]", item) for i, item in enumerate(value)]
    for step, item in items:
        if not holds_unknown(item) and (problem := row.each(item)):
            report.error(f"{path}{step}", problem)


def _is_given(value: object, kind: Kind) -> bool:
    # HCL2 gives an empty list for a block that is not there.
    return value is not None and not (kind is Kind.BLOCKS and value == [])


def _read_value(spelling: Spelling, value: object, path: str, report: Report) -> Any:
    if spelling.table is None:
        return decode(spelling.kind, value, path, report)
    if spelling.kind is Kind.BLOCK:
        return _block(spelling.table, value, path, report)
    if value == UNKNOWN or value == "":
        return ()
    if isinstance(value, dict):
        # Weak decoding: one is a list of one.
        value = [value] if value else []
    if not isinstance(value, list):
        wrong_type(Kind.BLOCKS, value, path, report)
        return ()
    return tuple(
        _block(spelling.table, item, f"{path}[{i}]", report) for i, item in enumerate(value)
    )


def _block(table: type[Block], value: object, path: str, report: Report) -> Block:
    make: Callable[..., Block] = table
    if not isinstance(value, dict):
        if value != UNKNOWN:
            wrong_type(Kind.BLOCK, value, path, report)
        return make()
    given = {str(key): item for key, item in value.items() if item is not None}
    block = make(**read_rows(options_of(table), given, path, report))
    for name, problem in block.problems():
        if not report.has_failed(f"{path}.{name}"):
            report.error(f"{path}.{name}", problem)
    return block


def _entries(
    row: Option, blocks: Sequence[Block], before: Mapping[str, str], path: str, report: Report
) -> dict[str, str]:
    """Blocks of a key and a value, as a map. As with Packer's own builders, the last of a key counts
    (KeyValues.CopyOn in the SDK), also before what the map itself has; here that is said."""
    assert row.pair is not None, "a row with a block has its table"
    key_name, value_name = (inner.name for inner in options_of(row.pair))
    entries: dict[str, str] = {}
    for i, block in enumerate(blocks):
        key, value = getattr(block, key_name), getattr(block, value_name)
        if key and UNKNOWN not in key and (key in before or key in entries):
            report.warn(f"{path}[{i}].{key_name}", f'"{key}" is given before; this one counts')
        entries[key] = value
    return entries


def _report_unknown(
    rows: Sequence[Option], raw: Mapping[str, Any], prefix: str, report: Report
) -> None:
    known = {
        spelling.name: row.name if spelling.is_older else spelling.name
        for row in rows
        for spelling in row.spellings
    }
    for name in sorted(raw):
        if name in known or (not prefix and name.startswith("packer_")):
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        hint = (
            f'did you mean "{known[near[0]]}"?'
            if near
            else "see the documentation for what there is"
        )
        report.error(f"{prefix}{name}", f"unknown option; {hint}")
