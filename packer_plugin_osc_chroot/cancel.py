"""Cancellation: one token for each build, handed to everything that waits.

A token is cancelled once and stays so. Undoing runs under a token of its own, with a deadline, so
that the cancel which caused it does not end it too.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from packer_plugin_osc_chroot.errors import Cancelled


class CancelToken:
    """Thread-safe. `deadline` is in seconds from now; passing it counts as a cancel."""

    def __init__(self, *, deadline: float | None = None, reason: str = "") -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._next_key = 0
        self._reason = reason or "build was cancelled"
        self._ends_at = None if deadline is None else time.monotonic() + deadline

    def cancel(self, reason: str = "") -> None:
        """End every wait under this token and run its callbacks. Only the first call counts."""
        with self._lock:
            if self._event.is_set():
                return
            if reason:
                self._reason = reason
            self._event.set()
            callbacks = list(self._callbacks.values())
        for callback in callbacks:
            callback()

    @property
    def cancelled(self) -> bool:
        if self._ends_at is not None and time.monotonic() >= self._ends_at:
            self.cancel()
        return self._event.is_set()

    def check(self) -> None:
        """Raise Cancelled when the token is."""
        if self.cancelled:
            raise Cancelled(self._reason)

    def sleep(self, seconds: float) -> None:
        """Wait that long; a cancel ends it at once. Raises Cancelled."""
        if self._ends_at is not None:
            seconds = min(seconds, max(0.0, self._ends_at - time.monotonic()))
        self._event.wait(seconds)
        self.check()

    @contextmanager
    def on_cancel(self, callback: Callable[[], None]) -> Iterator[None]:
        """Have `callback` run when the token is cancelled inside the block, or already was.

        It runs in the cancelling thread and must be quick and not raise. A deadline alone calls it
        only when somebody looks at the token.
        """
        with self._lock:
            key = self._next_key
            self._next_key += 1
            self._callbacks[key] = callback
            already = self._event.is_set()
        if already:
            callback()
        try:
            yield
        finally:
            with self._lock:
                self._callbacks.pop(key, None)
