"""Trouble on demand: how a Region may behave on a bad day, and which calls that spoils."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

FaultKind = Literal["503", "429", "429-call", "500", "reset", "garbage"]

# The API's own errors, by the names in `errors`. The other kinds spoil the connection or the body.
_ERROR_OF_KIND: dict[FaultKind, str] = {
    "503": "throttled-platform",
    "429": "throttled-account",
    "429-call": "throttled-call",
    "500": "internal-error",
}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Spoils the answers to `count` calls of `action` from its `nth` on; all of them if `nth` is 0.

    Calls count from 1, less those with DryRun and those whose request is refused for its form or
    for want of permission. With `after` the action is done (or refused) before its answer is lost.
    Kinds: 503 (code 6), 429 (code 24, per account), 429-call (code 25), 500, reset (the
    connection), garbage (200 with a body that is no JSON).
    """

    action: str
    kind: FaultKind
    nth: int = 1
    count: int = 1
    after: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(FaultKind):
            known = ", ".join(get_args(FaultKind))
            raise ValueError(f"a fault's kind is {self.kind!r}: it must be one of {known}")
        if self.nth < 0 or self.count < 1:
            raise ValueError(
                f"a fault of {self.action} has nth {self.nth} and count {self.count}: nth must be"
                " 0 or more, count 1 or more"
            )

    @property
    def error_name(self) -> str:
        """The API's error, empty for a fault that is not one."""
        return _ERROR_OF_KIND.get(self.kind, "")

    def spoils(self, number: int) -> bool:
        """Whether it spoils the call with this number."""
        return self.nth == 0 or self.nth <= number < self.nth + self.count


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What goes wrong in a Region. The default is a good day.

    `stale_reads`: all Read… actions show the Region as it was so many seconds ago.
    `unlink_needs_snapshot`, `delete_needs_snapshot`: UnlinkVolume, DeleteVolume of a volume is
    refused while a snapshot of it is not completed.
    `taken_names`: device names (`/dev/xvdf`) that LinkVolume finds in use, though no read shows it.
    `forbidden`: actions that the user has no permission for, DryRun included.
    """

    stale_reads: float = 0.0
    unlink_needs_snapshot: bool = False
    delete_needs_snapshot: bool = False
    faults: Sequence[Fault] = ()
    taken_names: Collection[str] = ()
    forbidden: Collection[str] = ()

    def __post_init__(self) -> None:
        if self.stale_reads < 0:
            raise ValueError(f"stale_reads is {self.stale_reads}: it must be 0 or more seconds")

    def check_actions(self, known: Collection[str]) -> None:
        """Raises ValueError for an action that the API does not have: it would never happen."""
        for action in (*self.forbidden, *(fault.action for fault in self.faults)):
            if action not in known:
                raise ValueError(f"trouble with {action}: the API has no such action")

    def is_taken(self, slot: str) -> bool:
        """Whether the name `xvdX` is a taken one; /dev/sdX and /dev/xvdX are one name."""
        return slot in {_slot(name) for name in self.taken_names}


def _slot(device_name: str) -> str:
    name = device_name.removeprefix("/dev/")
    return f"xvd{name[2:]}" if name.startswith("sd") else name


class FaultCounter:
    """Counts the calls of each action, and tells which of them are spoilt."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults = tuple(faults)
        self._calls: Counter[str] = Counter()

    def next_call(self, action: str) -> Fault | None:
        """Count a call of `action`: the first fault that spoils it."""
        self._calls[action] += 1
        number = self._calls[action]
        for fault in self._faults:
            if fault.action == action and fault.spoils(number):
                return fault
        return None
