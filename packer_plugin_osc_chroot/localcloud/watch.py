"""Notices that a disk was written: inotify on its node, as udev does it.

The kernel reports the close of a node that was open for writing, which is when sfdisk, parted, mkfs
and dd have ended. The caller reads the partition table again.
"""

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path

_IN_CLOSE_WRITE = 0x8
_EVENT = struct.Struct("iIII")


class NodeWatch:
    """Calls `changed(node)` on the event loop's thread when a watched node was written."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, changed: Callable[[Path], None]) -> None:
        self._loop = loop
        self._changed = changed
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._handle = self._check(self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        self._nodes: dict[int, Path] = {}
        loop.add_reader(self._handle, self._read)

    def add(self, node: Path) -> None:
        # The watch ends by itself when the node is removed.
        path = os.fsencode(node)
        watch = self._check(self._libc.inotify_add_watch(self._handle, path, _IN_CLOSE_WRITE))
        self._nodes[watch] = node

    def close(self) -> None:
        self._loop.remove_reader(self._handle)
        os.close(self._handle)

    def _read(self) -> None:
        try:
            data = os.read(self._handle, 65536)
        except BlockingIOError:
            return
        written: dict[Path, None] = {}
        while data:
            watch, mask, _, length = _EVENT.unpack_from(data)
            data = data[_EVENT.size + length :]
            node = self._nodes.get(watch)
            if node is None:
                continue
            if mask & _IN_CLOSE_WRITE:
                written[node] = None
            else:
                del self._nodes[watch]
        for node in written:
            self._changed(node)

    @staticmethod
    def _check(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result
