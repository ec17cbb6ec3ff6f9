"""Trouble on demand: how a Region may behave on a bad day, and which calls that spoils."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from packer_plugin_osc_chroot.localcloud import assumptions, toml_file

FaultKind = Literal["503", "429", "429-call", "500", "reset", "garbage", "slow"]
# What can become of something that is made, linked, unlinked or deleted.
End = Literal["error", "never", "no-disk"]
# What a rate counts together.
Scope = Literal["platform", "account", "call"]

ANY = "*"

# The API's own errors, by the names in `errors`. The other kinds spoil the connection or the body.
_ERROR_OF_KIND: dict[FaultKind, str] = {
    "503": "throttled-platform",
    "429": "throttled-account",
    "429-call": "throttled-call",
    "500": "internal-error",
}
_ENDS_OF_ACTION: dict[str, tuple[End, ...]] = {
    "CreateVolume": ("error", "never"),
    "CreateSnapshot": ("error", "never"),
    "CreateImage": ("error", "never"),
    "LinkVolume": ("never", "no-disk"),
    "UnlinkVolume": ("never",),
    "UpdateVolume": ("error", "never"),
    "DeleteVolume": ("never",),
    "DeleteSnapshot": ("never",),
}


def _check_one_of(what: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise ValueError(f"{what} is {value!r}: it must be one of {', '.join(known)}")


def _check_count(what: str, nth: int, count: int) -> None:
    if nth < 0 or count < 1:
        raise ValueError(
            f"{what} has nth {nth} and count {count}: nth must be 0 or more, count 1 or more"
        )


def _is_meant(number: int, nth: int, count: int) -> bool:
    return nth == 0 or nth <= number < nth + count


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Spoils the answers to `count` calls of `action` from its `nth` on; all of them if `nth` is 0.

    Calls count from 1, less those with DryRun and those whose request is refused for its form or
    for want of permission; those of `*` are of all actions. With `after` the action is done (or
    refused) before its answer is lost. Kinds: 503 (code 6), 429 (code 24, per account), 429-call
    (code 25), 500, reset (the connection), garbage (200 with a body that is no JSON), slow (the
    answer comes `seconds` later; with `after` the action is done first).
    """

    action: str
    kind: FaultKind
    nth: int = 1
    count: int = 1
    after: bool = False
    seconds: float = 0.0

    def __post_init__(self) -> None:
        _check_one_of("a fault's kind", self.kind, get_args(FaultKind))
        _check_count(f"a fault of {self.action}", self.nth, self.count)
        toml_file.check_seconds(f"seconds of a fault of {self.action}", self.seconds)
        if (self.kind == "slow") != (self.seconds > 0):
            raise ValueError(
                f"a fault of {self.action} has kind {self.kind} and seconds {self.seconds}: seconds"
                " goes with kind slow, and must be more than 0 there"
            )

    @property
    def error_name(self) -> str:
        """The API's error, empty for a fault that is not one."""
        return _ERROR_OF_KIND.get(self.kind, "")

    def spoils(self, number: int) -> bool:
        """Whether it spoils the call with this number."""
        return _is_meant(number, self.nth, self.count)


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What becomes of the thing that the `nth` call of `action` (and `count` in all) is about.

    Ends: error (its state; failed for an OMI and an update), never (it stays on its way for ever),
    no-disk (the API shows it as attached, and no disk appears). The call itself succeeds.
    """

    action: str
    end: End
    nth: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        _check_one_of("a fate's action", self.action, _ENDS_OF_ACTION)
        _check_one_of(f"the end of {self.action}", self.end, _ENDS_OF_ACTION[self.action])
        _check_count(f"a fate of {self.action}", self.nth, self.count)

    def meets(self, number: int) -> bool:
        return _is_meant(number, self.nth, self.count)


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Lets `calls_per_second` through, and `burst` at once; the rest is throttled.

    `per` platform: all calls together, 503 code 6. account: each account's, 429 code 24. call: each
    account's of each action, 429 code 25. `action` narrows it to one.
    """

    per: Scope
    calls_per_second: float
    burst: int = 1
    action: str = ANY

    def __post_init__(self) -> None:
        _check_one_of("a rate's per", self.per, get_args(Scope))
        if not 0 < self.calls_per_second < math.inf or self.burst < 1:
            raise ValueError(
                f"a rate has calls_per_second {self.calls_per_second} and burst {self.burst}: they"
                " must be more than 0, and 1 or more"
            )

    @property
    def error_name(self) -> str:
        return f"throttled-{self.per}"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """`action` is refused with a conflict for `seconds` from the first call of it on."""

    action: str
    seconds: float

    def __post_init__(self) -> None:
        toml_file.check_seconds(f"seconds of a refusal of {self.action}", self.seconds)
        if self.seconds == 0:
            raise ValueError(f"a refusal of {self.action} has seconds 0: they must be more than 0")


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What goes wrong in a Region. The default is a good day.

    `stale_reads`: all Read… actions show the Region as it was so many seconds ago.
    `unlink_needs_snapshot`, `delete_needs_snapshot`: UnlinkVolume, DeleteVolume of a volume is
    refused while a snapshot of it is not completed; `delete_snapshot_needs_completed`: so is
    DeleteSnapshot of such a snapshot.
    `taken_names`: device names (`/dev/xvdf`) that LinkVolume finds in use, though no read shows it.
    `forbidden`: actions that the user has no permission for, DryRun included.
    """

    stale_reads: float = 0.0
    unlink_needs_snapshot: bool = False
    delete_needs_snapshot: bool = False
    delete_snapshot_needs_completed: bool = False
    faults: Sequence[Fault] = ()
    fates: Sequence[Fate] = ()
    rates: Sequence[Rate] = ()
    refusals: Sequence[Refusal] = ()
    taken_names: Sequence[str] = ()
    forbidden: Sequence[str] = ()

    def __post_init__(self) -> None:
        toml_file.check_seconds("stale_reads", self.stale_reads)
        for name in self.taken_names:
            if not assumptions.LINK_DEVICE_NAME.fullmatch(name):
                raise ValueError(
                    f"taken_names has {name!r}: expected names such as /dev/xvdf or /dev/sdf"
                )

    def check_actions(self, known: Collection[str]) -> None:
        """Raises ValueError for an action that the API does not have: it would never happen."""
        named = [fault.action for fault in self.faults] + [rate.action for rate in self.rates]
        named += [refusal.action for refusal in self.refusals]
        for action in (*self.forbidden, *(name for name in named if name != ANY)):
            if action not in known:
                raise ValueError(f"trouble with {action}: the API has no such action")

    def is_taken(self, slot: str) -> bool:
        """Whether the name `xvdX` is a taken one; /dev/sdX and /dev/xvdX are one name."""
        return slot in {_slot(name) for name in self.taken_names}


def _slot(device_name: str) -> str:
    name = device_name.removeprefix("/dev/")
    return f"xvd{name[2:]}" if name.startswith("sd") else name


def load_trouble(file: Path, *, actions: Collection[str]) -> Trouble:
    """From a TOML file; `actions` are those that the API has. Raises toml_file.FileError."""
    trouble = toml_file.load(file, Trouble)
    try:
        trouble.check_actions(actions)
    except ValueError as error:
        raise toml_file.FileError(f"{file}: {error}") from None
    return trouble
