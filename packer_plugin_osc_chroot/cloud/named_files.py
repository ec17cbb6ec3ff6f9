"""Files that an option or the environment names: small regular files, whatever really stands there."""

import errno
import os
import stat

_LARGEST = 1 << 20


def read_named(path: str) -> bytes:
    """What the file holds. Raises OSError, for what is no regular file or above 1 MiB too.

    A FIFO would be waited for without an end, and a device read without one.
    """
    # Looked at before it is opened: opening a device can have effects.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "is no regular file", path)
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise OSError(errno.EFBIG, "is larger than 1 MiB", path)
    return content
