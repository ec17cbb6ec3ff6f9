"""Pipes that carry the content of files: from and to the shim, beside the calls, and the agent."""

import fcntl
import os
import select
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.host.trees import CHUNK

# What a pipe is to hold: both sides work at a time, and not in turns.
_SIZE = 1 << 20
# Seconds between looks for a cancel, while the other side does nothing.
_LOOK_EVERY = 0.1


def widen(fd: int) -> None:
    """As far as the kernel grants it (fs.pipe-max-size, fs.pipe-user-pages-soft)."""
    with suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _SIZE)


@contextmanager
def opened_pipe(path: str, mode: int) -> Iterator[int]:
    """The shim's pipe; `mode` is os.O_RDONLY or os.O_WRONLY. Raises BuildError."""
    try:
        fd = os.open(path, mode | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BuildError(
            f"the plugin's own pipe {path} cannot be opened: {error.strerror}",
            hint="Both of its processes need the same user and the same /proc.",
        ) from error
    try:
        widen(fd)
        yield fd
    finally:
        os.close(fd)


def read_pipe(fd: int, token: CancelToken) -> Iterator[bytes]:
    """All of it, to its end. Raises Cancelled."""
    while True:
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            _wait(fd, select.POLLIN, token)
            continue
        if not data:
            return
        yield data


def write_pipe(fd: int, chunks: Iterable[bytes], token: CancelToken) -> None:
    """Raises Cancelled, and BrokenPipeError where nobody reads any more."""
    for chunk in chunks:
        view = memoryview(chunk)
        while view:
            try:
                view = view[os.write(fd, view) :]
            except BlockingIOError:
                _wait(fd, select.POLLOUT, token)


def _wait(fd: int, event: int, token: CancelToken) -> None:
    poller = select.poll()
    poller.register(fd, event)
    while not poller.poll(_LOOK_EVERY * 1000):
        token.check()
