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
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, Cancelled, UndoError
from packer_plugin_osc_chroot.journal.journal import RECLAIM, Journal
from packer_plugin_osc_chroot.ui import Ui

log = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds between two looks for a cancel while what runs beside is waited for.
_CANCEL_EVERY = 0.2
# What -on-error=abort left standing. A generator that is dropped runs its `finally`, so the managers
# must outlive the build, and the process must end without finalising them (see `service/server.py`).
_kept_for_ever: list["_Entry"] = []


@dataclasses.dataclass(frozen=True)
class Timing:
    """One row of the table at the end: seconds, and whether it ran beside others.

    `begun` is of the kernel's monotonic clock, in seconds.
    """

    name: str
    seconds: float
    beside: bool = False
    begun: float = 0.0


@dataclasses.dataclass(frozen=True)
class _Entry:
    """Something that stands. `describe` is what a user calls it; empty where there is nothing."""

    name: str
    undo: Callable[[], None]
    describe: Callable[[], str]
    draft: bool


class Phases:
    """Used as a context manager around a build. Its exit undoes all that is not kept."""

    def __init__(
        self,
        *,
        ui: Ui,
        token: CancelToken,
        debug: bool = False,
        on_error: str = "",
        journal: Journal | None = None,
        timings: list[Timing] | None = None,
    ) -> None:
        """`timings` gets what each phase took."""
        self.timings = [] if timings is None else timings
        # What could not be undone, in the order of time; each has been shown.
        self.failures: list[Exception] = []
        self._ui = ui
        self._token = token
        self._debug = debug
        self._on_error = on_error or "cleanup"
        self._journal = journal or Journal()
        self._stands = False
        self._entries: list[_Entry] = []
        self._lock = threading.Lock()
        self._beside: threading.Thread | None = None
        self._aborted = False
        self._kept = False

    def do(self, name: str, action: Callable[[], T]) -> T:
        """Run a phase that leaves nothing standing."""
        return self._run(name, action)

    def enter(
        self,
        name: str,
        open_manager: Callable[[], AbstractContextManager[T]],
        *,
        describe: Callable[[T], str] | None = None,
    ) -> T:
        """Run a phase whose effect stands until it is left. It is opened anew when it is retried.

        `describe` names the effect, with its id or path, where -on-error keeps it; empty for what a
        user need not remove. Without it, it is called by the phase's name.
        """

        def action() -> T:
            manager = open_manager()
            value = manager.__enter__()
            what = name if describe is None else describe(value)
            self._push(_Entry(name, lambda: _exit(manager), lambda: what, draft=False))
            return value

        return self._run(name, action)

    @contextmanager
    def draft(
        self, name: str, undo: Callable[[], None], *, describe: Callable[[], str] | None = None
    ) -> Iterator[None]:
        """Have `undo` run unless the build gets as far as `keep`.

        The block makes the thing. If it fails, its half is undone at once, so that the phase can be
        run again. `describe` is as that of `enter`, asked when it is needed.
        """
        entry = _Entry(name, undo, describe or (lambda: name), draft=True)
        self._push(entry)
        try:
            yield
        except Exception:
            if not self._keeps_all:
                with self._lock:
                    self._entries.remove(entry)
                self._undo([entry])
            raise

    def keep(self) -> None:
        """The commit: from here on no draft is undone, and what fails is not the build's failure."""
        self._kept = True
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
        """The same in a thread of its own, after what runs beside already; see `join`."""
        before = self._beside

        def work() -> None:
            if before is not None:
                before.join()
            self._timed(
                name, lambda: self._undo(self._take(since=since, drafts=False)), beside=True
            )

        self._beside = threading.Thread(target=work, name=name, daemon=True)
        self._beside.start()

    def join(self) -> None:
        """Wait for what runs beside. What it could not undo has been said, and is in `failures`.

        Raises Cancelled: then it is waited for while everything is undone.
        """
        while self._beside is not None and self._beside.is_alive():
            self._token.check()
            self._beside.join(_CANCEL_EVERY)
        self._await_beside()

    def _await_beside(self) -> None:
        if self._beside is not None:
            self._beside.join()
            self._beside = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._end(error)
        finally:
            failed = bool(self.failures) or isinstance(error, UndoError)
            self._journal.end(kept=self._stands, failed=failed)

    def _end(self, error: BaseException | None) -> None:
        if error is not None and self._keeps_all:
            self._await_beside()
            self._report_kept()
            return
        # Drafts first: a snapshot that is not finished may be what the rest waits for.
        drafts = self._take(since=0, drafts=True, others=False)
        if error is not None and (drafts or self._entries or self._beside):
            self._ui.say("Taking back what was made...")
        self._undo(drafts)
        self._await_beside()
        self._undo(self._take(since=0, drafts=True))
        if not self.failures:
            return
        self._report_left()
        if error is None and self._kept:
            self._ui.error("The build is complete; what is left over is named above")
            return
        if error is None:
            raise self.failures[0]
        for failure in self.failures:
            if failure is not error:
                left = failure.left if isinstance(failure, UndoError) else ()
                error.add_note("\n".join([str(failure), *(f"left: {each}" for each in left)]))

    def _report_left(self) -> None:
        """All that could not be undone, in one place."""
        if left := self._journal.standing():
            self._ui.error("Still there, to be removed in this order:")
            for what in left:
                self._ui.error(f"  {what}")
            self._ui.error(
                f"The next build on this VM tries it again; this command does it now: {RECLAIM}"
            )

    def _push(self, entry: _Entry) -> None:
        with self._lock:
            self._entries.append(entry)

    def _take(self, *, since: int, drafts: bool, others: bool = True) -> list[_Entry]:
        """Remove and return the entries above a level, newest first."""
        with self._lock:
            taken = [
                entry for entry in self._entries[since:] if (drafts if entry.draft else others)
            ]
            stay = [entry for entry in self._entries[since:] if entry not in taken]
            self._entries[since:] = stay
        return taken[::-1]

    def _leave(self, since: int) -> None:
        failures = self._undo(self._take(since=since, drafts=False))
        if failures:
            raise failures[0]

    def _undo(self, entries: list[_Entry]) -> list[Exception]:
        """Undo all of them whatever fails; each failure is shown at once."""
        failures: list[Exception] = []
        for entry in entries:
            try:
                entry.undo()
            except Exception as failure:
                log.exception("undoing %s", entry.name)
                self._show(f"Could not undo {entry.name}", failure)
                self.failures.append(failure)
                failures.append(failure)
                self._note_not_undone(entry.name, failure)
        return failures

    def _show(self, what: str, error: Exception) -> None:
        """Show an error with its details, which are not shown again if it ends the build."""
        self._ui.error(f"{what}: {error}")
        if isinstance(error, BuildError):
            for line in error.details:
                self._ui.error(f"  {line}")
            error.details = ()

    @property
    def _keeps_all(self) -> bool:
        """-on-error=abort, or the user's answer, as long as somebody is there to clean up after it.

        As Packer's own builders: a cancel under abort keeps everything too.
        """
        wanted = self._aborted or self._on_error in ("abort", "run-cleanup-provisioner")
        return wanted and not self._token.abandoned

    def _run(self, name: str, action: Callable[[], T]) -> T:
        while True:
            self._token.check()
            try:
                value = self._timed(name, action, beside=False)
            except Exception as error:
                self._note_not_undone(name, error)
                if self._wants_retry(name, error):
                    continue
                raise
            self._token.check()
            self._pause(name)
            return value

    def _note_not_undone(self, name: str, error: Exception) -> None:
        """What a phase that failed halfway, or an undoing, could not take back beside its error."""
        if not isinstance(error, BuildError):
            return
        for failure in error.not_undone:
            log.error("undoing %s", name, exc_info=failure)
            self._show(f"Could not undo {name}", failure)
            self.failures.append(failure)
        error.not_undone = ()

    def _timed(self, name: str, action: Callable[[], T], *, beside: bool) -> T:
        begun = time.monotonic()
        try:
            return action()
        finally:
            self.timings.append(Timing(name, time.monotonic() - begun, beside, begun))

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
        """With -on-error=ask, what the user wants now: true to run the phase again."""
        if self._on_error != "ask" or isinstance(error, Cancelled):
            return False
        self._show(f"'{name}' failed", error)
        while True:
            try:
                answer = self._ui.ask(
                    "[c] Clean up and exit, [a] abort without cleanup, or [r] retry this step?"
                )
            except Cancelled:
                raise
            except BuildError as no_answer:
                # Without a terminal nobody is asked: the phase's own error is what counts.
                log.info("not asking: %s", no_answer)
                return False
            match answer.strip().lower()[:1]:
                case "c":
                    return False
                case "a":
                    self._aborted = True
                    return False
                case "r":
                    return True

    def _report_kept(self) -> None:
        """What -on-error=abort left standing, newest first; as `reclaim` names it where it can."""
        _kept_for_ever.extend(self._entries)
        standing = self._journal.standing() or [
            what for entry in reversed(self._entries) if (what := entry.describe())
        ]
        if not standing:
            return
        self._stands = True
        unmarked = ""
        try:
            # Before anything is said: from here on no other build may remove it.
            self._journal.keep_all()
        except OSError as error:
            unmarked = error.strerror or str(error)
        self._ui.error("Nothing is undone (-on-error). Still there, to be removed in this order:")
        for what in standing:
            self._ui.error(f"  {what}")
        if self._journal.is_open:
            self._ui.error(f"This command removes all of it: {RECLAIM}")
        if unmarked:
            self._ui.error(
                f"{self._journal.path} could not be marked ({unmarked}): unless it is moved elsewhere,"
                " the next build on this VM removes all of it"
            )


def _exit(manager: AbstractContextManager[Any]) -> None:
    manager.__exit__(None, None, None)
