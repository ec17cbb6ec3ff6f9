"""The locks that builds share while they link, whatever another user has put in their place."""

import fcntl
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, Cancelled
from packer_plugin_osc_chroot.host import link_lock as module
from packer_plugin_osc_chroot.host.link_lock import (
    appearing,
    link_lock,
    own_disk,
    pids_with_disks,
)
from packer_plugin_osc_chroot.ui import RecordingUi

real_open = os.open


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "lock"
    directory.mkdir()
    directory.chmod(0o1777)
    monkeypatch.setattr(module, "_DIRECTORIES", (tmp_path / "none", directory))
    return directory / "packer-plugin-osc-chroot.lock"


@pytest.fixture
def strict_umask() -> Iterator[None]:
    before = os.umask(0o777)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def numbered(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(module, "device_number", lambda path: number)


def own(path: str = "/dev/xvdf") -> AbstractContextManager[None]:
    return own_disk(Path(path), token=CancelToken(), ui=RecordingUi())


def test_a_disk_is_one_builds_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbered(monkeypatch, os.makedev(8, 80))
    for _ in range(2):
        with own():
            with pytest.raises(BuildError, match="/dev/disk/by-id/x is the disk of another build"):
                with own("/dev/disk/by-id/x"):
                    raise AssertionError
            numbered(monkeypatch, os.makedev(8, 96))
            with own():
                pass
            numbered(monkeypatch, os.makedev(8, 80))
    names = sorted(each.name for each in path.parent.iterdir())
    assert names == [f"packer-plugin-osc-chroot-disk-8:{minor}.lock" for minor in (80, 96)]


def test_builds_with_disks_are_known(path: Path) -> None:
    lock = path.parent / "packer-plugin-osc-chroot-disk-8:16.lock"
    lock.touch()
    assert pids_with_disks() == set()
    script = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, 2); print(); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", script, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    assert pids_with_disks() == {child.pid}
    child.communicate(b"\n")
    assert pids_with_disks() == set()


def take(token: CancelToken | None = None, ui: RecordingUi | None = None) -> None:
    with link_lock(token or CancelToken(deadline=10.0), ui=ui or RecordingUi()):
        pass


def test_the_first_directory_that_everybody_may_write_to(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o755)
    monkeypatch.setattr(module, "_DIRECTORIES", (tmp_path / "none", private, path.parent))
    take()
    assert path.exists() and not list(private.iterdir())


def test_readable_for_everybody_whatever_the_umask(path: Path, strict_umask: None) -> None:
    take()
    assert mode(path) == 0o644


def test_mode_of_a_file_of_ours_is_mended(path: Path) -> None:
    path.touch(mode=0o600)
    take()
    assert mode(path) == 0o644


def test_mode_of_another_file_that_is_linked_there_stays(path: Path) -> None:
    other = path.parent / "secret"
    other.touch(mode=0o600)
    os.link(other, path)
    take()
    assert mode(other) == 0o600


def test_one_at_a_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TELL_AFTER", 0.1)
    ui = RecordingUi()
    order: list[str] = []

    def second() -> None:
        with link_lock(CancelToken(deadline=10.0), ui=ui):
            order.append("second")

    thread = threading.Thread(target=second)
    with link_lock(CancelToken(), ui=RecordingUi()):
        thread.start()
        time.sleep(0.4)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert ui.said == [
        ("message", f"Waiting for other builds on this VM that are linking ({path})")
    ]


def test_cancel_ends_the_waiting(path: Path) -> None:
    with link_lock(CancelToken(), ui=RecordingUi()):
        begun = time.monotonic()
        with pytest.raises(Cancelled):
            take(CancelToken(deadline=0.2))
        assert time.monotonic() - begun < 1.0
    take()


def test_failure_inside_frees_it(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), link_lock(CancelToken(), ui=RecordingUi()):
        raise ZeroDivisionError
    take(CancelToken(deadline=1.0))


def test_removed_while_it_is_waited_for(path: Path) -> None:
    """Who holds the file that is at the path now has the lock, not who holds the one that was."""
    locked = threading.Event()
    order: list[str] = []

    def second() -> None:
        with link_lock(CancelToken(deadline=10.0), ui=RecordingUi()):
            order.append("second")
            locked.set()

    thread = threading.Thread(target=second)
    with link_lock(CancelToken(), ui=RecordingUi()):
        thread.start()
        time.sleep(0.2)
        path.unlink()
        path.touch()
        third = os.open(path, os.O_RDONLY)
        fcntl.flock(third, fcntl.LOCK_EX)
    assert not locked.wait(0.4)
    os.close(third)
    thread.join()
    assert order == ["second"]


def plant_link(path: Path) -> None:
    path.symlink_to(path.parent / "target")


def plant_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.parametrize("plant", [os.mkfifo, Path.mkdir, plant_link, plant_socket])
def test_what_is_no_plain_file_is_refused(path: Path, plant: Callable[[Path], None]) -> None:
    plant(path)
    begun = time.monotonic()
    with pytest.raises(BuildError, match=f"lock file {path}: .*remove it"):
        take()
    assert time.monotonic() - begun < 1.0
    assert not (path.parent / "target").exists()


def test_no_folder_to_make_it_in(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = path.parent / "missing"
    monkeypatch.setattr(module, "_DIRECTORIES", (missing,))
    with pytest.raises(BuildError, match=f"lock file {missing}.*: No such file or directory"):
        take()


def test_not_yet_readable_is_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between another user's open and fchmod."""
    refused = iter(range(3))

    def refuse(name: Path, flags: int, mode: int = 0o777) -> int:
        if name == path and next(refused, None) is not None:
            raise PermissionError(13, "Permission denied", str(name))
        return real_open(name, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    take()
    assert next(refused, None) is None


def test_never_readable_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_READABLE_SECONDS", 0.2)

    def refuse(name: Path, flags: int, mode: int = 0o777) -> int:
        raise PermissionError(13, "Permission denied", str(name))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(BuildError, match="Permission denied.*every user may read"):
        take()


def test_made_by_two_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def race(name: Path, flags: int, mode: int = 0o777) -> int:
        if name == path:
            looks.append(flags)
            if flags & os.O_CREAT:
                os.close(real_open(path, os.O_WRONLY | os.O_CREAT, 0o644))
        return real_open(name, flags, mode)

    monkeypatch.setattr(os, "open", race)
    take()
    assert [bool(flags & os.O_CREAT) for flags in looks] == [False, True, False]


def test_nothing_stays_open(path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    take()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BuildError):
        take()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_nobody_is_alone_beside_others(path: Path) -> None:
    ui, token = RecordingUi(), CancelToken()
    with appearing(token, ui=ui, alone=False) as first:
        with appearing(token, ui=ui, alone=False) as second:
            assert not first.is_alone() and not second.is_alone()
            # To ask has cost neither of them its place.
            with pytest.raises(Cancelled), appearing(soon_over(), ui=ui, alone=True):
                pass
        assert first.is_alone() and first.is_alone()
        with pytest.raises(Cancelled), appearing(soon_over(), ui=ui, alone=False):
            pass
    with appearing(token, ui=ui, alone=True) as third:
        assert third.is_alone()
        with pytest.raises(Cancelled), appearing(soon_over(), ui=ui, alone=False):
            pass


def test_who_waits_to_be_alone_is_not_passed_by_those_who_come_later(path: Path) -> None:
    ui, is_in = RecordingUi(), threading.Event()

    def be_alone() -> None:
        with appearing(CancelToken(deadline=20.0), ui=ui, alone=True):
            is_in.set()

    waiter = threading.Thread(target=be_alone)
    with appearing(CancelToken(), ui=ui, alone=False):
        waiter.start()
        while not is_taken(path.with_name(module._ALONE_NAME)):
            time.sleep(0.01)
        with pytest.raises(Cancelled), appearing(soon_over(), ui=ui, alone=False):
            pass
    assert is_in.wait(10.0)
    waiter.join()


def is_taken(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def soon_over() -> CancelToken:
    return CancelToken(deadline=0.2)


def test_of_many_who_ask_at_once_nobody_is_alone(path: Path) -> None:
    """A lock that is changed in vain is lost for a moment, in which nobody else may take it."""
    ready = threading.Barrier(8)
    alone: list[bool] = []

    def ask() -> None:
        with appearing(CancelToken(), ui=RecordingUi(), alone=False) as others:
            for _ in range(200):
                ready.wait()
                alone.append(others.is_alone())
                ready.wait()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(alone) == 1600 and not any(alone)


def test_who_waits_is_served_in_the_order_of_coming(path: Path) -> None:
    order: list[int] = []

    def waiter(number: int) -> None:
        with link_lock(CancelToken(deadline=20.0), ui=RecordingUi()):
            order.append(number)
            time.sleep(0.02)

    threads = [threading.Thread(target=waiter, args=(number,)) for number in range(12)]
    with link_lock(CancelToken(), ui=RecordingUi()):
        for thread in threads:
            thread.start()
            time.sleep(0.05)
    for thread in threads:
        thread.join()
    assert order == sorted(order)


def test_a_release_is_noticed_at_once(path: Path) -> None:
    taken: list[float] = []
    released: list[float] = []

    def waiter() -> None:
        with link_lock(CancelToken(deadline=20.0), ui=RecordingUi()):
            taken.append(time.monotonic())

    for _ in range(5):
        thread = threading.Thread(target=waiter)
        with link_lock(CancelToken(), ui=RecordingUi()):
            thread.start()
            time.sleep(0.3)
            released.append(time.monotonic())
        thread.join()
    # Of all together: who looked now and then would be half a second late, a busy machine is not.
    assert sum(taken) - sum(released) < 0.25


def test_a_cancelled_waiter_does_not_keep_the_lock(path: Path) -> None:
    token = CancelToken()
    with link_lock(CancelToken(), ui=RecordingUi()):
        threading.Timer(0.1, token.cancel).start()
        with pytest.raises(Cancelled):
            take(token)
    # Its thread may have got it by now: it lets go of it by itself.
    take(CancelToken(deadline=2.0))
