"""Durations in Go's notation. Expected values and refusals: time.ParseDuration's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packer_plugin_osc_chroot.options.duration import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("15m", 900),
        ("1h30m", 5400),
        ("1.5s", 1.5),
        (".5h", 1800),
        ("5.s", 5),
        ("+5s", 5),
        ("-3m", -180),
        ("100ms", 0.1),
        ("1h1m1s", 3661),
        ("7us", 7e-6),
        ("7µs", 7e-6),
        ("7μs", 7e-6),
        ("30s1m", 90),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", "15", "m", "1d", "1 h", "s5", ".s", "+", "--5s", "1e3s", "5S", "1h-5m", "9" * 99 + "h"],
)
def test_refused(text: str) -> None:
    assert parse_duration(text) is None


@given(st.integers(min_value=0, max_value=10**7))
def test_what_is_shown_can_be_written(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds
