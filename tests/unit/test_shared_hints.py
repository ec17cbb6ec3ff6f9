"""What builds tell each other through files: how long waits take, how fast they may call, and which
keys are good."""

import errno
import fcntl
import json
import os
import threading
import time
from pathlib import Path

import pytest

from packer_plugin_osc_chroot.cloud.budget import Budget
from packer_plugin_osc_chroot.cloud.credentials import Credentials
from packer_plugin_osc_chroot.cloud.first_call import FirstCalls
from packer_plugin_osc_chroot.cloud.private_files import (
    private_directory,
    read_private,
    replace_private,
)
from packer_plugin_osc_chroot.cloud.wait_times import WaitTimes
from packer_plugin_osc_chroot.errors import CloudError


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
