"""What the API's answers so far say of the next call: whether it takes these credentials, and whether
anybody answers at all.

A call that has no chance is not sent. Four wrong signatures in a row lock an access key (user guide),
and undoing that repeats each of its calls to an endpoint that is gone takes an hour to say so.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from packer_plugin_osc_chroot.errors import CloudError

# Seconds without any answer after which calls are sent once only, and at most one in a while.
SILENT_SECONDS = 240.0
_WHILE_SECONDS = 30.0
# Between two lines for the user, and how long a call may take before there is one.
_TELL_EVERY = 10.0

Call = tuple[str, Mapping[str, Any]]


class Standing:
    """Thread-safe. `tell` gets a line for the user while nobody answers."""

    def __init__(
        self,
        tell: Callable[[str], None],
        *,
        endpoint: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Whether the endpoint has ever answered.
        self.answered = False
        self._tell = tell
        self._endpoint = endpoint
        self._clock = clock
        self._lock = threading.Lock()
        # A read that these credentials were good for.
        self._proof: Call | None = None
        # The last refusal of credentials that no answer has put right; and the one that is final.
        self._doubt: CloudError | None = None
        self._lost: CloudError | None = None
        # The last failure to answer, how many there were, when the first and the last.
        self._silence: CloudError | None = None
        self._failures = 0
        self._silent_since = self._silent_at = self._told = 0.0

    @property
    def silent_seconds(self) -> float:
        """How long nobody has answered; 0 where somebody did last."""
        with self._lock:
            return self._clock() - self._silent_since if self._silence else 0.0

    def before(self, action: str) -> Call | None:
        """Before a call: another one to send first, where it is doubtful that these keys still count.

        A signature that is wrong and an action that is not permitted are refused alike. Raises
        CloudError for a call that has no chance.
        """
        with self._lock:
            if self._lost is not None:
                raise not_sent(action, self._lost, "these credentials are refused")
            now = self._clock()
            if (
                self._silence is not None
                and now - self._silent_since > SILENT_SECONDS
                and now - self._silent_at < _WHILE_SECONDS
            ):
                raise not_sent(action, self._silence, "nobody answers")
            return self._proof if self._doubt is not None and not self._proves(action) else None

    def done(self, action: str, body: Mapping[str, Any]) -> None:
        """It was answered as it should be."""
        self._take()
        with self._lock:
            if self._proof is None and action.startswith("Read"):
                self._proof = (action, body)

    def failed(self, action: str, body: Mapping[str, Any], error: CloudError) -> None:
        """It was not: for these credentials, for want of an answer, or for what it asks."""
        self.answered = self.answered or error.status > 0
        if error.status in (401, 403):
            with self._lock:
                self._silence = None
                self._failures = 0
                if self._proves(action) or self._proof is None and self._doubt is not None:
                    self._lost = error
                self._doubt = error
        elif error.maybe_done and error.status != 200 and not is_throttled(error):
            self._silent(error)
        elif error.status > 0:
            self._take()

    def waiting(self, action: str, seconds: float) -> None:
        """A call has had no answer for so long, and goes on."""
        if seconds > _TELL_EVERY:
            self._say(f"{self._endpoint} has not answered {action} for {seconds:.0f} s")

    def _proves(self, action: str) -> bool:
        return self._proof is not None and action == self._proof[0]

    def _take(self) -> None:
        with self._lock:
            self.answered = True
            self._doubt = self._silence = None
            self._failures = 0

    def _silent(self, error: CloudError) -> None:
        with self._lock:
            now = self._silent_at = self._clock()
            if self._silence is None:
                self._silent_since = now
            self._silence = error
            self._failures += 1
            since, again = now - self._silent_since, self._failures > 1
        if again:
            # One lost answer is nothing to talk about.
            self._say(f"{error.message}: no good answer for {since:.0f} s, trying again")

    def _say(self, text: str) -> None:
        with self._lock:
            now = self._clock()
            if self._told and now - self._told < _TELL_EVERY:
                return
            self._told = now
        self._tell(text)


def is_throttled(error: CloudError) -> bool:
    """The account, or the whole platform (503 code 6), has had too many calls (API Throttling)."""
    return error.status == 429 or error.status == 503 and "6" in error.codes


def not_sent(action: str, error: CloudError, why: str) -> CloudError:
    """What a call that has no chance ends with; `error` is what an earlier one did."""
    return CloudError(
        f"{action}: not sent, since {why} ({error.message})",
        action=action,
        status=error.status if error.status in (401, 403) else -1,
        codes=error.codes,
        types=error.types,
        request_id=error.request_id,
        hint=error.hint,
    )
