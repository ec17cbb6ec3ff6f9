"""How fast the builds of one user may call together: spacing, turns, and the file that they share."""

import errno
import fcntl
import json
import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.budget import Budget
from packer_plugin_osc_chroot.cloud.private_files import (
    private_directory,
)
from packer_plugin_osc_chroot.errors import Cancelled


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    found = private_directory({"XDG_CACHE_HOME": str(tmp_path)})
    assert found == tmp_path / "packer-plugin-osc-chroot"
    return found


def test_nothing_is_spaced_as_long_as_nothing_was_throttled(directory: Path) -> None:
    budget = Budget(directory, account="a")
    begun = time.monotonic()
    for _ in range(200):
        budget.look_turn(CancelToken())
        budget.call_turn(CancelToken())
    assert time.monotonic() - begun < 5
    assert not budget.is_tight and list(directory.iterdir()) == []


class Clock:
    """Stands still but when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Sleeper(CancelToken):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def sleep(self, seconds: float) -> None:
        self.clock.now += seconds


def test_one_that_is_throttled_slows_all_down_and_calls_come_before_looks(directory: Path) -> None:
    clock = Clock()
    token = Sleeper(clock)
    one, other = (Budget(directory, account="a", clock=clock) for _ in range(2))
    third = Budget(directory, account="b", clock=clock)
    assert other.look_pause == 0
    one.throttled()
    assert other.is_tight and not third.is_tight
    assert other.look_pause > 0.5 and third.look_pause == 0
    begun = clock.now
    for _ in range(5):
        other.call_turn(token)
    calls = clock.now - begun
    begun = clock.now
    for _ in range(5):
        other.look_turn(token)
    assert calls >= 4 * 0.149
    assert clock.now - begun >= 4 * 2 * 0.149


def test_the_rate_is_found(directory: Path) -> None:
    """Against a limit of five calls a second, most calls are taken and little of it is left unused."""
    random.seed(8)
    clock = Clock()
    token = Sleeper(clock)
    budget = Budget(directory, account="a", clock=clock)
    left, at, taken, refused = 1.0, clock.now, 0, 0
    while clock.now < 1120.0:
        budget.call_turn(token)
        clock.now += 0.01
        left, at = min(1.0, left + (clock.now - at) * 5), clock.now
        if left >= 1:
            left -= 1
            taken += 1
        else:
            refused += 1
            budget.throttled()
    assert taken > 120 * 5 * 0.7
    assert refused < taken / 5


class Crowd:
    """Builds that all want to call at once, at a limit of so many calls a second, one at a time."""

    def __init__(self, directory: Path, *, limit: float) -> None:
        self.clock = Clock()
        self._directory, self._limit = directory, limit
        self._left, self._at = 1.0, self.clock.now
        self.taken: list[float] = []
        self.refused: list[float] = []
        self.waits: list[float] = []

    def run(self, *, callers: int, calls: int) -> None:
        """Threads that take turns: the one whose sleep ends first goes on."""
        with ThreadPoolExecutor(callers) as pool:
            self._asleep: dict[threading.Event, float] = {}
            self._awake = callers
            self._lock = threading.Lock()
            for done in [pool.submit(self._call, calls) for _ in range(callers)]:
                done.result()

    def _call(self, calls: int) -> None:
        budget = Budget(self._directory, account="a", clock=self.clock)
        token = CancelToken()
        token.sleep = self._sleep  # type: ignore[method-assign]
        for _ in range(calls):
            while True:
                begun = self.clock.now
                budget.call_turn(token)
                with self._lock:
                    self.waits.append(self.clock.now - begun)
                    taken = self._is_taken()
                if taken:
                    break
                budget.throttled()
            self._sleep(0.05)
        with self._lock:
            self._awake -= 1
            self._wake_next()

    def _is_taken(self) -> bool:
        now = self.clock.now
        self._left, self._at = min(1.0, self._left + (now - self._at) * self._limit), now
        if self._left < 1:
            self.refused.append(now)
            return False
        self._left -= 1
        self.taken.append(now)
        return True

    def _sleep(self, seconds: float) -> None:
        woken = threading.Event()
        with self._lock:
            self._asleep[woken] = self.clock.now + seconds
            self._awake -= 1
            self._wake_next()
        woken.wait()

    def _wake_next(self) -> None:
        if self._awake or not self._asleep:
            return
        woken = min(self._asleep, key=lambda each: self._asleep[each])
        self.clock.now = max(self.clock.now, self._asleep.pop(woken))
        self._awake += 1
        woken.set()


@pytest.mark.parametrize(("limit", "refused"), [(5.0, 16), (1.0, 45)])
def test_a_crowd_uses_most_of_what_there_is(directory: Path, limit: float, refused: int) -> None:
    """Those who wait already keep to what was found out since: else all of them would be refused."""
    random.seed(8)
    crowd = Crowd(directory, limit=limit)
    crowd.run(callers=8, calls=16)
    assert len(crowd.taken) == 128
    assert crowd.taken[-1] - crowd.taken[0] < 127 / limit * 1.3
    assert len(crowd.refused) < refused


def test_nobody_in_a_crowd_is_passed_by_those_who_came_later(directory: Path) -> None:
    """Those who waited while the spacing became wider keep their place in the queue."""
    random.seed(8)
    crowd = Crowd(directory, limit=1.0)
    crowd.run(callers=32, calls=6)
    assert len(crowd.refused) > 10
    assert max(crowd.waits) < 32 / 1.0 * 1.5


def test_it_is_forgotten_when_all_is_well(directory: Path) -> None:
    clock = Clock()
    budget = Budget(directory, account="a", clock=clock)
    budget.throttled()
    clock.now += 100
    budget.call_turn(Sleeper(clock))
    assert not budget.is_tight


class Queued(CancelToken):
    """Many wait side by side: the clock stands still meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


def test_a_long_queue_does_not_make_the_spacing_be_forgotten(directory: Path) -> None:
    clock = Clock()
    builds = [Budget(directory, account="a", clock=clock) for _ in range(64)]
    while not builds[0].is_tight or clock.now < 1030.0:
        builds[0].throttled()
        clock.now += 1.5
    token = Queued()
    for build in builds:
        build.look_turn(token)
        for _ in range(3):
            build.call_turn(token)
    assert builds[0].is_tight
    assert 100 < max(token.waits) <= 121


@pytest.mark.parametrize("turn", [Budget.call_turn, Budget.look_turn])
def test_the_turns_of_cancelled_builds_are_there_for_others(
    directory: Path, turn: Callable[[Budget, CancelToken], None]
) -> None:
    clock = Clock()
    budget = Budget(directory, account="a", clock=clock)
    budget.throttled()
    cancelled = CancelToken()
    cancelled.cancel()
    for _ in range(200):
        with pytest.raises(Cancelled):
            turn(Budget(directory, account="a", clock=clock), cancelled)
    token = Queued()
    turn(budget, token)
    assert sum(token.waits) < 1


def test_turns_that_were_moved_before_a_cancel_are_there_for_others(directory: Path) -> None:
    clock = Clock()
    budget = Budget(directory, account="a", clock=clock)
    budget.throttled()

    def throttled_and_cancelled(seconds: float) -> None:
        clock.now += 0.6
        budget.throttled()
        raise Cancelled("build was cancelled")

    token = CancelToken()
    token.sleep = throttled_and_cancelled  # type: ignore[method-assign]
    for _ in range(8):
        with pytest.raises(Cancelled):
            budget.call_turn(token)
    queued = Queued()
    budget.call_turn(queued)
    (file,) = directory.iterdir()
    assert sum(queued.waits) <= json.loads(file.read_bytes())["spacing"] * 1.1


def test_no_turn_is_moved_further_than_two_minutes(directory: Path) -> None:
    """Whatever became of the file meanwhile."""
    clock = Clock()
    budget = Budget(directory, account="a", clock=clock)
    budget.throttled()
    (file,) = directory.iterdir()
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        clock.now += seconds
        now = clock.now
        odd = {"spacing": 1, "changed": now, "widened": now, "wide": 2, "number": 1e9}
        file.write_text(json.dumps(odd if len(waits) == 1 else {}))

    token = CancelToken()
    token.sleep = sleep  # type: ignore[method-assign]
    file.write_text(
        json.dumps({"spacing": 1, "changed": 1000, "call": 1003, "number": 1e6, "gone": 1e6})
    )
    budget.call_turn(token)
    assert len(waits) == 2 and max(waits) <= 121


def test_what_is_of_another_boot_is_as_none(directory: Path) -> None:
    before = Clock()
    Budget(directory, account="a", clock=before).throttled()
    assert Budget(directory, account="a", clock=before).is_tight
    assert not Budget(directory, account="a", clock=lambda: 20.0).is_tight


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b'{"spacing": 1e9}',
        b'{"spacing": NaN}',
        b'{"spacing": 1' + b"0" * 400 + b"}",
        b'{"spacing": "x"}',
        b'{"spacing": 1, "call": 1e300}',
        b'{"spacing": 1, "changed": -1000}',
        b'{"spacing": 1, "number": 1e300}',
        b'{"spacing": 1, "gone": 7}',
    ],
)
def test_a_budget_that_is_corrupt_is_as_none(directory: Path, content: bytes) -> None:
    Budget(directory, account="a").throttled()
    (file,) = directory.iterdir()
    file.write_bytes(content)
    budget = Budget(directory, account="a")
    assert not budget.is_tight
    budget.call_turn(CancelToken())


def test_a_cancel_ends_the_waiting_for_a_turn(directory: Path) -> None:
    budget = Budget(directory, account="a")
    budget.throttled()
    token = CancelToken()
    threading.Timer(0.2, token.cancel).start()
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        for _ in range(100):
            budget.call_turn(token)
    assert time.monotonic() - begun < 1.0


def test_a_holder_that_was_stopped_holds_up_nobody(directory: Path) -> None:
    budget = Budget(directory, account="a")
    budget.throttled()
    (path,) = directory.iterdir()
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        begun = time.monotonic()
        assert not budget.is_tight
        budget.call_turn(CancelToken())
        budget.throttled()
    assert time.monotonic() - begun < 1.0
    assert budget.is_tight


@pytest.mark.parametrize(("owner", "call"), [(os, "pwrite"), (os, "pread"), (fcntl, "flock")])
def test_a_budget_that_cannot_be_shared_is_this_build_s_own(
    directory: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, call: str
) -> None:
    """A full disk, a bad one, a network filesystem without locks: no call of the API fails for it."""
    shared = Budget(directory, account="a")
    shared.throttled()

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no")

    monkeypatch.setattr(owner, call, refuse)
    shared.throttled()
    shared.call_turn(CancelToken())
    shared.look_turn(CancelToken())


def test_neither_key_nor_endpoint_is_in_a_file(directory: Path) -> None:
    Budget(directory, account="https://example AKIDEXAMPLE").throttled()
    (file,) = directory.iterdir()
    assert "AKID" not in file.name and b"AKID" not in file.read_bytes()
