"""Whatever JSON a template holds, Prepare answers with errors or a configuration, and in time."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from wrong_configurations import DATA, GOOD, SCRATCH

from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.options.declaration import Kind, options_of
from packer_plugin_osc_chroot.options.decode import decode
from packer_plugin_osc_chroot.options.prepare import Prepared, prepare
from packer_plugin_osc_chroot.options.report import Report

NAMES = [spelling.name for row in options_of(Config) for spelling in row.spellings]
INNER = [
    spelling.name
    for row in options_of(Config)
    if row.table
    for inner in options_of(row.table)
    for spelling in inner.spellings
]
_TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", "true", "15", "15m", "<unknown>", "all", "/dev/sdb", "xvda", "io1", "{{.Device}}"]
        + ["{{timestamp}}", "{{", "{{user `a`}}", "eu-west-2", "ami-12345678", "0x1F", "007", "-0"]
    ),
)
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    _TEXTS,
)
VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(INNER), _TEXTS), inner, max_size=4),
    ),
    max_leaves=12,
)
CONFIGURATIONS = st.dictionaries(
    st.one_of(st.sampled_from(NAMES), st.text(max_size=12)), VALUES, max_size=8
)
_MAPPINGS = st.fixed_dictionaries(
    {"device_name": _TEXTS},
    optional={name: _SCALARS for name in INNER if name != "device_name"},
)


def prepared(*raw: Any) -> Prepared:
    return prepare(raw, started_at=datetime.now(UTC), environ={})


@settings(max_examples=400, deadline=2000)
@given(st.sampled_from([{}, GOOD, SCRATCH]), CONFIGURATIONS)
def test_any_json_is_answered(base: dict[str, Any], options: dict[str, Any]) -> None:
    result = prepared({**base, **options}, {"packer_build_name": "x"})
    assert (result.config is None) == bool(result.errors)
    for message in (*result.errors, *result.warnings):
        assert ": " in message


@settings(max_examples=200, deadline=2000)
@given(st.lists(_MAPPINGS, max_size=4))
def test_any_mappings_are_answered(mappings: list[dict[str, Any]]) -> None:
    for base in (GOOD, SCRATCH):
        prepared({**base, "omi_block_device_mappings": mappings})


@given(st.sampled_from(sorted(set(Kind) - {Kind.BLOCK, Kind.BLOCKS}, key=str)), VALUES)
def test_decoding_reports_or_gives_the_kind(kind: Kind, value: Any) -> None:
    if value is None:
        return
    report = Report()
    found = decode(kind, value, "option", report)
    expected: dict[Kind, type | tuple[type, ...]] = {
        Kind.STRING: str,
        Kind.BOOL: bool,
        Kind.INT: int,
        Kind.DURATION: (float, int, type(None)),
        Kind.STRINGS: tuple,
        Kind.TUPLES: tuple,
        Kind.STRING_MAP: dict,
    }
    assert isinstance(found, expected[kind])
    assert all(error.startswith("option") for error in report.errors)


@given(st.integers(min_value=-(10**12), max_value=10**12))
def test_numbers_may_be_texts(number: int) -> None:
    report = Report()
    texts = [str(number), hex(number), oct(number), bin(number), number, float(number)]
    assert {decode(Kind.INT, text, "n", report) for text in texts} == {number}
    assert report.errors == []


TEXT = st.characters(codec="utf-8", exclude_characters="\0")


@given(
    st.dictionaries(st.text(TEXT, min_size=1, max_size=10), st.text(TEXT, max_size=10), max_size=5)
)
def test_tags_as_a_map_and_as_blocks_are_the_same(tags: dict[str, str]) -> None:
    if any("{{" in text for pair in tags.items() for text in pair):
        return
    blocks = [{"key": key, "value": value} for key, value in tags.items()]
    as_map, as_blocks = prepared({**GOOD, "tags": tags}), prepared({**GOOD, "tag": blocks})
    assert as_map.config and as_blocks.config
    assert (as_map.config.tags or None) == (as_blocks.config.tags or None)


@given(st.permutations(list(range(4))))
def test_paths_keep_their_positions(order: list[int]) -> None:
    good = {**DATA, "device_name": "/dev/sdc"}
    mappings: list[Any] = [good, 7, {**DATA, "iops": "x"}, {**DATA, "volume_type": "gp3"}]
    shuffled = [mappings[i] for i in order]
    errors = prepared({**GOOD, "omi_block_device_mappings": shuffled}).errors
    for which, step in ((1, ""), (2, ".iops"), (3, ".volume_type")):
        path = f"omi_block_device_mappings[{order.index(which)}]{step}: "
        assert any(error.startswith(path) for error in errors)
