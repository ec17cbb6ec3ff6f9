"""What builds tell each other through files: how long waits take, how fast they may call, and which
keys are good."""

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
from packer_plugin_osc_chroot.cloud.credentials import Credentials
from packer_plugin_osc_chroot.cloud.first_call import FirstCalls
from packer_plugin_osc_chroot.cloud.private_files import (
    private_directory,
    read_private,
    replace_private,
)
from packer_plugin_osc_chroot.cloud.wait_times import WaitTimes
from packer_plugin_osc_chroot.errors import Cancelled, CloudError


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    found = private_directory({"XDG_CACHE_HOME": str(tmp_path)})
    assert found == tmp_path / "packer-plugin-osc-chroot"
    return found


def test_a_directory_that_others_can_write_to_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(tmp_path).st_uid or 0)
    open_to_all = tmp_path / "packer-plugin-osc-chroot"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    assert private_directory({"XDG_CACHE_HOME": str(tmp_path)}) != open_to_all


def test_no_directory_where_there_is_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert private_directory({}) is None
    assert private_directory({"HOME": "relative"}) is None
    assert private_directory({"HOME": "/proc"}) is None


def test_times_are_shared_and_few(directory: Path) -> None:
    first, second = (WaitTimes(directory, endpoint="example") for _ in range(2))
    for number in range(20):
        first.add("volume", number / 10)
    assert second.of("volume") == [number / 10 for number in range(12, 20)]
    assert WaitTimes(directory, endpoint="other").of("volume") == []
    for number in range(200):
        second.add(f"kind {number}", 1.0)
    assert first.of("volume") == [] and first.of("kind 199") == [1.0]
    second.forget("kind 199")
    second.forget("kind 199")
    assert first.of("kind 199") == [] and first.of("kind 198") == [1.0]
    (file,) = directory.iterdir()
    assert file.stat().st_size < 8192 and file.stat().st_mode & 0o777 == 0o600


def test_without_a_directory_they_are_those_of_the_process() -> None:
    times = WaitTimes()
    times.add("volume", 3.0)
    assert times.of("volume") == [3.0] and WaitTimes().of("volume") == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1, 2]",
        b"\xff\xfe",
        b"[" * 5000,
        b"{" + b" " * 100_000 + b"}",
        b'{"volume example": "soon", "link example": [null, "x", -1, 1e99, NaN, {}]}',
        b'{"volume example": [1' + b"0" * 400 + b"]}",
    ],
)
def test_what_is_corrupt_is_as_nothing(directory: Path, content: bytes) -> None:
    (directory / "wait-times.json").write_bytes(content)
    times = WaitTimes(directory, endpoint="example")
    assert times.of("volume") == [] and times.of("link") == []
    times.add("volume", 3.0)
    assert times.of("volume") == [3.0]


@pytest.mark.parametrize("plant", ["link", "fifo", "folder", "open"])
def test_what_others_may_have_put_there_is_not_read(directory: Path, plant: str) -> None:
    path = directory / "wait-times.json"
    content = json.dumps({"volume example": [99.0]})
    match plant:
        case "link":
            (directory / "elsewhere").write_text(content)
            path.symlink_to(directory / "elsewhere")
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case _:
            path.write_text(content)
            path.chmod(0o666)
    times = WaitTimes(directory, endpoint="example")
    assert times.of("volume") == []
    times.add("volume", 3.0)
    assert times.of("volume") == [3.0]
    if plant == "link":
        assert (directory / "elsewhere").read_text() == content


def test_what_cannot_be_read_is_no_failure() -> None:
    assert read_private(Path("/proc/self/mem")) == b""


def test_what_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    replace_private(tmp_path / "none" / "file", b"x")
    times = WaitTimes(tmp_path / "none", endpoint="example")
    times.add("volume", 3.0)
    budget = Budget(tmp_path / "none", account="a")
    budget.throttled()
    assert budget.is_tight


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


def first_calls(directory: Path | None, secret: str = "s") -> FirstCalls:
    keys = Credentials("A", secret, "r", "", True)
    return FirstCalls(directory, keys, endpoint="https://example")


def call(calls: FirstCalls, sent: list[str], *, status: int = 200, action: str = "ReadVms") -> None:
    with calls.turn(action):
        sent.append(action)
        time.sleep(0.05)
        if status != 200:
            raise CloudError("ReadVms: refused", action=action, status=status, codes=["4120"])


def test_builds_with_wrong_keys_send_one_wrong_signature(directory: Path) -> None:
    sent: list[str] = []
    errors: list[CloudError] = []

    def build() -> None:
        try:
            call(first_calls(directory), sent, status=401)
        except CloudError as error:
            errors.append(error)

    builds = [threading.Thread(target=build) for _ in range(8)]
    for each in builds:
        each.start()
    for each in builds:
        each.join()
    assert len(sent) == 1 and len(errors) == 8
    assert {error.status for error in errors} == {401}
    assert sum("just refused to another build" in error.message for error in errors) == 7
    call(first_calls(directory, "mended"), sent)
    call(first_calls(directory), sent, action="ReadImages")
    assert len(sent) == 3, "other keys, and another action, have nothing to do with it"


def test_builds_with_good_keys_wait_for_one_call_only(directory: Path) -> None:
    sent: list[str] = []
    builds = [threading.Thread(target=call, args=(first_calls(directory), sent)) for _ in range(8)]
    begun = time.monotonic()
    for each in builds:
        each.start()
    for each in builds:
        each.join()
    assert len(sent) == 8
    assert time.monotonic() - begun < 8 * 0.05, "they were sent side by side"
    for content in (b"", b"[1]", b'{"x": 1}', b'{"x": {"at": "y", "codes": 1}}', b"\xff"):
        replace_private(directory / "first-calls.json", content)
        call(first_calls(directory), sent)
    file = directory / "first-calls.json"
    (keys,) = json.loads(file.read_bytes())
    file.write_text(json.dumps({keys: {"at": 10**400, "action": "ReadVms"}}))
    call(first_calls(directory), sent)
    call(first_calls(None), sent)


def test_a_refusal_is_forgotten(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    with pytest.raises(CloudError):
        call(first_calls(directory), sent, status=403)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 11.0)
    call(first_calls(directory), sent)
    assert len(sent) == 2


def test_a_home_without_locks_fails_no_first_call(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a network filesystem may be."""

    def refuse(file: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    sent: list[str] = []
    call(first_calls(directory), sent)
    assert sent == ["ReadVms"]
