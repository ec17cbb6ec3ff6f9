"""Cancellation: one token for each build, handed to everything that waits.

A token is cancelled once and stays so. Undoing runs under a token of its own, with a deadline, so
that the cancel which caused it does not end it too.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from packer_plugin_osc_chroot.errors import Cancelled

T = TypeVar("T")

# Seconds that undoing one thing may take before it is given up and reported as left; not counted
# where it waits for a snapshot (see `cloud/wait.py`).
UNDO_SECONDS = 300.0


class CancelToken:
    """Thread-safe. `deadline` is in seconds from now; passing it counts as a cancel."""

    def __init__(self, *, deadline: float | None = None, reason: str = "") -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._next_key = 0
        self._reason = reason or "build was cancelled"
        self._deadline = deadline
        self._ends_at = None if deadline is None else time.monotonic() + deadline
        self._abandoned = False

    def cancel(self, reason: str = "", *, abandoned: bool = False) -> None:
        """End every wait under this token and run its callbacks. Only the first call counts.

        `abandoned` says that nobody is there any more to clean up what -on-error would keep; that
        counts in later calls too.
        """
        self._abandoned = self._abandoned or abandoned
        with self._lock:
            if self._event.is_set():
                return
            if reason:
                self._reason = reason
            self._event.set()
            callbacks = list(self._callbacks.values())
        for callback in callbacks:
            callback()

    def renew(self) -> None:
        """Have the deadline count from now: what is waited for is known to go on."""
        if self._deadline is not None:
            self._ends_at = time.monotonic() + self._deadline

    @property
    def reason(self) -> str:
        """What `check` says of the cancel."""
        return self._reason

    @property
    def abandoned(self) -> bool:
        return self._abandoned

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


@contextmanager
def following(token: CancelToken, own: CancelToken) -> Iterator[None]:
    """Have `own` end with `token` inside the block, and say that token's reason then, not its own."""
    with token.on_cancel(lambda: own.cancel(token.reason)):
        yield


def undo_token() -> CancelToken:
    """Undoing goes on whatever happened to the build, for a limited time."""
    return CancelToken(deadline=UNDO_SECONDS, reason="undoing took too long")


def in_thread(work: Callable[[], T], *, name: str) -> Future[T]:
    """Do something in a thread of its own, which may be left behind."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(work())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True, name=name).start()
    return answer


def await_end(
    answer: Future[Any],
    *,
    token: CancelToken,
    while_waiting: Callable[[], None] = lambda: None,
) -> None:
    """Until it is over, whatever came of it. `while_waiting` is called now and then.

    Raises Cancelled.
    """
    arrived = threading.Event()
    answer.add_done_callback(lambda _: arrived.set())
    with token.on_cancel(arrived.set):
        while not arrived.wait(0.5) and not token.cancelled:
            while_waiting()
    token.check()


def abandonable(
    work: Callable[[], T],
    *,
    token: CancelToken,
    name: str,
    while_waiting: Callable[[], None] = lambda: None,
) -> T:
    """Do something that changes nothing in a thread of its own, which a cancel leaves behind.

    For requests over a network, which may hang in a place that no cancel reaches.
    """
    answer = in_thread(work, name=name)
    await_end(answer, token=token, while_waiting=while_waiting)
    return answer.result()
