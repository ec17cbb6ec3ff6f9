"""Reads the TOML files that users write for a localcloud into dataclasses.

What is wrong in one is said in a line: the file, the key (or the line), what was expected and what
was found, in TOML's words.
"""

import json
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import cattrs
from cattrs.cols import list_structure_factory, mapping_structure_factory

from packer_plugin_osc_chroot.localcloud.user_files import open_regular

_T = TypeVar("_T")
_Hook = Callable[[Any, Any], Any]

# In bytes. A file this long is no such file.
_MOST = 1024**2
# Longer than anybody waits, in seconds.
_MOST_SECONDS = 86_400.0
_SHOWN = 40
_HOW = (
    "write KEY = VALUE on a line, texts in double quotes, yes and no as true and false, and a table's"
    " name in brackets above its keys"
)


class FileError(Exception):
    """A file that cannot be followed. One line, with its path."""


def load(file: Path, kind: type[_T]) -> _T:
    """The file as a `kind`, a dataclass. Raises FileError."""
    return structure(_parse(file), kind, file=file)


def _parse(file: Path) -> dict[str, Any]:
    try:
        with open_regular(file) as stream:
            data = stream.read(_MOST + 1)
    except OSError as error:
        raise FileError(f"{file}: {error.strerror}") from None
    if len(data) > _MOST:
        raise FileError(f"{file}: is longer than {_MOST // 1024} KiB: is it the right file?")
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FileError(
            f"{file}: is not TOML: line {line} is not UTF-8: save the file as UTF-8 text"
        ) from None
    except tomllib.TOMLDecodeError as error:
        last = data.count(b"\n", 0, len(data.rstrip())) + 1
        text = str(error).replace("(at end of document)", f"(at line {last}, its end)")
        raise FileError(f"{file}: is not TOML: {text}: {_HOW}") from None
    except (RecursionError, ValueError):
        raise FileError(f"{file}: has a number too long, or values too deep, to be read") from None


def structure(found: Any, kind: type[_T], *, file: Path) -> _T:
    try:
        return _CONVERTER.structure(found, kind)
    except Exception as error:
        problems = cattrs.transform_error(error, path="", format_exception=_say)
        text, _, key = problems[0].rpartition(" @ ")
        where = f"{key.removeprefix('.')}: " if key else ""
        raise FileError(f"{file}: {where}{text}") from None


def check_seconds(name: str, seconds: float) -> None:
    """Whether a time can be waited for. Raises ValueError."""
    if not 0 <= seconds <= _MOST_SECONDS:
        raise ValueError(f"{name} is {seconds:g}: expected 0 to {_MOST_SECONDS:g} seconds")


def _say(error: BaseException, kind: type | None) -> str:
    if isinstance(error, cattrs.errors.ForbiddenExtraKeysError):
        known = ", ".join(sorted(_names(error.cl)))
        return f"there is no {', '.join(sorted(error.extra_fields))} here (there are: {known})"
    if isinstance(error, KeyError):
        return "is missing"
    if isinstance(error, TypeError | ValueError) and error.args:
        return str(error.args[0])
    return f"is not what it has to be: {error}"


def _names(kind: type) -> list[str]:
    return list(getattr(kind, "__dataclass_fields__", {}))


def _shown(value: Any) -> str:
    """A value as it stands in the file, or what kind of value it is."""
    if isinstance(value, str):
        return json.dumps(value[:_SHOWN], ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list of tables" if value and isinstance(value[0], dict) else "a list"
    return value.isoformat() if isinstance(value, date | time) else str(value)[:_SHOWN]


def _converter() -> cattrs.Converter:
    """TOML has types of its own: nothing is taken for something else."""
    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind, words in (
        (str, "a text"),
        (int, "a whole number"),
        (float, "a finite number"),
        (bool, "true or false"),
    ):
        converter.register_structure_hook(kind, _strict(kind, words))
    converter.register_structure_hook(datetime, _date)
    converter.register_structure_hook_func(_is_literal, _one_of)

    def lists(kind: Any, converter: cattrs.Converter) -> _Hook:
        is_of_tables = is_dataclass(get_args(kind)[0])
        words = "tables, each below a [[NAME]]" if is_of_tables else "a list in brackets"
        structure = list_structure_factory(kind, converter)
        if get_origin(kind) is list:
            return _only(list, words, structure)
        return _only(list, words, lambda value, kind: tuple(structure(value, kind)))

    def mappings(kind: Any, converter: cattrs.Converter) -> _Hook:
        return _only(dict, "a table", mapping_structure_factory(kind, converter))

    def dataclasses(kind: Any, converter: cattrs.Converter) -> _Hook:
        return _only(dict, "a table", converter.gen_structure_attrs_fromdict(kind))

    converter.register_structure_hook_factory(_is_of(list, Sequence), lists)
    converter.register_structure_hook_factory(_is_of(dict, Mapping), mappings)
    converter.register_structure_hook_factory(is_dataclass, dataclasses)
    return converter


def _is_of(*origins: Any) -> Callable[[Any], bool]:
    return lambda kind: get_origin(kind) in origins


def _only(container: type, words: str, make: _Hook) -> _Hook:
    """A text is no list of its letters."""

    def structure(value: Any, kind: Any) -> Any:
        if not isinstance(value, container):
            raise TypeError(f"expected {words}, found {_shown(value)}")
        return make(value, kind)

    return structure


def _is_literal(kind: Any) -> bool:
    origin: Any = get_origin(kind)
    return origin is Literal


def _one_of(value: Any, kind: Any) -> Any:
    if value not in get_args(kind):
        known = ", ".join(map(_shown, get_args(kind)))
        raise ValueError(f"expected one of {known}, found {_shown(value)}")
    return value


def _strict(kind: type, words: str) -> _Hook:
    def structure(value: Any, _: Any) -> Any:
        number = kind is float and isinstance(value, int) and not isinstance(value, bool)
        if type(value) is not kind and not number:
            raise TypeError(f"expected {words}, found {_shown(value)}")
        if kind is float and not -sys.float_info.max <= value <= sys.float_info.max:
            raise ValueError(f"expected {words}, found {_shown(value)}")
        return kind(value)

    return structure


def _date(value: Any, _: Any) -> datetime:
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    raise TypeError(f"expected a date such as 2026-01-31, found {_shown(value)}")


_CONVERTER = _converter()
