"""File trees as streams: read from one open directory, written into another.

A stream is made of entries, parents before children; the content of a file follows its entry in
chunks. Both ends work relative to open directories and follow no symlink on their own, so it does
not matter whose tree it is or what changes while it is copied.
"""

import errno
import os
import secrets
import stat
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
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


Stream = Generator[Entry | bytes, None, None]


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
        self._file: FileWriter | None = None

    def write(self, stream: Iterable[Entry | bytes]) -> None:
        try:
            for item in stream:
                if isinstance(item, bytes):
                    if self._file is None:
                        raise OSError(errno.EINVAL, "content without a file in the stream")
                    self._file.write(item)
                else:
                    self._finish_file()
                    self._begin(item)
            self._finish_file()
        finally:
            self._close()

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
                self._file = open_for_writing(
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
        file, self._file = self._file, None
        if file is not None:
            file.commit()

    def _close(self) -> None:
        if self._file is not None:
            self._file.abandon()
        while self._levels:
            self._leave()


def hidden_name(name: str) -> str:
    """A name for what is beside a file for a while; of 255 bytes at most, as every name."""
    return f".{os.fsdecode(os.fsencode(name)[:200])}.packer-{secrets.token_hex(4)}"


class FileWriter:
    """A file that is written: it is there at `commit`, and whole. `abandon` leaves what was there.

    Over an existing file the content is gathered under a hidden name beside it. Then that takes its
    place, with its owner, mode and attributes; where it cannot (other hard links, a mount over it),
    the content is copied into it.
    """

    def __init__(self, directory: int, name: str, *, real: str) -> None:
        self._directory = os.dup(directory)
        self._name = name
        self._real = real
        self._fd = -1
        self._old = -1
        # What `abandon` removes.
        self._made = ""

    def create(self, mode: int) -> None:
        """Raises FileExistsError."""
        self._fd = os.open(self._name, NEW_FLAGS, 0o600, dir_fd=self._directory)
        self._made = self._name
        os.fchmod(self._fd, mode)

    def replace(self) -> None:
        """Raises OSError, for what is no regular file too."""
        self._old = os.open(self._name, OVER_FLAGS, dir_fd=self._directory)
        if not stat.S_ISREG(os.fstat(self._old).st_mode):
            raise OSError(errno.EINVAL, "is no regular file", self._real)
        aside = hidden_name(self._name)
        try:
            self._fd = os.open(
                aside, NEW_FLAGS & ~os.O_WRONLY | os.O_RDWR, 0o600, dir_fd=self._directory
            )
            self._made = aside
        except PermissionError:
            # Who may write to the file need not be allowed to make another beside it.
            self._fd, self._old = self._old, -1
            os.ftruncate(self._fd, 0)

    def write(self, data: bytes) -> None:
        try:
            write_all(self._fd, data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._real) from None

    def commit(self) -> None:
        try:
            if self._old >= 0 and not self._take_its_place():
                self._make_room()
                os.lseek(self._fd, 0, os.SEEK_SET)
                for chunk in read_chunks(self._fd, size=os.fstat(self._fd).st_size):
                    write_all(self._old, chunk)
                os.ftruncate(self._old, os.fstat(self._fd).st_size)
            else:
                self._made = ""
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._real) from None
        finally:
            self.abandon()

    def _make_room(self) -> None:
        """Have all that the content needs before any of the old one is written over."""
        had = os.fstat(self._old).st_size
        try:
            if size := os.fstat(self._fd).st_size:
                try:
                    os.posix_fallocate(self._old, 0, size)
                except OSError as error:
                    # On a filesystem that has no such call (ext2, ext3, NFS 3) the C library writes
                    # instead, after a look at what is there, which this descriptor does not allow.
                    if error.errno != errno.EBADF:
                        raise
                    if size > had:
                        os.posix_fallocate(self._old, had, size - had)
        except OSError:
            os.ftruncate(self._old, had)
            raise

    def _take_its_place(self) -> bool:
        old = os.fstat(self._old)
        if old.st_nlink != 1:
            return False
        try:
            os.fchown(self._fd, old.st_uid, old.st_gid)
            os.fchmod(self._fd, stat.S_IMODE(old.st_mode))
            for attribute in os.listxattr(self._old):
                # Capabilities end with the content that had them.
                if attribute != "security.capability":
                    os.setxattr(self._fd, attribute, os.getxattr(self._old, attribute))
            os.rename(
                self._made, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory
            )
        except OSError:
            return False
        return True

    def abandon(self) -> None:
        """Also what ends it after `commit`."""
        for fd in (self._fd, self._old):
            if fd >= 0:
                os.close(fd)
        self._fd = self._old = -1
        if self._made:
            with suppress(OSError):
                os.unlink(self._made, dir_fd=self._directory)
        self._made = ""
        if self._directory >= 0:
            os.close(self._directory)
        self._directory = -1


def open_for_writing(
    directory: int, name: str, *, rooted: Rooted | None, real: str, mode: int
) -> FileWriter:
    """Begin a regular file: a new one with `mode`, or an existing one's new content.

    A symlink is followed inside `rooted`.
    """
    writer = FileWriter(directory, name, real=real)
    try:
        writer.create(mode)
        return writer
    except FileExistsError:
        writer.abandon()
    except BaseException:
        writer.abandon()
        raise
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if stat.S_ISLNK(found.st_mode) and rooted is not None:
        with rooted.find(real) as spot:
            if spot.stat is not None and stat.S_ISLNK(spot.stat.st_mode):
                raise OSError(errno.ELOOP, "is a symlink that keeps changing", real)
            return open_for_writing(
                spot.directory, spot.name, rooted=None, real=spot.real, mode=mode
            )
    if stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EISDIR, "is a folder", real)
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, "is a symlink", real)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "is no regular file", real)
    writer = FileWriter(directory, name, real=real)
    try:
        writer.replace()
        return writer
    except BaseException:
        writer.abandon()
        raise


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
