"""What a Run has to tell Packer, in its order, and bounded: what is said faster than Packer shows it
waits, and so does the command that says it.

Packer shows some thousand lines a second. After a cancel nobody wants to see what a command had printed
before it: such details are dropped, and counted.
"""

import threading
from collections import deque

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.contract import plugin_pb2 as pb

# Bytes of text that wait at most, each message counted with its own size.
LIMIT = 256 << 10
_OWN_SIZE = 100
# Seconds between two looks for a cancel.
_LOOK_EVERY = 0.1


class Outbox:
    """Thread-safe. `token` is the build's."""

    def __init__(self, token: CancelToken) -> None:
        self._token = token
        self._changed = threading.Condition()
        self._waiting: deque[pb.RunEvent] = deque()
        self._size = 0
        self._dropped = 0
        self._purged = False
        self._closed = False

    def put(self, event: pb.RunEvent) -> None:
        """Waits while there is too much of it, unless the build is cancelled, or the outbox closed."""
        size = _size(event)
        with self._changed:
            while self._size > LIMIT and not self._closed and not self._token.cancelled:
                self._changed.wait(_LOOK_EVERY)
            if self._closed:
                return
            self._purge()
            if self._size > LIMIT and _is_detail(event):
                self._dropped += 1
                return
            self._waiting.append(event)
            self._size += size
            self._changed.notify_all()

    def get(self) -> pb.RunEvent | None:
        """The next one, waited for; None once it is closed and empty."""
        with self._changed:
            while not self._waiting and not self._dropped and not self._closed:
                self._changed.wait()
            self._purge()
            if self._dropped and not (self._waiting and _is_detail(self._waiting[0])):
                count, self._dropped = self._dropped, 0
                return _detail(f"    ({count} lines are not shown: the build was cancelled)")
            if not self._waiting:
                return None
            event = self._waiting.popleft()
            self._size -= _size(event)
            self._changed.notify_all()
            return event

    def close(self, *, unread: bool = False) -> None:
        """Nothing comes any more; `unread`: and nobody takes what is there."""
        with self._changed:
            self._closed = True
            if unread:
                self._waiting.clear()
                self._size = self._dropped = 0
            self._changed.notify_all()

    def _purge(self) -> None:
        """Once cancelled, drop the details that were there before."""
        if self._purged or not self._token.cancelled:
            return
        self._purged = True
        kept = [event for event in self._waiting if not _is_detail(event)]
        self._dropped += len(self._waiting) - len(kept)
        self._waiting = deque(kept)
        self._size = sum(map(_size, kept))
        self._changed.notify_all()


def _is_detail(event: pb.RunEvent) -> bool:
    return event.WhichOneof("event") == "ui" and event.ui.kind == pb.UiMessage.MESSAGE


def _detail(text: str) -> pb.RunEvent:
    return pb.RunEvent(ui=pb.UiMessage(kind=pb.UiMessage.MESSAGE, text=text))


def _size(event: pb.RunEvent) -> int:
    return event.ByteSize() + _OWN_SIZE
