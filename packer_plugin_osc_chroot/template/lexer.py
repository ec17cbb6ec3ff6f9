"""Splits template text into tokens: text, delimiters and what stands inside an action.

Whitespace trimming and comments are resolved here; the parser never sees them. The tokens follow
Go's text/template/parse, whose rules about what may follow an identifier or a number decide what
is one token and what is an error.
"""

import re
import unicodedata
from dataclasses import dataclass
from enum import Enum, auto

from packer_plugin_osc_chroot.template.errors import MAX_TOKENS, TemplateError


class Kind(Enum):
    TEXT = auto()
    LEFT = auto()
    RIGHT = auto()
    SPACE = auto()
    FIELD = auto()
    VARIABLE = auto()
    IDENTIFIER = auto()
    KEYWORD = auto()
    DOT = auto()
    NIL = auto()
    BOOL = auto()
    NUMBER = auto()
    COMPLEX = auto()
    CHARACTER = auto()
    STRING = auto()
    RAW_STRING = auto()
    PIPE = auto()
    OPEN = auto()
    CLOSE = auto()
    ASSIGN = auto()
    DECLARE = auto()
    COMMA = auto()
    END = auto()


@dataclass(frozen=True, slots=True)
class Token:
    """`position` counts characters from the start of the source."""

    kind: Kind
    text: str
    position: int


KEYWORDS = frozenset(
    ["block", "break", "continue", "define", "else", "end", "if", "range", "template", "with"]
)

_SPACES = " \t\r\n"
_DIGITS = frozenset("0123456789")
_TRIM_LEFT = re.compile(r"-[ \t\r\n]")
_RIGHT = re.compile(r"[ \t\r\n]-\}\}|\}\}")
_SPACE_RUN = re.compile(r"[ \t\r\n]+")
_NUMBER = re.compile(
    r"[+-]?(?:0[xX][0-9a-fA-F_]*(?:\.[0-9a-fA-F_]*)?(?:[pP][+-]?[0-9_]*)?"
    r"|0[oO][0-7_]*(?:\.[0-7_]*)?|0[bB][01_]*(?:\.[01_]*)?"
    r"|[0-9_]*(?:\.[0-9_]*)?(?:[eE][+-]?[0-9_]*)?)i?"
)
_QUOTED = {
    '"': (Kind.STRING, re.compile(r'"(?:[^"\\\n]|\\[^\n])*"'), "quoted string"),
    "'": (Kind.CHARACTER, re.compile(r"'(?:[^'\\\n]|\\[^\n])*'"), "character constant"),
    "`": (Kind.RAW_STRING, re.compile(r"`[^`]*`"), "raw quoted string"),
}
_PUNCTUATION = {"=": Kind.ASSIGN, "|": Kind.PIPE, ",": Kind.COMMA}
_WORD = re.compile(r"\w*")


def line_of(source: str, position: int) -> int:
    return source.count("\n", 0, position) + 1


def syntax_error(source: str, position: int, problem: str) -> TemplateError:
    """The error at a place of the source; the line is named where there is more than one."""
    if "\n" in source.rstrip("\n"):
        return TemplateError(f"line {line_of(source, position)}: {problem}")
    return TemplateError(problem)


def tokenize(source: str) -> list[Token]:
    """All tokens of a template, an END at last. Raises TemplateError."""
    return _Lexer(source).run()


def _is_word(character: str) -> bool:
    if character.isascii():
        return character == "_" or character.isalnum()
    category = unicodedata.category(character)
    return category[0] == "L" or category == "Nd"


class _Lexer:
    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0
        self._depth = 0
        self._tokens: list[Token] = []

    def run(self) -> list[Token]:
        source = self._source
        while True:
            start = self._at
            opening = source.find("{{", start)
            if opening < 0:
                if start < len(source):
                    self._add(Kind.TEXT, len(source))
                self._tokens.append(Token(Kind.END, "end of the template", len(source)))
                return self._tokens
            trims = _TRIM_LEFT.match(source, opening + 2) is not None
            text = source[start:opening]
            if trims:
                text = text.rstrip(_SPACES)
            if text:
                self._tokens.append(Token(Kind.TEXT, text, start))
            self._at = opening + (4 if trims else 2)
            if source.startswith("/*", self._at):
                self._comment(opening)
            else:
                self._tokens.append(Token(Kind.LEFT, "{{", opening))
                self._depth = 0
                self._action(opening)

    def _add(self, kind: Kind, end: int) -> None:
        if len(self._tokens) > MAX_TOKENS:
            raise self._error(f"the template has more than {MAX_TOKENS} words and signs")
        self._tokens.append(Token(kind, self._source[self._at : end], self._at))
        self._at = end

    def _error(self, problem: str) -> TemplateError:
        return syntax_error(self._source, self._at, problem)

    def _comment(self, opening: int) -> None:
        close = self._source.find("*/", self._at + 2)
        if close < 0:
            raise syntax_error(self._source, opening, "unclosed comment")
        self._at = close + 2
        right = _RIGHT.match(self._source, self._at)
        if right is None:
            raise self._error("comment ends before closing delimiter")
        self._leave(right)

    def _leave(self, right: re.Match[str]) -> None:
        """Steps over a right delimiter, and over the space that it trims."""
        self._at = right.end()
        if right.group() != "}}":
            spaces = _SPACE_RUN.match(self._source, self._at)
            if spaces is not None:
                self._at = spaces.end()

    def _action(self, opening: int) -> None:
        source = self._source
        while True:
            right = _RIGHT.match(source, self._at)
            if right is not None:
                if self._depth:
                    raise self._error("unclosed left paren")
                self._tokens.append(Token(Kind.RIGHT, "}}", self._at))
                self._leave(right)
                return
            if self._at == len(source):
                raise syntax_error(source, opening, "unclosed action")
            self._inside(source[self._at])

    def _inside(self, character: str) -> None:
        source, at = self._source, self._at
        if character in _SPACES:
            self._space()
        elif character in _PUNCTUATION:
            self._add(_PUNCTUATION[character], at + 1)
        elif character == ":":
            if not source.startswith(":=", at):
                raise self._error("expected :=")
            self._add(Kind.DECLARE, at + 2)
        elif character in _QUOTED:
            kind, pattern, name = _QUOTED[character]
            quoted = pattern.match(source, at)
            if quoted is None:
                raise self._error(f"unterminated {name}")
            self._add(kind, quoted.end())
        elif character == "$":
            self._name(Kind.VARIABLE, Kind.VARIABLE)
        elif character == "." and source[at + 1 : at + 2] not in _DIGITS:
            self._name(Kind.FIELD, Kind.DOT)
        elif character in "+-.0123456789":
            self._number()
        elif _is_word(character):
            self._word()
        elif character == "(":
            self._depth += 1
            self._add(Kind.OPEN, at + 1)
        elif character == ")":
            self._depth -= 1
            if self._depth < 0:
                raise self._error('unexpected ")"')
            self._add(Kind.CLOSE, at + 1)
        elif character.isprintable():
            raise self._error(f'unexpected "{character}" in an action')
        else:
            raise self._error(f"unrecognized character in action: U+{ord(character):04X}")

    def _space(self) -> None:
        """A run of spaces; the last one belongs to a trimming delimiter that follows it."""
        run = _SPACE_RUN.match(self._source, self._at)
        assert run is not None
        end = run.end()
        if self._source.startswith("-}}", end):
            end -= 1
        if end > self._at:
            self._add(Kind.SPACE, end)

    def _word_end(self, start: int) -> int:
        run = _WORD.match(self._source, start)
        assert run is not None
        word = run.group()
        if not word.isascii():
            # \w has more than Go's letters and digits: combining marks, other numerals.
            for offset, character in enumerate(word):
                if not _is_word(character):
                    return start + offset
        return run.end()

    def _check_terminator(self, at: int) -> None:
        following = self._source[at : at + 1]
        if following and following not in " \t\r\n.,|:)(" and not self._source.startswith("}}", at):
            self._at = at
            raise self._error(f'unexpected "{following}" after a name')

    def _name(self, kind: Kind, alone: Kind) -> None:
        """`.name` and `$name`; the sign alone is a token too."""
        end = self._word_end(self._at + 1)
        self._check_terminator(end)
        self._add(alone if end == self._at + 1 else kind, end)

    def _number(self) -> None:
        kind, end = Kind.NUMBER, self._scan_number(self._at)
        if self._source[end : end + 1] in ("+", "-"):
            kind, end = Kind.COMPLEX, self._scan_number(end)
            if self._source[end - 1] != "i":
                raise self._error(f'bad number syntax: "{self._source[self._at : end]}"')
        self._add(kind, end)

    def _scan_number(self, start: int) -> int:
        number = _NUMBER.match(self._source, start)
        assert number is not None
        end = number.end()
        if end < len(self._source) and _is_word(self._source[end]):
            raise self._error(f'bad number syntax: "{self._source[self._at : end + 1]}"')
        return end

    def _word(self) -> None:
        end = self._word_end(self._at)
        self._check_terminator(end)
        word = self._source[self._at : end]
        if word in KEYWORDS:
            kind = Kind.KEYWORD
        elif word == "nil":
            kind = Kind.NIL
        elif word in ("true", "false"):
            kind = Kind.BOOL
        else:
            kind = Kind.IDENTIFIER
        self._add(kind, end)
