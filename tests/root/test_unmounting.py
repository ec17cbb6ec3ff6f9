"""Unmounting what takes long to write out: waited for, told, and the disk not free before."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from guest_tree import freeze, frozen_disk, loop_device, no_mount_left, thaw

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import UndoError
from packer_plugin_osc_chroot.host import mounts, unmounting
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.disk import is_claimed
from packer_plugin_osc_chroot.host.holders import machine_files
from packer_plugin_osc_chroot.host.mountinfo import mounts_below
from packer_plugin_osc_chroot.host.mounts import mounted_root
from packer_plugin_osc_chroot.host.unmounting import release, umount_below
from packer_plugin_osc_chroot.ui import RecordingUi

pytestmark = pytest.mark.root

HOSTS = [Host(), Host(wrap=lambda command: f"sudo -n {command}")]


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    with no_mount_left(tmp_path):
        yield tmp_path / "root"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines that a slow disk would pass."""
    monkeypatch.setattr(mounts, "UNDO_SECONDS", 1.0)
    monkeypatch.setattr(unmounting, "EACH_SECONDS", 1.0)
    monkeypatch.setattr(unmounting, "TELL_EVERY", 1.0)


def claimed(disk: str) -> bool:
    with machine_files(Host()) as files:
        return is_claimed(files, Path(disk), token=CancelToken())


@pytest.mark.parametrize("cancelled", [False, True], ids=["", "cancelled"])
@pytest.mark.parametrize("host", HOSTS)
def test_slow_write_out_is_no_failure(
    host: Host, target: Path, impatient: None, cancelled: bool
) -> None:
    ui, token = RecordingUi(), CancelToken()
    with frozen_disk(target.parent, frozen=False) as (disk, below):
        with mounted_root(host, disk, str(target), ui=ui, token=token) as root:
            (root / "file").write_bytes(os.urandom(4 << 20))
            freeze(below)
            thawing = threading.Timer(3.0, thaw, [below])
            thawing.start()
            if cancelled:
                threading.Timer(0.7, token.cancel).start()
            start = time.monotonic()
        assert time.monotonic() - start > 2.5
        thawing.join()
        assert not claimed(disk)
    said = [text for _, text in ui.said]
    assert said[:2] == [
        f"unmounting {target}: still writing out (1 s)",
        f"unmounting {target}: still writing out (2 s)",
    ]
    assert not target.exists()


def test_umount_that_never_ends_is_said(
    target: Path, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on by itself; until then the disk is claimed, though no table shows the mount."""
    monkeypatch.setattr(unmounting, "WRITE_OUT_SECONDS", 1.0)
    with frozen_disk(target.parent, frozen=False) as (disk, below):
        with pytest.raises(UndoError, match=f"unmounting {target} still goes on") as caught:
            with mounted_root(
                HOSTS[0], disk, str(target), ui=RecordingUi(), token=CancelToken()
            ) as root:
                (root / "file").write_bytes(os.urandom(4 << 20))
                freeze(below)
        assert "umount" in caught.value.left[0]
        assert mounts_below(str(target)) == []
        assert claimed(disk)
        thaw(below)
        deadline = time.monotonic() + 5
        while claimed(disk) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not claimed(disk)


@pytest.mark.parametrize("writing", [True, False])
def test_disk_is_waited_for_while_it_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writing: bool
) -> None:
    """As after a umount whose process was killed while the kernel went on with it."""
    monkeypatch.setattr(unmounting, "RELEASE_SECONDS", 0.5)
    monkeypatch.setattr(unmounting, "TELL_EVERY", 0.3)
    ui = RecordingUi()
    with loop_device(tmp_path, guest=False) as disk:
        claim = os.open(disk, os.O_RDWR | os.O_EXCL)

        def hold() -> None:
            try:
                for _ in range(20):
                    if writing:
                        os.pwrite(claim, os.pread(claim, 4096, 0), 0)
                        os.fsync(claim)
                    time.sleep(0.1)
            finally:
                os.close(claim)

        thread = threading.Thread(target=hold)
        thread.start()
        start = time.monotonic()
        token = CancelToken(deadline=1.0)
        try:
            if writing:
                release(Host(), disk, ui=ui, token=token)
                assert time.monotonic() - start > 1.8
                assert f"waiting for {disk}: still writing out (1 s)" in ui.text
            else:
                with pytest.raises(UndoError, match="still in use") as caught:
                    release(Host(), disk, ui=ui, token=token)
                assert time.monotonic() - start < 1.5
                assert caught.value.left == (f"{disk} is still in use",)
        finally:
            thread.join()


def test_nothing_is_said_of_what_is_quick(target: Path) -> None:
    ui = RecordingUi()
    with loop_device(target.parent, guest=False) as disk:
        with mounted_root(Host(), disk, str(target), ui=ui, token=CancelToken()):
            pass
    assert ui.said == []
    assert "telling" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize(
    ("host", "deadline", "message"),
    [
        (Host(wrap=lambda command: command.replace("--flushbufs", "--none")), 60.0, "blockdev"),
        (Host(), 0.0, "took too long"),
    ],
    ids=["a command fails", "the deadline passes"],
)
def test_release_fails_as_what_could_not_be_undone(
    target: Path, host: Host, deadline: float, message: str
) -> None:
    """Never as a command of the build or its cancel: those would say that it ended for that."""
    token = CancelToken(deadline=deadline, reason="undoing took too long")
    target.mkdir()
    with loop_device(target, guest=False) as disk:
        with pytest.raises(UndoError, match=message) as caught:
            release(host, disk, ui=RecordingUi(), token=token)
    assert caught.value.left == (f"{disk} may still be in use",)


def test_nothing_to_unmount(target: Path) -> None:
    umount_below(Host(), str(target), itself=True, ui=RecordingUi(), token=CancelToken())
