"""Small files that the builds of one user on this VM share: hints, which nothing depends on.

They are in the user's cache directory, where the plugin's service is unpacked too. What is there may be
corrupt, another user's or out of date, and the directory may not be there or not be ours: then there is
nothing to be had from it, and no build is the worse for it.
"""

import fcntl
import logging
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

_NAME = "packer-plugin-osc-chroot"
_LARGEST = 64 * 1024
_WRITABLE_BY_OTHERS = 0o022


def private_directory(environ: Mapping[str, str]) -> Path | None:
    """The first of the user's cache directories that nobody else can write to; made if missing."""
    for path in _directories(environ):
        try:
            _make(path)
            found = path.lstat()
        except OSError as error:
            log.debug("%s: %s", path, error)
            continue
        mine = found.st_uid == os.geteuid() and not found.st_mode & _WRITABLE_BY_OTHERS
        if stat.S_ISDIR(found.st_mode) and mine and os.access(path, os.W_OK):
            return path
    return None


def _directories(environ: Mapping[str, str]) -> Iterator[Path]:
    """As the shim has it (`shim/internal/bundle`)."""
    cache, home = environ.get("XDG_CACHE_HOME", ""), environ.get("HOME", "")
    if cache.startswith("/"):
        yield Path(cache) / _NAME
    elif home.startswith("/"):
        yield Path(home) / ".cache" / _NAME
    if os.geteuid() == 0:
        yield Path("/var/cache") / _NAME


def _make(path: Path) -> None:
    """Make what is missing of it; under sudo, HOME may be another user's, and is left alone."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    if path.stat().st_uid not in (0, os.geteuid()):
        raise PermissionError(f"{path} belongs to another user")
    for each in reversed(missing):
        with suppress(FileExistsError):
            each.mkdir(0o700)


def open_private(path: Path, *, create: bool = False) -> int | None:
    """A descriptor to read and write with, or None where there is no such file of ours."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        opened = os.open(path, flags | (os.O_CREAT if create else 0), 0o600)
    except OSError as error:
        log.debug("%s: %s", path, error)
        return None
    found = os.fstat(opened)
    mine = found.st_uid == os.geteuid() and not found.st_mode & _WRITABLE_BY_OTHERS
    if stat.S_ISREG(found.st_mode) and mine and found.st_size <= _LARGEST:
        return opened
    log.info("%s is not ours, or no small file: not used", path)
    os.close(opened)
    return None


def lock_private(file: int, *, seconds: float) -> bool:
    """Whether the lock of an opened file could be had in that time; closing the file gives it back."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
        except OSError as error:
            # As of a network filesystem without locks.
            log.debug("no lock: %s", error)
            return False
        time.sleep(0.002)


def read_private(path: Path) -> bytes:
    """What it holds; nothing where there is no such file of ours, or it cannot be read."""
    opened = open_private(path)
    if opened is None:
        return b""
    with os.fdopen(opened, "rb") as file:
        try:
            return file.read(_LARGEST)
        except OSError as error:
            log.debug("%s: %s", path, error)
            return b""


def replace_private(path: Path, data: bytes) -> None:
    """Put a new file in its place, at once and whole. Where that cannot be, nothing happens."""
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError as error:
        log.debug("%s: %s", path, error)
        with suppress(OSError):
            if temporary:
                os.unlink(temporary)
