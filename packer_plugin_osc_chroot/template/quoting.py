"""Go's quoted forms of strings and characters, as strconv.Quote and QuoteToASCII write them."""

import unicodedata

_ESCAPES = {
    "\a": r"\a",
    "\b": r"\b",
    "\f": r"\f",
    "\n": r"\n",
    "\r": r"\r",
    "\t": r"\t",
    "\v": r"\v",
    "\\": r"\\",
}
_PRINTABLE = frozenset("LMNPS")


def is_raw_byte(character: str) -> bool:
    """Whether a character stands for a byte that is not UTF-8."""
    return "\udc80" <= character <= "\udcff"


def is_printable(character: str) -> bool:
    """Go's strconv.IsPrint: letters, marks, numbers, punctuation, symbols and the ASCII space."""
    if character.isascii():
        return " " <= character <= "~"
    return unicodedata.category(character)[0] in _PRINTABLE


def quote(text: str, *, mark: str = '"', ascii_only: bool = False) -> str:
    """The text as a Go literal; `mark` is its kind of quote."""
    return mark + "".join(_quoted(c, mark, ascii_only) for c in text) + mark


def _quoted(character: str, mark: str, ascii_only: bool) -> str:
    if character == mark:
        return "\\" + mark
    escape = _ESCAPES.get(character)
    if escape is not None:
        return escape
    code = ord(character)
    if is_raw_byte(character):
        return f"\\x{code - 0xDC00:02x}"
    if is_printable(character) and (code < 0x80 or not ascii_only):
        return character
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def can_backquote(text: str) -> bool:
    """Whether a raw string literal of one line can hold the text."""
    return not any(c in "`\x7f\ufeff" or (c < " " and c != "\t") or is_raw_byte(c) for c in text)
