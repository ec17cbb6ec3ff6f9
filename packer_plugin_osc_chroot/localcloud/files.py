"""Copies of disk image files: shared extents where the filesystem can, else only the data."""

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

GIB = 1024**3

_FICLONE = 0x40049409
_CHUNK = 64 * 1024**2
# What the kernel answers where it cannot copy between these two files.
_CANNOT = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ETXTBSY, errno.EBADF}


def gibibytes(size: int) -> int:
    """The size in whole GiB that holds `size` bytes, at least one."""
    return max(1, -(-size // GIB))


def create_sparse(path: Path, *, size: int) -> None:
    with open(path, "xb") as stream:
        stream.truncate(size)


def copy_sparse(source: Path, target: Path, *, size: int | None = None) -> None:
    """Copy `source` to the new file `target`, holes kept; `size` (bytes) makes it longer."""
    with open(source, "rb") as reader, open(target, "xb") as writer:
        length = os.fstat(reader.fileno()).st_size
        if not try_clone(reader.fileno(), writer.fileno()):
            writer.truncate(length)
            for start, end in _data_ranges(reader.fileno(), length):
                _copy_range(reader.fileno(), writer.fileno(), start=start, end=end)
        if size is not None and size != length:
            writer.truncate(size)


def replace_sparse(source: Path, target: Path, *, size: int | None = None) -> None:
    """Copy `source`, holes kept, over whatever `target` is: in one step, once it is complete.

    Raises OSError, which names one of both.
    """
    part = target.with_name(f".{target.name}.part")
    try:
        part.unlink(missing_ok=True)
        copy_sparse(source, part, size=size)
        os.replace(part, target)
    except OSError as error:
        if error.filename is not None and os.fspath(error.filename) == os.fspath(source):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(target)) from None
    finally:
        part.unlink(missing_ok=True)


def try_clone(source: int, target: int) -> bool:
    """Let the file `target` share the extents of `source`; False where that is not possible."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in _CANNOT or error.errno == errno.ENOTTY:
            return False
        raise
    return True


def _data_ranges(handle: int, length: int) -> Iterator[tuple[int, int]]:
    offset = 0
    while offset < length:
        try:
            start = os.lseek(handle, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        offset = os.lseek(handle, start, os.SEEK_HOLE)
        yield start, offset


def _copy_range(source: int, target: int, *, start: int, end: int) -> None:
    position = start
    while position < end:
        wanted = min(_CHUNK, end - position)
        try:
            copied = os.copy_file_range(source, target, wanted, position, position)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            copied = os.pwrite(target, os.pread(source, wanted, position), position)
        if copied == 0:
            raise OSError(errno.EIO, "the source file became shorter while it was copied")
        position += copied
