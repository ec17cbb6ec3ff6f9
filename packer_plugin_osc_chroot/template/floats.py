"""Go's text forms of floating-point numbers (strconv.FormatFloat)."""

import math
from decimal import Decimal


def format_float(value: float, kind: str, precision: int | None) -> str:
    """A finite number that is not negative; `precision` None is the shortest that reads back."""
    if not math.isfinite(value):
        return ""
    match kind:
        case "f":
            return _fixed(value, precision)
        case "e" | "E":
            return _exponent(value, kind, precision)
        case "g" | "G":
            return _general(value, kind, precision)
        case "b":
            return _binary(value)
        case _:
            return _hexadecimal(value, kind, precision)


def _shortest(value: float) -> tuple[str, int]:
    """The digits without zeros at their ends, and where the decimal point stands in them."""
    if value == 0:
        return "0", 1
    _, digits, exponent = Decimal(repr(value)).as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits))
    point = len(text) + exponent
    return text.rstrip("0"), point


def _fixed(value: float, precision: int | None) -> str:
    if precision is not None:
        return f"{value:.{precision}f}"
    digits, point = _shortest(value)
    if point <= 0:
        return "0." + "0" * -point + digits
    whole = digits[:point].ljust(point, "0")
    return f"{whole}.{digits[point:]}" if digits[point:] else whole


def _exponent(value: float, kind: str, precision: int | None) -> str:
    if precision is not None:
        return f"{value:.{precision}{kind}}"
    digits, point = _shortest(value)
    power = point - 1 if value else 0
    fraction = f".{digits[1:]}" if digits[1:] else ""
    return f"{digits[0]}{fraction}{kind}{'-' if power < 0 else '+'}{abs(power):02d}"


def _general(value: float, kind: str, precision: int | None) -> str:
    marker = "e" if kind == "g" else "E"
    if precision is None:
        _, point = _shortest(value)
        power = point - 1
        if power < -4 or power >= 6:
            return _exponent(value, marker, None)
        return _fixed(value, None)
    significant = precision or 1
    mantissa, _, exponent = f"{value:.{significant - 1}e}".partition("e")
    power = int(exponent) if value else 0
    digits = mantissa.replace(".", "").rstrip("0") or "0"
    limit = significant
    if limit > len(digits) and len(digits) >= power + 1:
        limit = len(digits)
    if power < -4 or power >= limit:
        fraction = f".{digits[1:]}" if digits[1:] else ""
        return f"{digits[0]}{fraction}{marker}{'-' if power < 0 else '+'}{abs(power):02d}"
    if power < 0:
        return "0." + "0" * (-power - 1) + digits
    whole = digits[: power + 1].ljust(power + 1, "0")
    return f"{whole}.{digits[power + 1 :]}" if digits[power + 1 :] else whole


def _binary(value: float) -> str:
    """Mantissa and exponent of the number's own representation: `4503599627370496p-52`."""
    if value == 0:
        return "0p-1074"
    fraction, exponent = math.frexp(value)
    exponent -= 53
    mantissa = int(fraction * (1 << 53))
    if exponent < -1074:
        mantissa >>= -1074 - exponent
        exponent = -1074
    return f"{mantissa}p{exponent:+d}"


def _hexadecimal(value: float, kind: str, precision: int | None) -> str:
    """`0x1.8p+01`."""
    if value == 0:
        mantissa, exponent = 0, 0
    else:
        fraction, exponent = math.frexp(value)
        mantissa = int(fraction * (1 << 61))
        exponent -= 1
    if precision is not None and precision < 15:
        shift = 60 - precision * 4
        extra = mantissa & ((1 << shift) - 1)
        mantissa >>= shift
        if extra | (mantissa & 1) > 1 << (shift - 1):
            mantissa += 1
        mantissa <<= shift
        if mantissa >= 1 << 61:
            mantissa >>= 1
            exponent += 1
    digits = f"{mantissa & ((1 << 60) - 1):015x}"
    digits = digits.rstrip("0") if precision is None else digits.ljust(precision, "0")[:precision]
    point = f".{digits}" if digits else ""
    shown = f"0x{mantissa >> 60}{point}p{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    return shown.upper() if kind == "X" else shown


def keep_point(number: str, kind: str, precision: int | None) -> str:
    """What the `#` flag does to a number: a decimal point always, zeros up to the precision."""
    digits = 0
    if kind in "gGx":
        digits = 6 if precision is None else precision
    marker = "pP" if kind in "xX" else "eEpP"
    end = next((at for at, c in enumerate(number) if c in marker), len(number))
    head, tail = number[:end], number[end:]
    seen = False
    for character in head:
        if character == ".":
            continue
        seen = seen or character != "0"
        digits -= seen
    if "." not in head:
        if head == "0":
            digits -= 1
        head += "."
    return head + "0" * digits + tail
