"""Durations as Go and Packer write them: `15m`, `1h30m`, `1.5s`. Source: Go's time.ParseDuration."""

import re

_UNITS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_PART = re.compile(rf"({_NUMBER})(ns|us|µs|μs|ms|s|m|h)")
_WHOLE = re.compile(rf"([+-]?)((?:{_NUMBER}(?:ns|us|µs|μs|ms|s|m|h))+|0)")
# Go counts nanoseconds in 64 bits: some 292 years.
_MAX_SECONDS = 9_223_372_036.0
_MAX_CHARACTERS = 100


def parse_duration(text: str) -> float | None:
    """The duration in seconds, or None where the text is none."""
    if len(text) > _MAX_CHARACTERS or not (match := _WHOLE.fullmatch(text)):
        return None
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(match[2]))
    if seconds > _MAX_SECONDS:
        return None
    return -seconds if match[1] == "-" else seconds


def format_duration(seconds: float) -> str:
    """Whole seconds in that notation: 5400 is `1h30m`."""
    parts = []
    for unit, size in (("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(int(seconds), size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
