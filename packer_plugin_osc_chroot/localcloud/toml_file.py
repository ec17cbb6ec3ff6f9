"""Reads the TOML files that users write for a localcloud into dataclasses.

What is wrong in one is said in a line: the file, the key, what was expected.
"""

import tomllib
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import cattrs

_T = TypeVar("_T")


class FileError(Exception):
    """A file that cannot be followed. One line, with its path."""


def load(file: Path, kind: type[_T]) -> _T:
    """The file as a `kind`, a dataclass. Raises FileError."""
    try:
        with open(file, "rb") as stream:
            found = tomllib.load(stream)
    except OSError as error:
        raise FileError(f"{file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileError(f"{file}: is not TOML: {error}") from None
    return structure(found, kind, file=file)


def structure(found: Any, kind: type[_T], *, file: Path) -> _T:
    try:
        return _CONVERTER.structure(found, kind)
    except Exception as error:
        problems = cattrs.transform_error(error, path="", format_exception=_say)
        raise FileError(f"{file}: {problems[0].removeprefix('.')}") from None


def _say(error: BaseException, kind: type | None) -> str:
    if isinstance(error, cattrs.errors.ForbiddenExtraKeysError):
        known = ", ".join(sorted(_names(error.cl)))
        return f"there is no {', '.join(sorted(error.extra_fields))} here (there are: {known})"
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    if isinstance(error, TypeError | ValueError) and error.args:
        return str(error.args[0])
    return f"is not what it has to be: {error}"


def _names(kind: type) -> list[str]:
    return list(getattr(kind, "__dataclass_fields__", {}))


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind, words in (
        (str, "a text"),
        (int, "a whole number"),
        (float, "a number"),
        (bool, "true or false"),
    ):
        converter.register_structure_hook(kind, _strict(kind, words))
    converter.register_structure_hook(datetime, _date)
    converter.register_structure_hook_func(_is_literal, _one_of)
    return converter


def _is_literal(kind: Any) -> bool:
    origin: Any = get_origin(kind)
    return origin is Literal


def _one_of(value: Any, kind: Any) -> Any:
    if value not in get_args(kind):
        raise ValueError(f"expected one of {', '.join(get_args(kind))}, found {value!r}")
    return value


def _strict(kind: type, words: str) -> Any:
    """TOML has types of its own: nothing is taken for something else."""

    def structure(value: Any, _: Any) -> Any:
        number = kind is float and isinstance(value, int) and not isinstance(value, bool)
        if type(value) is not kind and not number:
            raise TypeError(f"expected {words}, found {value!r}")
        return kind(value)

    return structure


def _date(value: Any, _: Any) -> datetime:
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    raise TypeError(f"expected a date such as 2026-01-31, found {value!r}")


_CONVERTER = _converter()
