"""The OUTSCALE API: one client for each build. `session.py` signs and sends; this module decides how
long to wait, what to repeat, and what is left behind when a build is cancelled.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from packer_plugin_osc_chroot.cancel import CancelToken, abandonable, await_end, in_thread
from packer_plugin_osc_chroot.cloud.budget import Budget
from packer_plugin_osc_chroot.cloud.credentials import Credentials
from packer_plugin_osc_chroot.cloud.first_call import FirstCalls
from packer_plugin_osc_chroot.cloud.pace import Pace, Sign
from packer_plugin_osc_chroot.cloud.session import Sender
from packer_plugin_osc_chroot.cloud.standing import SILENT_SECONDS, Standing, is_throttled
from packer_plugin_osc_chroot.cloud.wait_times import WaitTimes
from packer_plugin_osc_chroot.errors import BuildError, Cancelled, CloudError
from packer_plugin_osc_chroot.journal.effects import tells_id
from packer_plugin_osc_chroot.journal.journal import Journal

log = logging.getLogger(__name__)

Json = dict[str, Any]
T = TypeVar("T")

# How long a call that keeps failing is repeated, in seconds; and the longest pause between two tries.
_RETRY_SECONDS = 120.0
# The same as long as the endpoint has never answered: it is more likely wrong than down.
_FIRST_RETRY_SECONDS = 6.0
_RETRY_PAUSE = 15.0
# Seconds after a cancel within which an answer is still taken.
_LAST_SECONDS = 0.3


class Cloud:
    """Thread-safe. `region` is known by now; `close()` ends the connections.

    Each call that makes something is in the journal before it is sent. `shared` is a directory for what
    the builds on this VM tell each other: how long waits take, how fast they may call, and whether the
    keys are good. `tell` gets a line for the user where nobody answers.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        region: str,
        journal: Journal | None = None,
        shared: Path | None = None,
        tell: Callable[[str], None] = log.info,
    ) -> None:
        self.region = region
        self.journal = journal or Journal()
        self.endpoint = credentials.endpoint_url(region)
        # Whether it is another than the Region's own.
        self.is_custom = bool(credentials.endpoint)
        self._budget = Budget(shared, account=f"{self.endpoint} {credentials.access_key}")
        host = urlsplit(self.endpoint).hostname or ""
        self._wait_times = WaitTimes(shared, endpoint=host)
        self._sender = Sender(credentials, endpoint=self.endpoint, region=region)
        self._standing = Standing(tell, endpoint=self.endpoint)
        self._first_calls = FirstCalls(shared, credentials, endpoint=self.endpoint)
        self._tell = tell
        # Changes that were under way at a cancel, and what they are.
        self._left: dict[Future[Json], str] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        self._sender.close()

    def read(self, action: str, *, token: CancelToken, **body: Any) -> Json:
        """A call that changes nothing. A cancel ends it at once, whatever the network does."""
        return self._in_thread(lambda: self._repeated(action, body, token), token, action)

    def trial(self, action: str, *, token: CancelToken, **body: Any) -> None:
        """A DryRun: sent once at most, since nothing depends on it. Raises CloudError."""
        if self._budget.is_tight:
            log.info("DryRun of %s: left out, calls are being throttled", action)
            return
        self._in_thread(lambda: self._once(action, {**body, "DryRun": True}), token, action)

    def one(
        self, action: str, key: str, *, token: CancelToken, **filters: list[str]
    ) -> Json | None:
        """The first resource below `key` that fits the filters, or None."""
        found = self.read(action, token=token, Filters=filters).get(key)
        return found[0] if found else None

    def change(self, action: str, *, token: CancelToken, **body: Any) -> Json:
        """A call that makes or changes something.

        A cancel ends it at once too. What has been sent by then goes on in its thread, is
        `maybe_done`, and is waited for by the next call: only then does the API show what came of it.
        """
        token.check()
        self._await_left(token)
        journal = self.journal
        number = journal.sending(action, body)

        def work() -> Json:
            try:
                answer = self._repeated(action, body, token)
            except BuildError as error:
                if not error.maybe_done:
                    journal.refused(number)
                raise
            journal.answered(number, action, body, answer)
            if not tells_id(action, answer):
                # Done, it seems; what it made is looked for as where no answer came.
                raise CloudError(f"{action}: the answer does not say what was made", action=action)
            return answer

        answer = in_thread(work, name=action)
        try:
            await_end(answer, token=token, while_waiting=self._waiting(action))
        except Cancelled as cancelled:
            wait([answer], timeout=_LAST_SECONDS)
            if not answer.done():
                with self._lock:
                    self._left[answer] = action
                cancelled.maybe_done = True
                raise
        return answer.result()

    def _in_thread(self, work: Callable[[], T], token: CancelToken, action: str) -> T:
        token.check()
        self._await_left(token)
        return abandonable(work, token=token, name=action, while_waiting=self._waiting(action))

    def _waiting(self, action: str) -> Callable[[], None]:
        begun = time.monotonic()
        return lambda: self._standing.waiting(action, time.monotonic() - begun)

    def _await_left(self, token: CancelToken) -> None:
        """Raises Cancelled where a change that was under way at a cancel takes longer than `token`."""
        while True:
            with self._lock:
                if not self._left:
                    return
                answer, action = next(iter(self._left.items()))
            if not answer.done():
                self._tell(f"Waiting for the answer to {action}, which was sent before the cancel")
            await_end(answer, token=token, while_waiting=self._waiting(action))
            with self._lock:
                self._left.pop(answer, None)

    def pace(self, kind: str, *, sign: Sign | None = None) -> Pace:
        """The pace of a wait that begins now, of the kind that `kind` names."""
        return Pace(
            self._wait_times.of(kind),
            learn=lambda seconds: self._wait_times.add(kind, seconds),
            forget=lambda: self._wait_times.forget(kind),
            turn=self._budget.look_turn,
            apart=lambda: self._budget.look_pause,
            sign=sign,
        )

    def pages(self, action: str, key: str, *, token: CancelToken, **body: Any) -> Iterator[Json]:
        """The resources below `key` of every page of a Read action."""
        while True:
            answer = self.read(action, token=token, **body)
            yield from answer.get(key) or ()
            if not (following := answer.get("NextPageToken")):
                return
            if following == body.get("NextPageToken"):
                raise CloudError(f"{action}: the answer has itself as the next page", action=action)
            body = {**body, "NextPageToken": following}

    def _repeated(self, action: str, body: Mapping[str, Any], token: CancelToken) -> Json:
        """What is raised at the end is `maybe_done` if any of the tries was."""
        repeatable = _is_repeatable(action, body)
        maybe_done = False
        queued = 0.0

        def worth_repeating(error: BaseException) -> bool:
            nonlocal maybe_done
            if not isinstance(error, CloudError):
                return False
            maybe_done = maybe_done or error.maybe_done
            if is_throttled(error):
                self._budget.throttled()
            # Status 200: it was done, and the answer is of another form, as it would be again.
            again = error.status == 429 or repeatable and error.maybe_done and error.status != 200
            if again:
                log.info("%s: %s; trying again", action, error.message)
            return again

        def in_turn() -> Json:
            nonlocal queued
            begun = time.monotonic()
            self._budget.call_turn(token)
            queued += time.monotonic() - begun
            return self._once(action, body)

        retrying = Retrying(
            retry=retry_if_exception(worth_repeating),
            wait=_pause,
            # Many builds may queue for a minute between two tries: that is nobody's failure.
            stop=lambda state: (state.seconds_since_start or 0.0) - queued > self._patience(),
            sleep=token.sleep,
            reraise=True,
        )
        try:
            return retrying(in_turn)
        except BuildError as error:
            error.maybe_done = maybe_done
            raise

    def _patience(self) -> float:
        if not self._standing.answered:
            return _FIRST_RETRY_SECONDS
        left = SILENT_SECONDS - self._standing.silent_seconds
        return min(_RETRY_SECONDS, max(0.0, left))

    def _once(self, action: str, body: Mapping[str, Any]) -> Json:
        if (proof := self._standing.before(action)) is not None:
            with suppress(CloudError):
                self._send(*proof)
            self._standing.before(action)
        return self._send(action, body)

    def _send(self, action: str, body: Mapping[str, Any]) -> Json:
        try:
            with self._first_calls.turn(action):
                answer = self._sender.send(action, body)
        except CloudError as error:
            self._standing.failed(action, body, error)
            raise
        self._standing.done(action, body)
        return answer


def _pause(state: RetryCallState) -> float:
    """Seconds until the next try: randomised and growing, and no sooner than the API asks for.

    It is asked for the same by all who it throttles, so that is the beginning of a random time.
    """
    error = state.outcome.exception() if state.outcome else None
    wanted = error.retry_after if isinstance(error, CloudError) else 0.0
    grown = wait_random_exponential(multiplier=0.5, max=_RETRY_PAUSE)(state)
    return min(wanted, _RETRY_SECONDS) + grown


def is_forbidden(error: CloudError) -> bool:
    """These credentials may not do it. The API answers this with 401 too, as it does wrong keys."""
    return error.status in (401, 403) or any(
        "Unauthorized" in kind or "AccessDenied" in kind for kind in error.types
    )


def is_missing(error: CloudError) -> bool:
    """The resource that the call names does not exist."""
    return (
        error.status == 404
        or error.status == 400
        and any(kind.startswith("InvalidResource") for kind in error.types)
    )


def _is_repeatable(action: str, body: Mapping[str, Any]) -> bool:
    """Doing it twice is the same as once: reads, deletes, tags, and what has a ClientToken."""
    if "ClientToken" in body or body.get("DryRun"):
        return True
    return action.startswith(("Read", "Delete", "Unlink", "Update", "CreateTags"))
