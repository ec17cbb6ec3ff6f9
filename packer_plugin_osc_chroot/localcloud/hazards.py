"""Counts what happens in a Region, and tells what trouble comes of it.

One for each Trouble: where the trouble is changed while the Region runs, counting starts anew.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable

from packer_plugin_osc_chroot.localcloud.errors import ApiError
from packer_plugin_osc_chroot.localcloud.trouble import ANY, End, Fault, Rate, Trouble


class _Bucket:
    """Lets calls through at a rate, and a burst of them at once."""

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._left = float(rate.burst)
        self._at = now

    def take(self, now: float) -> bool:
        gained = (now - self._at) * self._rate.calls_per_second
        self._left = min(float(self._rate.burst), self._left + gained)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Hazards:
    """Used on the Region's thread. `clock` is in seconds."""

    def __init__(self, trouble: Trouble, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.trouble = trouble
        self._clock = clock
        self._calls: Counter[str] = Counter()
        self._done: Counter[str] = Counter()
        self._buckets: dict[tuple[Rate, str, str], _Bucket] = {}
        self._first_calls: dict[str, float] = defaultdict(clock)

    def throttle(self, action: str, account_id: str) -> None:
        """Raises ApiError for a call that comes too early."""
        for rate in self.trouble.rates:
            if rate.action not in (ANY, action):
                continue
            key = (
                rate,
                "" if rate.per == "platform" else account_id,
                action if rate.per == "call" else "",
            )
            now = self._clock()
            if not self._buckets.setdefault(key, _Bucket(rate, now)).take(now):
                raise ApiError(
                    rate.error_name, f"More than {rate.calls_per_second} calls a second."
                )

    def refuse(self, action: str) -> None:
        """Raises ApiError where the action is refused for a while."""
        for refusal in self.trouble.refusals:
            if refusal.action == action:
                if self._clock() - self._first_calls[action] < refusal.seconds:
                    raise ApiError("invalid-state", f"{action} is refused for now.")

    def next_call(self, action: str) -> Fault | None:
        """Count a call of `action`: the first fault that spoils it."""
        self._calls[action] += 1
        self._calls[ANY] += 1
        for fault in self.trouble.faults:
            if fault.action in (ANY, action) and fault.spoils(self._calls[fault.action]):
                return fault
        return None

    def next_end(self, action: str) -> End | None:
        """Count a thing that `action` set on its way: how it ends, None for well."""
        self._done[action] += 1
        for fate in self.trouble.fates:
            if fate.action == action and fate.meets(self._done[action]):
                return fate.end
        return None
