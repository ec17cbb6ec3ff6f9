"""Go's literals: quoted strings, character constants and numbers, as strconv reads them."""

import math
import re

from packer_plugin_osc_chroot.template.tree import Number
from packer_plugin_osc_chroot.template.values import from_bytes, to_bytes

_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.?))",
    re.DOTALL,
)
_SIMPLE = {
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "\\": "\\",
}
_DECIMAL_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_HEX_FLOAT = re.compile(r"[+-]?0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)[pP][+-]?[0-9]+")
_BASES = {
    16: re.compile(r"0[xX]([0-9a-fA-F]+)"),
    8: re.compile(r"0[oO]?([0-7]+)"),
    2: re.compile(r"0[bB]([01]+)"),
    10: re.compile(r"([0-9]+)"),
}
_INT_MIN, _INT_MAX, _UINT_MAX = -(1 << 63), (1 << 63) - 1, (1 << 64) - 1


def unquote(text: str) -> str | None:
    """The value of a quoted or raw string token; None when an escape in it is not Go's."""
    if text[0] == "`":
        return text[1:-1].replace("\r", "")
    return _unescape(text[1:-1], '"')


def _unescape(body: str, quote: str) -> str | None:
    if "\\" not in body:
        return body
    parts: list[bytes] = []
    end = 0
    for escape in _ESCAPE.finditer(body):
        parts.append(to_bytes(body[end : escape.start()]))
        end = escape.end()
        value = _escaped(escape, quote)
        if value is None:
            return None
        parts.append(value)
    parts.append(to_bytes(body[end:]))
    return from_bytes(b"".join(parts))


def _escaped(escape: re.Match[str], quote: str) -> bytes | None:
    simple, byte, short, long, octal, other = escape.groups()
    if simple is not None:
        return _SIMPLE[simple].encode()
    if byte is not None:
        return bytes([int(byte, 16)])
    if octal is not None:
        return bytes([int(octal, 8)]) if int(octal, 8) < 256 else None
    if short is not None or long is not None:
        code = int(short or long, 16)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            return None
        return chr(code).encode()
    return quote.encode() if other == quote else None


def character(text: str) -> Number | None:
    """A character constant with its quotes: the number of its code point."""
    body = text[1:-1]
    escape = _ESCAPE.fullmatch(body)
    if escape is None:
        if len(body) != 1 or body in "'\\":
            return None
        code = ord(body)
        return Number(text, code, code)
    simple, byte, _short, _long, octal, _other = escape.groups()
    if simple is None and (byte is not None or octal is not None):
        code = int(byte, 16) if byte is not None else int(octal, 8)
        return Number(text, code, code) if code < 256 else None
    value = _escaped(escape, "'")
    if value is None:
        return None
    code = ord(value.decode())
    return Number(text, code, code)


def number(text: str) -> Number | str:
    """A number token; a str says what is wrong with it."""
    if text.endswith("i"):
        imaginary = _float(text[:-1])
        if imaginary is not None:
            return _complex(text, 0.0, imaginary)
    integer = _integer(text)
    if integer is not None and _INT_MIN <= integer <= _INT_MAX:
        return Number(text, integer, integer)
    if integer is not None and integer <= _UINT_MAX and text[0] not in "+-":
        return Number(text, None, None)
    value = _float(text)
    if value is None:
        return f'illegal number syntax: "{text}"'
    if not any(sign in text for sign in ".eEpP"):
        return f'integer overflow: "{text}"'
    whole = int(value) if value == math.floor(value) and _INT_MIN <= value < -_INT_MIN else None
    return Number(text, whole, value)


def complex_number(text: str) -> Number | str:
    """`1+2i`."""
    split = max(
        at for at in range(1, len(text)) if text[at] in "+-" and text[at - 1].lower() not in "ep"
    )
    real, imaginary = _float(text[:split]), _float(text[split:-1])
    if real is None or imaginary is None:
        return f'illegal number syntax: "{text}"'
    return _complex(text, real, imaginary)


def _complex(text: str, real: float, imaginary: float) -> Number:
    whole = None
    if imaginary == 0 and real == math.floor(real) and _INT_MIN <= real < -_INT_MIN:
        whole = int(real)
    return Number(text, whole, complex(real, imaginary))


def _underscores_ok(text: str) -> bool:
    """Whether each underscore stands between digits; a base prefix counts as one."""
    digits = text.lstrip("+-")
    if re.match(r"0[bBoOxX]", digits):
        digits = "0" + digits[2:]
        valid = r"[0-9a-fA-F]" if text.lstrip("+-")[1] in "xX" else r"[0-9]"
    else:
        valid = r"[0-9]"
    return re.search(rf"(?<!{valid})_|_(?!{valid})", digits) is None


def _integer(text: str) -> int | None:
    sign, digits = (-1 if text[0] == "-" else 1), text[1:] if text[0] in "+-" else text
    if "_" in digits:
        if not _underscores_ok(text):
            return None
        digits = digits.replace("_", "")
    if len(digits) > 100:
        return None
    for base, pattern in _BASES.items():
        match = pattern.fullmatch(digits)
        if match is not None and (base != 10 or digits == "0" or digits[0] != "0"):
            return sign * int(match.group(1), base)
    return None


def _float(text: str) -> float | None:
    digits = text
    if "_" in digits:
        if not _underscores_ok(text):
            return None
        digits = digits.replace("_", "")
    if _DECIMAL_FLOAT.fullmatch(digits):
        value = float(digits)
    elif _HEX_FLOAT.fullmatch(digits):
        try:
            value = float.fromhex(digits)
        except OverflowError:
            return None
    else:
        return None
    return None if math.isinf(value) else value
