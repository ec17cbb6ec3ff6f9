"""Files that users name: only regular ones, so that nothing waits for ever and everything has an end.

Opening a FIFO waits for its other end, and a device may have as many bytes as are asked for.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def check_regular(file: Path) -> None:
    """Raises OSError where `file` is missing, or is something else: its text says what."""
    mode = file.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        text = f"is {kind}: a regular file is needed"
        raise OSError(errno.EINVAL, text, os.fspath(file))


def open_regular(file: Path) -> BinaryIO:
    """Open it for reading. Raises OSError."""
    check_regular(file)
    return open(file, "rb")
