"""Times as text: Go's layouts (`2006-01-02`) and the strftime directives that Packer knows.

Month and day names are English whatever the locale, as in Go; the time is always UTC.
"""

import re
from collections.abc import Callable
from datetime import datetime

_MONTHS = (
    "January February March April May June July August September October November December"
).split()
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def _hour12(time: datetime) -> int:
    return time.hour % 12 or 12


def _month(time: datetime) -> str:
    return _MONTHS[time.month - 1]


def _day_of_year(time: datetime) -> int:
    return time.timetuple().tm_yday


_ELEMENTS: dict[str, Callable[[datetime], str]] = {
    "January": _month,
    "Jan": lambda time: _month(time)[:3],
    "Monday": lambda time: _DAYS[time.weekday()],
    "Mon": lambda time: _DAYS[time.weekday()][:3],
    "MST": lambda time: "UTC",
    "01": lambda time: f"{time.month:02d}",
    "02": lambda time: f"{time.day:02d}",
    "03": lambda time: f"{_hour12(time):02d}",
    "04": lambda time: f"{time.minute:02d}",
    "05": lambda time: f"{time.second:02d}",
    "06": lambda time: f"{time.year % 100:02d}",
    "002": lambda time: f"{_day_of_year(time):03d}",
    "15": lambda time: f"{time.hour:02d}",
    "1": lambda time: str(time.month),
    "2006": lambda time: f"{time.year:04d}",
    "2": lambda time: str(time.day),
    "_2006": lambda time: f"_{time.year:04d}",
    "_2": lambda time: f"{time.day:2d}",
    "__2": lambda time: f"{_day_of_year(time):3d}",
    "3": lambda time: str(_hour12(time)),
    "4": lambda time: str(time.minute),
    "5": lambda time: str(time.second),
    "PM": lambda time: "PM" if time.hour >= 12 else "AM",
    "pm": lambda time: "pm" if time.hour >= 12 else "am",
    "-070000": lambda time: "+000000",
    "-07:00:00": lambda time: "+00:00:00",
    "-0700": lambda time: "+0000",
    "-07:00": lambda time: "+00:00",
    "-07": lambda time: "+00",
    "Z070000": lambda time: "Z",
    "Z07:00:00": lambda time: "Z",
    "Z0700": lambda time: "Z",
    "Z07:00": lambda time: "Z",
    "Z07": lambda time: "Z",
}

# "Jan" and "Mon" before a lower-case letter are part of a word; a fraction of a second ends where
# its zeros or nines do. Which alternative comes first is what Go tries first at that place.
_ELEMENT = re.compile(
    r"January|Jan(?![a-z])|Monday|Mon(?![a-z])|MST|0[1-6]|002|15|1|2006|2|_2006|_2|__2|3|4|5|PM|pm"
    r"|-070000|-07:00:00|-0700|-07:00|-07|Z070000|Z07:00:00|Z0700|Z07:00|Z07"
    r"|[.,](?:0+|9+)(?![0-9])"
)
RFC3339 = "2006-01-02T15:04:05Z07:00"


def format_layout(layout: str, time: datetime) -> str:
    """The time as Go's Time.Format writes it under the layout."""

    def element(match: re.Match[str]) -> str:
        name = match.group()
        return _fraction(name, time) if name[0] in ".," else _ELEMENTS[name](time)

    return _ELEMENT.sub(element, layout)


def _fraction(name: str, time: datetime) -> str:
    """`.000` and `,999`: so many digits of the second's fraction, zeros kept or trimmed."""
    count = len(name) - 1
    nanoseconds = f"{time.microsecond * 1000:09d}"
    # Go has nine digits of a fraction to give, whatever the layout asks for.
    digits = nanoseconds[: min(count, 9)]
    if name[1] == "0":
        return name[0] + digits
    digits = digits.rstrip("0")
    return name[0] + digits if digits else ""


_DIRECTIVES = {
    "B": "January",
    "b": "Jan",
    "m": "01",
    "A": "Monday",
    "a": "Mon",
    "d": "02",
    "H": "15",
    "I": "03",
    "M": "04",
    "S": "05",
    "Y": "2006",
    "y": "06",
    "p": "PM",
    "Z": "MST",
    "z": "-0700",
    "L": ".000",
}


def format_strftime(text: str, time: datetime) -> str:
    """The time as Packer's strftime writes it; a directive it does not know stays as it is."""

    def directive(match: re.Match[str]) -> str:
        letter = match.group(1)
        if letter == "%":
            return "%"
        layout = _DIRECTIVES.get(letter)
        return match.group() if layout is None else format_layout(layout, time)

    return re.sub(r"%(.)", directive, text, flags=re.DOTALL)
