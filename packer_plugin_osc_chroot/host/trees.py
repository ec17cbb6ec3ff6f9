"""File trees as streams: read from one open directory, written into another.

A stream is made of entries, parents before children; the content of a file follows its entry in
chunks. Both ends work relative to open directories and follow no symlink on their own, so it does
not matter whose tree it is or what changes while it is copied.
"""

import errno
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from packer_plugin_osc_chroot.host.rooted import Rooted

CHUNK = 256 * 1024
# O_NONBLOCK: opening a pipe or device that took a file's place must not hang.
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
NEW_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
OVER_FLAGS = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

DIRECTORY, FILE, LINK, SKIPPED = "d", "f", "l", "s"


class Entry(NamedTuple):
    """`path` is relative to the tree's top; `target` is a link's, or why something is skipped."""

    kind: str
    path: str
    mode: int = 0
    target: str = ""


Stream = Iterator[Entry | bytes]


def read_tree(top: int, *, prefix: str = "", exclude: Collection[str] = ()) -> Stream:
    """Read what is in the open directory `top`. Paths get `prefix` and a slash before them.

    `exclude` holds paths relative to `top`; what is below an excluded directory is left out too.
    """
    left_out = {os.path.normpath(path.lstrip("/")) for path in exclude if path}
    start = f"{prefix}/" if prefix else ""
    if prefix:
        yield Entry(DIRECTORY, prefix, stat.S_IMODE(os.fstat(top).st_mode))
    levels: list[tuple[int, str, Iterator[tuple[str, str]]]] = []
    try:
        levels.append((os.dup(top), "", _listing(top)))
        while levels:
            directory, below, names = levels[-1]
            listed = next(names, None)
            if listed is None:
                os.close(directory)
                levels.pop()
                continue
            kind, name = listed
            path = below + name
            if left_out and path in left_out:
                continue
            try:
                if kind == FILE:
                    yield from _read_file(directory, name, start + path)
                elif kind == DIRECTORY:
                    fd = os.open(name, DIR_FLAGS, dir_fd=directory)
                    levels.append((fd, path + "/", _listing(fd)))
                    yield Entry(DIRECTORY, start + path, stat.S_IMODE(os.fstat(fd).st_mode))
                elif kind == LINK:
                    target = os.readlink(name, dir_fd=directory)
                    yield Entry(LINK, start + path, target=target)
                else:
                    yield Entry(SKIPPED, start + path, target="neither file, folder nor link")
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
                    raise OSError(error.errno, error.strerror, start + path) from None
                yield Entry(SKIPPED, start + path, target="changed during the transfer")
    finally:
        for directory, _, _ in levels:
            os.close(directory)


def _listing(directory: int) -> Iterator[tuple[str, str]]:
    with os.scandir(directory) as entries:
        found = [(_kind(entry), entry.name) for entry in entries]
    found.sort(key=lambda each: each[1])
    return iter(found)


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return LINK
    if entry.is_file(follow_symlinks=False):
        return FILE
    return DIRECTORY if entry.is_dir(follow_symlinks=False) else SKIPPED


def _read_file(directory: int, name: str, path: str) -> Stream:
    fd = os.open(name, READ_FLAGS, dir_fd=directory)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            yield Entry(SKIPPED, path, target="no regular file")
            return
        yield Entry(FILE, path, stat.S_IMODE(found.st_mode))
        yield from read_chunks(fd, size=found.st_size)
    finally:
        os.close(fd)


def read_chunks(fd: int, *, size: int) -> Iterator[bytes]:
    """The content of an open file; `size` only saves the last read (files of /proc say 0)."""
    done = 0
    while data := os.read(fd, CHUNK):
        yield data
        done += len(data)
        if done == size and len(data) < CHUNK:
            return


class TreeWriter:
    """Writes a stream into an open directory.

    With `rooted`, symlinks to directories and files that exist below are followed inside that root,
    as cp would in there; `real` is then the directory's path in it. Without, they are errors.
    New files and directories get the stream's modes, existing ones keep theirs.
    """

    def __init__(
        self,
        top: int,
        *,
        rooted: Rooted | None = None,
        real: str = "/",
        mode_mask: int = 0o7777,
        on_skipped: Callable[[Entry], None] = lambda entry: None,
    ) -> None:
        self._rooted = rooted
        self._mask = mode_mask
        self._on_skipped = on_skipped
        # Path in the stream, descriptor, path in the root, mode to set when everything is in.
        self._levels: list[tuple[str, int, str, int | None]] = [("", os.dup(top), real, None)]
        self._file = -1
        self._file_is_new = False
        self._file_at = ("", -1)

    def write(self, stream: Iterable[Entry | bytes]) -> None:
        try:
            for item in stream:
                if isinstance(item, bytes):
                    try:
                        write_all(self._file, item)
                    except OSError as error:
                        raise OSError(error.errno, error.strerror, self._shown()) from None
                else:
                    self._finish_file()
                    self._begin(item)
            self._finish_file()
        finally:
            self._close()

    def _shown(self) -> str:
        return os.path.join(self._levels[-1][2], self._file_at[0])

    def _begin(self, entry: Entry) -> None:
        if entry.kind == SKIPPED:
            self._on_skipped(entry)
            return
        parent, _, name = entry.path.rpartition("/")
        if name in ("", ".", ".."):
            raise OSError(errno.EINVAL, "not a name of a file", entry.path)
        while self._levels[-1][0] != parent:
            if len(self._levels) == 1:
                raise OSError(errno.EINVAL, "out of order in the stream", entry.path)
            self._leave()
        _, directory, real, _ = self._levels[-1]
        shown = os.path.join(real, name)
        try:
            if entry.kind == DIRECTORY:
                self._enter(entry, directory, name, shown)
            elif entry.kind == LINK:
                _write_link(entry.target, directory, name)
            else:
                self._file_at = (name, directory)
                self._file, self._file_is_new = open_for_writing(
                    directory, name, rooted=self._rooted, real=shown, mode=entry.mode & self._mask
                )
        except OSError as error:
            raise OSError(error.errno, error.strerror, error.filename2 or shown) from None

    def _enter(self, entry: Entry, directory: int, name: str, real: str) -> None:
        mode: int | None = entry.mode & self._mask
        try:
            os.mkdir(name, 0o700, dir_fd=directory)
        except FileExistsError:
            mode = None
        try:
            fd = os.open(name, DIR_FLAGS, dir_fd=directory)
        except OSError as error:
            if self._rooted is None or error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            with self._rooted.find(real) as spot:
                fd = spot.open_dir()
                real = spot.real
        self._levels.append((entry.path, fd, real, mode))

    def _leave(self) -> None:
        _, fd, _, mode = self._levels.pop()
        try:
            if mode is not None:
                os.fchmod(fd, mode)
        finally:
            os.close(fd)

    def _finish_file(self) -> None:
        if self._file >= 0:
            fd, self._file = self._file, -1
            os.close(fd)

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            if self._file_is_new:
                with suppress(OSError):
                    os.unlink(self._file_at[0], dir_fd=self._file_at[1])
        while self._levels:
            self._leave()


def open_for_writing(
    directory: int, name: str, *, rooted: Rooted | None, real: str, mode: int
) -> tuple[int, bool]:
    """Open a regular file to be filled: a new one with `mode`, or an existing one, emptied.

    Whether it is new is the second of the pair. A symlink is followed inside `rooted`.
    """
    try:
        fd = os.open(name, NEW_FLAGS, 0o600, dir_fd=directory)
    except FileExistsError:
        pass
    else:
        os.fchmod(fd, mode)
        return fd, True
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if stat.S_ISLNK(found.st_mode) and rooted is not None:
        with rooted.find(real) as spot:
            if spot.stat is not None and stat.S_ISLNK(spot.stat.st_mode):
                raise OSError(errno.ELOOP, "is a symlink that keeps changing", real)
            fd, _ = open_for_writing(
                spot.directory, spot.name, rooted=None, real=spot.real, mode=mode
            )
            # Its name is elsewhere: a failed transfer leaves it.
            return fd, False
    if stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EISDIR, "is a folder", real)
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, "is a symlink", real)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "is no regular file", real)
    fd = os.open(name, OVER_FLAGS, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "is no regular file", real)
        os.ftruncate(fd, 0)
    except BaseException:
        os.close(fd)
        raise
    return fd, False


def _write_link(target: str, directory: int, name: str) -> None:
    try:
        os.symlink(target, name, dir_fd=directory)
    except FileExistsError:
        os.unlink(name, dir_fd=directory)
        os.symlink(target, name, dir_fd=directory)


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
