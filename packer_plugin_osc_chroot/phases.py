"""Runs the phases of a build: the only place that times them, looks for a cancel between them, pauses
for -debug, decides by -on-error, and undoes what stands.

What a phase leaves standing is an entry on one stack. Two kinds: context managers, which are always
undone (a mount, a link, a volume), and drafts, which are undone unless the build keeps them (the
snapshot, the image).
"""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self, TypeVar

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, Cancelled, UndoError
from packer_plugin_osc_chroot.ui import Ui

log = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds that undoing one thing may take before it is given up and reported as left.
UNDO_SECONDS = 300.0

# What -on-error=abort left standing. A generator that is dropped runs its `finally`, so the managers
# must outlive the build, and the process must end without finalising them (see `service/server.py`).
_kept_for_ever: list["_Entry"] = []


def undo_token() -> CancelToken:
    """Undoing goes on whatever happened to the build, for a limited time."""
    return CancelToken(deadline=UNDO_SECONDS, reason="undoing took too long")


@dataclasses.dataclass(frozen=True)
class Timing:
    """One row of the table at the end: seconds, and whether it ran beside others."""

    name: str
    seconds: float
    beside: bool = False


@dataclasses.dataclass(frozen=True)
class _Entry:
    name: str
    undo: Callable[[], None]
    draft: bool


class Phases:
    """Used as a context manager around a build. Its exit undoes all that is not kept."""

    def __init__(
        self, *, ui: Ui, token: CancelToken, debug: bool = False, on_error: str = ""
    ) -> None:
        self.timings: list[Timing] = []
        self._ui = ui
        self._token = token
        self._debug = debug
        self._on_error = on_error or "cleanup"
        self._entries: list[_Entry] = []
        self._lock = threading.Lock()
        self._beside: list[_Beside] = []
        self._aborted = False

    def do(self, name: str, action: Callable[[], T]) -> T:
        """Run a phase that leaves nothing standing."""
        return self._run(name, action)

    def enter(self, name: str, open_manager: Callable[[], AbstractContextManager[T]]) -> T:
        """Run a phase whose effect stands until it is left. It is opened anew when it is retried."""

        def action() -> T:
            manager = open_manager()
            value = manager.__enter__()
            self._push(_Entry(name, lambda: _exit(manager), draft=False))
            return value

        return self._run(name, action)

    def draft(self, name: str, undo: Callable[[], None]) -> None:
        """Have `undo` run unless the build gets as far as `keep`."""
        self._push(_Entry(name, undo, draft=True))

    def keep(self) -> None:
        """The commit: from here on no draft is undone."""
        with self._lock:
            self._entries = [entry for entry in self._entries if not entry.draft]

    def level(self) -> int:
        """How much stands now: what is entered later can be left again with `leave`."""
        return len(self._entries)

    def leave(self, name: str, *, since: int) -> None:
        """Leave, in reverse order, what was entered since that level. Drafts stay."""
        self._timed(name, lambda: self._leave(since), beside=False)
        self._pause(name)

    def leave_beside(self, name: str, *, since: int) -> None:
        """The same in a thread of its own; `join` waits for it, and so does the end."""
        beside = _Beside(lambda: self._timed(name, lambda: self._leave(since), beside=True))
        self._beside.append(beside)
        beside.start()

    def join(self) -> None:
        """Wait for what runs beside; the first error comes out here."""
        while self._beside:
            self._beside.pop(0).finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        failures: list[Exception] = []
        while self._beside:
            try:
                self.join()
            except Exception as failure:
                failures.append(failure)
        if error is not None and self._aborted:
            self._report_kept()
            return
        entries = self._take(since=0, drafts=True)
        if entries and error is not None:
            self._ui.say("Taking back what was made...")
        failures += self._undo(entries)
        if not failures:
            return
        if error is None:
            raise failures[0]
        for other in failures:
            if other is not error:
                error.add_note(str(other))

    def _push(self, entry: _Entry) -> None:
        with self._lock:
            self._entries.append(entry)

    def _take(self, *, since: int, drafts: bool) -> list[_Entry]:
        """Remove and return the entries above a level, newest first."""
        with self._lock:
            taken = [entry for entry in self._entries[since:] if drafts or not entry.draft]
            stay = [entry for entry in self._entries[since:] if entry not in taken]
            self._entries[since:] = stay
        return taken[::-1]

    def _leave(self, since: int) -> None:
        failures = self._undo(self._take(since=since, drafts=False))
        if failures:
            raise failures[0]

    def _undo(self, entries: list[_Entry]) -> list[Exception]:
        """Undo all of them whatever fails; each failure is shown at once, with what is left."""
        failures: list[Exception] = []
        for entry in entries:
            try:
                entry.undo()
            except Exception as failure:
                log.exception("undoing %s", entry.name)
                self._ui.error(f"Could not undo {entry.name}: {failure}")
                if isinstance(failure, UndoError):
                    for left in failure.left:
                        self._ui.error(f"  left: {left}")
                failures.append(failure)
        return failures

    def _run(self, name: str, action: Callable[[], T]) -> T:
        while True:
            self._token.check()
            try:
                value = self._timed(name, action, beside=False)
            except Exception as error:
                if self._wants_retry(name, error):
                    continue
                raise
            self._token.check()
            self._pause(name)
            return value

    def _timed(self, name: str, action: Callable[[], T], *, beside: bool) -> T:
        begun = time.monotonic()
        try:
            return action()
        finally:
            self.timings.append(Timing(name, time.monotonic() - begun, beside))

    def _pause(self, name: str) -> None:
        if not self._debug:
            return
        try:
            self._ui.ask(f"Pausing after '{name}' (-debug). Press enter to continue.")
        except Cancelled:
            raise
        except BuildError as error:
            # As Packer's own builders: without a terminal -debug does not pause.
            log.info("not pausing: %s", error)

    def _wants_retry(self, name: str, error: Exception) -> bool:
        """Apply -on-error to a failed phase: true to run it again."""
        if self._on_error in ("abort", "run-cleanup-provisioner"):
            # As Packer's own builders: under abort a cancel keeps everything too.
            self._aborted = True
            return False
        if self._on_error != "ask" or isinstance(error, Cancelled):
            return False
        self._ui.error(f"'{name}' failed: {error}")
        while True:
            answer = self._ui.ask(
                "[c] Clean up and exit, [a] abort without cleanup, or [r] retry this step?"
            )
            match answer.strip().lower()[:1]:
                case "c":
                    return False
                case "a":
                    self._aborted = True
                    return False
                case "r":
                    return True

    def _report_kept(self) -> None:
        """What -on-error=abort left standing, newest first."""
        _kept_for_ever.extend(self._entries)
        if not self._entries:
            return
        self._ui.error("Nothing is undone (-on-error). Still there, to be removed in this order:")
        for entry in reversed(self._entries):
            self._ui.error(f"  {entry.name}")


class _Beside:
    """An action in a thread of its own; its error comes out of `finish`."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self._action = action
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="beside", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            self._action()
        except Exception as error:
            self._error = error


def _exit(manager: AbstractContextManager[Any]) -> None:
    manager.__exit__(None, None, None)
