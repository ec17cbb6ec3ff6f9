"""A Region kept in a directory (`--state DIR`): what is written there, and read again.

DIR holds `region.json`, and a file for each volume and snapshot. A file of data comes into being
under its final name only when it is complete, so that whatever a kill interrupted can be told from
what was finished.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import cattrs
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from packer_plugin_osc_chroot.localcloud.state import (
    Account,
    Image,
    Link,
    Snapshot,
    Vm,
    Volume,
    VolumeUpdate,
)
from packer_plugin_osc_chroot.localcloud.user_files import open_regular

# Raised when what is written changes in a way that an older version cannot read.
_FORMAT = 1
_FILE = "region.json"


class StateError(Exception):
    """A state directory that cannot be used. One line, with the directory."""


@dataclass
class UsedToken:
    """A ClientToken, and what it made."""

    account_id: str
    action: str
    token: str
    parameters: dict[str, Any]
    resource_id: str


@dataclass
class ForeignData:
    """A user's image file that is a snapshot's data in place; its size and time tell a change."""

    path: str
    size: int
    modified: int


@dataclass
class Saved:
    """All of a Region that outlives its process."""

    accounts: list[Account]
    vm: Vm
    root_volume_id: str
    volumes: dict[str, Volume] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    images: dict[str, Image] = field(default_factory=dict)
    volume_updates: dict[str, VolumeUpdate] = field(default_factory=dict)
    source_ids: list[str] = field(default_factory=list)
    tokens: list[UsedToken] = field(default_factory=list)
    foreign: dict[str, ForeignData] = field(default_factory=dict)
    format: int = _FORMAT


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_unstructure_hook(datetime, lambda date: date.isoformat())
    converter.register_structure_hook(datetime, lambda text, _: datetime.fromisoformat(text))
    # What stands on the machine only as long as the process lives.
    for kind, name in ((Link, "attachment"), (Snapshot, "writes")):
        gone = {name: override(omit=True)}
        converter.register_unstructure_hook(
            kind,
            make_dict_unstructure_fn(kind, converter, **gone),  # type: ignore[arg-type]
        )
        converter.register_structure_hook(
            kind,
            make_dict_structure_fn(kind, converter, **gone),  # type: ignore[arg-type]
        )
    return converter


_CONVERTER = _converter()


def dump(saved: Saved) -> bytes:
    return json.dumps(_CONVERTER.unstructure(saved)).encode()


def write(directory: Path, data: bytes) -> None:
    """Replace what is saved in one step. It holds keys: only its owner reads it.

    Raises StateError.
    """
    part = directory / f".{_FILE}.part"
    try:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(handle, "wb") as stream:
            stream.write(data)
        os.replace(part, directory / _FILE)
    except OSError as error:
        text = f"--state {directory}: {_FILE} could not be written: {error.strerror}"
        raise StateError(text) from None


def read(directory: Path) -> Saved | None:
    """What was saved last; None where nothing was. Raises StateError."""
    file = directory / _FILE
    try:
        with open_regular(file) as stream:
            found = json.load(stream)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        text = error.strerror if isinstance(error, OSError) else error
        raise StateError(f"{file}: cannot be read: {text}") from None
    written = found.get("format") if isinstance(found, dict) else None
    if written != _FORMAT:
        raise StateError(
            f"{file}: is of format {written}, this version reads {_FORMAT}: use another directory"
        )
    try:
        return _CONVERTER.structure(found, Saved)
    except Exception as error:
        problems = "; ".join(cattrs.transform_error(error))
        raise StateError(f"{file}: is not what was saved: {problems}") from None


@contextmanager
def opened(directory: Path) -> Iterator[None]:
    """Have the directory for oneself; made where it is missing. Raises StateError."""
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        handle = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise StateError(f"--state {directory}: is not a directory") from None
    except OSError as error:
        raise StateError(f"--state {directory}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError(f"{directory}: another localcloud has it open") from None
        yield
    finally:
        os.close(handle)
