"""Go's fmt for the values of templates: what print, printf and an action's output write."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from packer_plugin_osc_chroot.template import floats
from packer_plugin_osc_chroot.template.errors import MAX_VALUE, NeverRenders, TemplateError
from packer_plugin_osc_chroot.template.quoting import can_backquote, is_printable, quote
from packer_plugin_osc_chroot.template.values import (
    Byte,
    GoMap,
    GoSlice,
    GoStruct,
    NoValue,
    Value,
    join,
    to_bytes,
    type_name,
)

_LARGEST_NUMBER = 1_000_000
"""fmt refuses widths, precisions and argument numbers beyond it."""


@dataclass(frozen=True, slots=True)
class Flags:
    """What stands between the percent sign and the verb."""

    plus: bool = False
    minus: bool = False
    sharp: bool = False
    space: bool = False
    zero: bool = False
    width: int | None = None
    precision: int | None = None
    plus_v: bool = False
    sharp_v: bool = False


PLAIN = Flags()


def show(value: Value) -> str:
    """What an action prints: a missing value by its mark, a struct without its address sign."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, NoValue):
        return "<no value>"
    if isinstance(value, GoStruct):
        return _composite(value, "v", PLAIN)
    return format_value(value, "v", PLAIN)


def sprint(values: Sequence[Value]) -> str:
    """fmt.Sprint: a space only between two values neither of which is a string."""
    parts: list[str] = []
    previous_is_string = True
    for value in values:
        is_string = isinstance(value, str)
        if not (is_string or previous_is_string):
            parts.append(" ")
        parts.append(format_value(value, "v", PLAIN))
        previous_is_string = is_string
    return join(parts)


def sprintln(values: Sequence[Value]) -> str:
    return join([" ".join(format_value(value, "v", PLAIN) for value in values), "\n"])


def sprintf(layout: str, values: Sequence[Value]) -> str:
    """fmt.Sprintf, its marks for wrong verbs and arguments included."""
    return _Printf(layout, values).run()


def format_value(value: Value, verb: str, flags: Flags) -> str:
    """One value under one verb; a verb that its type has not gives fmt's `%!d(string=x)`."""
    if value is None or isinstance(value, NoValue):
        return _pad("<nil>", flags) if verb in "Tv" else f"%!{verb}(<nil>)"
    if verb == "T":
        return _pad(_truncate(type_name(value), flags), flags)
    if verb == "p" and not isinstance(value, GoMap | GoSlice | GoStruct):
        return _bad_verb(value, verb, flags)
    return _print(value, verb, flags, top=True)


def _print(value: Value, verb: str, flags: Flags, *, top: bool) -> str:
    match value:
        case None | NoValue():
            if flags.sharp_v:
                return "interface {}(nil)"
            return "<nil>"
        case bool():
            if verb in "tv":
                return _pad("true" if value else "false", flags)
        case int():
            if verb in "vdboOxXcqU":
                return _integer(value, verb, flags)
        case float():
            if verb in "vbgGxXfFeE":
                return _float(value, verb, flags)
        case complex():
            if verb in "vbgGxXfFeE":
                real = _float(value.real, verb, flags)
                return f"({real}{_float(value.imag, verb, replace(flags, plus=True))}i)"
        case str():
            if verb in "vsxXq":
                return _string(value, verb, flags)
        case _:
            if isinstance(value, GoStruct):
                if not top or flags.sharp_v or verb == "p":
                    raise TemplateError(f"printf cannot show the address of a {type_name(value)}")
                return "&" + _composite(value, verb, flags)
            if verb == "p":
                raise TemplateError(f"printf cannot show the address of a {type_name(value)}")
            return _composite(value, verb, flags)
    return _bad_verb(value, verb, flags)


def _composite(value: GoMap | GoSlice | GoStruct, verb: str, flags: Flags) -> str:
    count = value.length if isinstance(value, GoSlice) else len(value.entries)
    if count * max(flags.width or 0, flags.precision or 0) > MAX_VALUE:
        raise NeverRenders("printf makes a text that is too long")
    if isinstance(value, GoSlice):
        items = [_print(item, verb, flags, top=False) for item in value.items[: value.length]]
        opening, closing = "[", "]"
    elif isinstance(value, GoMap):
        items = [
            _print(name, verb, flags, top=False) + ":" + _print(item, verb, flags, top=False)
            for name, item in sorted(value.entries.items())
        ]
        opening, closing = "map[", "]"
        if flags.sharp_v and value.is_nil:
            return f"{value.type_name}(nil)"
    else:
        items = [
            (f"{name}:" if flags.plus_v else "") + _print(item, verb, flags, top=False)
            for name, item in value.entries.items()
        ]
        opening, closing = "{", "}"
    if flags.sharp_v:
        return f"{type_name(value)}{{{', '.join(items)}}}"
    return opening + " ".join(items) + closing


def _bad_verb(value: Value, verb: str, flags: Flags) -> str:
    return f"%!{verb}({type_name(value)}={_print(value, 'v', flags, top=True)})"


def _pad(text: str, flags: Flags, *, zero: bool | None = None) -> str:
    width = flags.width or 0
    if flags.minus:
        return text + " " * (width - len(text))
    fill = "0" if (flags.zero if zero is None else zero) else " "
    return fill * (width - len(text)) + text


def _truncate(text: str, flags: Flags) -> str:
    return text if flags.precision is None else text[: flags.precision]


def _string(text: str, verb: str, flags: Flags) -> str:
    if verb in "xX":
        return _hexadecimal(text, verb, flags)
    if verb == "s" or (verb == "v" and not flags.sharp_v):
        return _pad(_truncate(text, flags), flags)
    text = _truncate(text, flags)
    if flags.sharp and can_backquote(text):
        return _pad(f"`{text}`", flags)
    return _pad(quote(text, ascii_only=flags.plus), flags)


def _hexadecimal(text: str, verb: str, flags: Flags) -> str:
    data = to_bytes(text)
    if flags.precision is not None:
        data = data[: flags.precision]
    prefix = "0x" if flags.sharp and data else ""
    if flags.space:
        shown = " ".join(f"{prefix}{byte:02x}" for byte in data)
    else:
        shown = prefix + data.hex()
    return _pad(shown.upper() if verb == "X" else shown, flags)


def _integer(value: int, verb: str, flags: Flags) -> str:
    unsigned = isinstance(value, Byte)
    if verb in "cqU":
        return _code_point(value, verb, flags)
    if verb == "v" and flags.sharp_v and unsigned:
        verb, flags = "x", replace(flags, sharp=True)
    magnitude = abs(int(value))
    digits = format(magnitude, {"v": "d", "O": "o"}.get(verb, verb))
    sign = "-" if value < 0 else "+" if flags.plus else " " if flags.space else ""
    precision = flags.precision
    if precision == 0 and magnitude == 0:
        return " " * (flags.width or 0)
    if precision is None and flags.zero and not flags.minus and flags.width is not None:
        precision = flags.width - len(sign)
    digits = "0" * ((precision or 0) - len(digits)) + digits
    if flags.sharp:
        if verb in "xX":
            digits = f"0{verb}{digits}"
        elif verb == "b":
            digits = "0b" + digits
        elif verb in "oO" and digits[0] != "0":
            digits = "0" + digits
    if verb == "O":
        digits = "0o" + digits
    return _pad(sign + digits, flags, zero=False)


def _code_point(value: int, verb: str, flags: Flags) -> str:
    valid = 0 <= value <= 0x10FFFF and not 0xD800 <= value < 0xE000
    character = chr(value) if valid else "\ufffd"
    if verb == "c":
        return _pad(character, flags)
    if verb == "q":
        return _pad(quote(character, mark="'", ascii_only=flags.plus), flags)
    precision = max(flags.precision or 0, 4)
    shown = f"U+{value % (1 << 64):0{precision}X}"
    if flags.sharp and valid and is_printable(character):
        shown += f" '{character}'"
    return _pad(shown, flags, zero=False)


def _float(value: float, verb: str, flags: Flags) -> str:
    kind = {"v": "g", "F": "f"}.get(verb, verb)
    precision = flags.precision
    if precision is None and kind in "feE":
        precision = 6
    number = floats.format_float(abs(value), kind, precision)
    if math.isinf(value):
        number = "Inf"
    negative = math.copysign(1.0, value) < 0
    sign = "-" if negative else "+" if flags.plus else " " if flags.space else ""
    if math.isinf(value):
        return _pad((sign or "+") + number, flags, zero=False)
    if flags.sharp and kind != "b":
        number = floats.keep_point(number, kind, precision)
    if sign and flags.zero and not flags.minus and flags.width is not None:
        return sign + "0" * (flags.width - len(sign) - len(number)) + number
    return _pad(sign + number, flags)


class _Printf:
    """One run over a format string; fmt's own rules for what a malformed one prints."""

    def __init__(self, layout: str, values: Sequence[Value]) -> None:
        self._layout = layout
        self._values = values
        self._at = 0
        self._argument = 0
        self._reordered = False
        self._good = True
        self._after_index = False
        self._parts: list[str] = []
        self._size = 0

    def run(self) -> str:
        layout, end = self._layout, len(self._layout)
        while self._at < end:
            percent = layout.find("%", self._at)
            percent = end if percent < 0 else percent
            self._write(layout[self._at : percent])
            self._at = percent + 1
            if percent < end and not self._verb():
                break
        if not self._reordered and self._argument < len(self._values):
            self._extra()
        return join(self._parts)

    def _write(self, text: str) -> None:
        self._parts.append(text)
        self._size += len(text)
        if self._size > MAX_VALUE:
            raise NeverRenders("printf makes a text that is too long")

    def _extra(self) -> None:
        shown = [
            "<nil>"
            if value is None or isinstance(value, NoValue)
            else f"{type_name(value)}={format_value(value, 'v', PLAIN)}"
            for value in self._values[self._argument :]
        ]
        self._write(f"%!(EXTRA {', '.join(shown)})")

    def _verb(self) -> bool:
        """One directive, the percent sign read; False where the layout ends inside it."""
        flags = self._flags()
        self._good = True
        self._index()
        flags = self._width(flags)
        flags = self._precision(flags)
        if not self._after_index:
            self._index()
        if self._at >= len(self._layout):
            self._write("%!(NOVERB)")
            return False
        verb = self._layout[self._at]
        self._at += 1
        if verb == "%":
            self._write("%")
        elif not self._good:
            self._write(f"%!{verb}(BADINDEX)")
        elif self._argument >= len(self._values):
            self._write(f"%!{verb}(MISSING)")
        else:
            self._write(self._formatted(verb, flags))
            self._argument += 1
        return True

    def _formatted(self, verb: str, flags: Flags) -> str:
        value = self._values[self._argument]
        if verb in "vw":
            flags = replace(flags, sharp_v=flags.sharp, sharp=False, plus_v=flags.plus, plus=False)
        if verb == "w" and value is not None and not isinstance(value, NoValue):
            return _bad_verb(value, "w", flags)
        return format_value(value, verb, flags)

    def _flags(self) -> Flags:
        seen = set()
        while self._layout[self._at : self._at + 1] in ("#", "0", "+", "-", " "):
            seen.add(self._layout[self._at])
            self._at += 1
        return Flags(
            plus="+" in seen,
            minus="-" in seen,
            sharp="#" in seen,
            space=" " in seen,
            zero="0" in seen,
        )

    def _index(self) -> None:
        """`[n]`: the number of the argument to use next."""
        self._after_index = False
        if self._layout[self._at : self._at + 1] != "[":
            return
        self._reordered = True
        if len(self._layout) - self._at < len("[1]"):
            self._good = False
            self._at += 1
            return
        close = self._layout.find("]", self._at + 1)
        if close < 0:
            self._good = False
            self._at += 1
            return
        digits = self._layout[self._at + 1 : close]
        self._at = close + 1
        number = self._parse(digits)
        if number is None:
            self._good = False
            return
        self._after_index = True
        if 1 <= number <= len(self._values):
            self._argument = number - 1
        else:
            self._good = False

    @staticmethod
    def _parse(digits: str) -> int | None:
        if not (digits.isascii() and digits.isdecimal()) or len(digits) > 20:
            return None
        return int(digits) if int(digits) <= _LARGEST_NUMBER else None

    def _number(self) -> int | None:
        """The digits here; None if there are none, or the number is one that fmt refuses."""
        start = self._at
        number = 0
        while "0" <= (digit := self._layout[self._at : self._at + 1]) <= "9":
            if number > _LARGEST_NUMBER:
                # As fmt does: nothing of what follows is a directive's number any more.
                self._at = len(self._layout)
                return None
            number = number * 10 + int(digit)
            self._at += 1
        return number if self._at > start else None

    def _star(self) -> int | None:
        """The argument that `*` takes as a number; None where it is not one."""
        self._at += 1
        self._after_index = False
        if self._argument >= len(self._values):
            return None
        value = self._values[self._argument]
        self._argument += 1
        if isinstance(value, bool) or not isinstance(value, int):
            return None
        return int(value) if abs(value) <= _LARGEST_NUMBER else None

    def _width(self, flags: Flags) -> Flags:
        if self._layout[self._at : self._at + 1] == "*":
            width = self._star()
            if width is None:
                self._write("%!(BADWIDTH)")
            elif width < 0:
                return replace(flags, width=-width, minus=True, zero=False)
            return replace(flags, width=width)
        width = self._number()
        if self._after_index and width is not None:
            self._good = False
        return replace(flags, width=width)

    def _precision(self, flags: Flags) -> Flags:
        if self._at + 1 >= len(self._layout) or self._layout[self._at] != ".":
            return flags
        self._at += 1
        if self._after_index:
            self._good = False
        self._index()
        if self._layout[self._at : self._at + 1] == "*":
            precision = self._star()
            if precision is None or precision < 0:
                self._write("%!(BADPREC)")
                precision = None
            return replace(flags, precision=precision)
        return replace(flags, precision=self._number() or 0)
