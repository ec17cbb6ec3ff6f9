"""Mounts that do not go as they should: late ones, stuck ones, vanished disks, other namespaces."""

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from guest_tree import frozen_disk, loop_device, no_mount_left, run, thaw

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, Cancelled, UndoError
from packer_plugin_osc_chroot.host import mounts
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.holders_scan import find_holders
from packer_plugin_osc_chroot.host.mountinfo import mounts_below, read_mounts
from packer_plugin_osc_chroot.host.mounts import ExtraMount, extra_mounts, mounted_root
from packer_plugin_osc_chroot.host.transfer import open_rootfs
from packer_plugin_osc_chroot.host.unmounting import umount_below
from packer_plugin_osc_chroot.ui import RecordingUi

pytestmark = pytest.mark.root

HOSTS = [Host(), Host(wrap=lambda command: f"sudo -n {command}")]


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with loop_device(tmp_path_factory.mktemp("disk"), guest=False) as name:
        yield name


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    with no_mount_left(tmp_path):
        yield tmp_path / "root"


@pytest.mark.parametrize("host", HOSTS)
def test_mount_in_flight_is_waited_for_and_undone(host: Host, target: Path) -> None:
    """As of a journal that is replayed: SIGKILL does not end it, and it succeeds afterwards."""
    token = CancelToken()
    target.mkdir()
    with frozen_disk(target.parent) as (disk, below):
        threading.Timer(0.5, token.cancel).start()
        thawing = threading.Timer(3, thaw, [below])
        thawing.start()
        start = time.monotonic()
        with pytest.raises(Cancelled):
            with mounted_root(host, disk, str(target), ui=RecordingUi(), token=token):
                raise AssertionError
        assert time.monotonic() - start > 2.5
        thawing.join()
        assert mounts_below(str(target)) == []
        time.sleep(0.3)
        rdev = os.stat(disk).st_rdev
        number = f"{os.major(rdev)}:{os.minor(rdev)}"
        assert number not in [mount.device_number for mount in read_mounts()]


def test_mount_that_never_ends_is_named(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "UNDO_SECONDS", 1.0)
    token = CancelToken()
    target.mkdir()
    with frozen_disk(target.parent) as (disk, below):
        threading.Timer(0.5, token.cancel).start()
        with pytest.raises(UndoError, match=f"mounting {disk} at {target}") as caught:
            with mounted_root(HOSTS[0], disk, str(target), ui=RecordingUi(), token=token):
                raise AssertionError
        assert any("mount" in each for each in caught.value.left)
        thaw(below)
        pid = int(caught.value.left[0].split()[0])
        deadline = time.monotonic() + 5
        while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
            time.sleep(0.05)
        for _ in mounts_below(str(target)):
            run("umount", str(target))


def test_mount_that_never_ends_is_no_warning(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """binfmt_misc may be missing; a mount that goes on in the kernel is another matter."""

    def never_ends(*_: object, **__: object) -> None:
        raise UndoError("mounting goes on", left=["17 mount -t binfmt_misc"])

    target.mkdir()
    monkeypatch.setattr(mounts, "mount", never_ends)
    each = ExtraMount("binfmt_misc", "binfmt_misc", "/mnt")
    with open_rootfs(HOSTS[0], target) as rootfs:
        with pytest.raises(UndoError, match="goes on") as caught:
            with extra_mounts(
                HOSTS[0], target, rootfs, [each], ui=RecordingUi(), token=CancelToken()
            ):
                raise AssertionError
    assert caught.value.details == ("left: 17 mount -t binfmt_misc",)


@contextmanager
def elsewhere(script: str, *argv: str) -> Iterator[int]:
    """A shell in a mount namespace of its own, once it has run the script."""
    child = subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", "sh", "-ec"]
        + [f"{script}\necho ready\nexec sleep 87", "sh", *argv],
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"ready\n"
        yield child.pid
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_same_path_of_another_namespace_is_no_holder(device: str, target: Path) -> None:
    target.mkdir()
    at = str(target)
    (target / "x").touch()
    with elsewhere('mount -t tmpfs t "$1"; cd "$1"; exec 7>"$1/file"', at) as pid:
        with mounted_root(Host(), device, at, ui=RecordingUi(), token=CancelToken()):
            # Also where it sees a copy of the mount, and lies beside it.
            script = 'mount -t tmpfs t "$1"; cd "$1"; exec 7>"$1/file"'
            with elsewhere(script, at) as beside:
                found = [holder.pid for holder in find_holders(at)]
                assert pid not in found and beside not in found
        assert os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ('cd "$1"', "cwd"),
        ('exec 7>"$1/file"', "open file"),
        ('mkdir -p "$2"; mount --move "$1" "$2"; cd "$2"', "cwd"),
        ('mkdir -p "$2"; mount --move "$1" "$2"; exec 7>"$2/file"', "open file"),
    ],
)
def test_copy_in_another_namespace_is_held(
    device: str, target: Path, script: str, why: str
) -> None:
    ui, token = RecordingUi(), CancelToken()
    other = str(target.parent / "other")
    with mounted_root(Host(), device, str(target), ui=ui, token=token) as root:
        with elsewhere(script, str(root), other) as pid:
            (found,) = [each for each in find_holders(str(root)) if each.pid == pid]
            assert found.why.startswith(why)


def test_file_opened_before_the_namespace_was_left_is_held(device: str, target: Path) -> None:
    ui, token = RecordingUi(), CancelToken()
    with mounted_root(Host(), device, str(target), ui=ui, token=token) as root:
        with open(root / "file", "wb") as held:
            child = subprocess.Popen(
                ["unshare", "-m", "--propagation", "private", "sh", "-c"]
                + ['umount "$1"; echo; exec sleep 88', "sh", str(root)],
                stdout=subprocess.PIPE,
                pass_fds=[held.fileno()],
            )
        assert child.stdout is not None
        child.stdout.readline()
        try:
            assert child.pid in [holder.pid for holder in find_holders(str(root))]
        finally:
            child.kill()
            child.wait()
            child.stdout.close()


@contextmanager
def three_mounts(root: Path) -> Iterator[list[str]]:
    points = [str(root), str(root / "a"), str(root / "b")]
    for each in points:
        os.makedirs(each, exist_ok=True)
        run("mount", "-t", "tmpfs", "tmpfs", each)
    yield points


def test_one_failure_leaves_no_other_mount_untried(target: Path) -> None:
    """The one that is busy needs the agent, which this wrapper cannot start."""
    host = Host(wrap=lambda command: "exit 9" if "host.agent" in command else command)
    with three_mounts(target) as (root, a, b), ExitStack() as stack:
        held = stack.enter_context(open(f"{b}/file", "wb"))
        with pytest.raises(UndoError) as caught:
            umount_below(host, root, itself=True, ui=RecordingUi(), token=CancelToken())
        assert [each.mount_point for each in mounts_below(root)] == [root, b]
        said = caught.value.left
        assert said[0].startswith(f"{b} is still mounted: the file helper")
        assert said[1:] == (f"{root} is still mounted",)
        held.close()
        umount_below(Host(), root, itself=True, ui=RecordingUi(), token=CancelToken())


def test_passed_deadline_leaves_no_mount_untried(target: Path) -> None:
    with three_mounts(target) as (root, *_):
        token = CancelToken(deadline=0)
        umount_below(Host(), root, itself=True, ui=RecordingUi(), token=token)
        assert mounts_below(root) == []


@pytest.mark.parametrize("host", HOSTS)
def test_vanished_device_is_no_error(device: str, target: Path, host: Host) -> None:
    node = target.parent / "node"
    os.mknod(node, 0o600 | 0o060000, os.stat(device).st_rdev)
    with mounted_root(host, str(node), str(target), ui=RecordingUi(), token=CancelToken()):
        node.unlink()
    assert not target.exists()


@pytest.mark.parametrize("host", HOSTS)
def test_disk_in_use_is_not_mounted(device: str, target: Path, host: Host) -> None:
    def refused(message: str) -> None:
        with pytest.raises(BuildError, match=message):
            with mounted_root(host, device, str(target), ui=RecordingUi(), token=CancelToken()):
                raise AssertionError
        assert not target.exists()

    other = target.parent / "other place"
    other.mkdir()
    run("mount", device, str(other))
    try:
        refused(f"mounted already, at {other}")
    finally:
        run("umount", str(other))
    script = 'mount "$1" "$2"'
    with elsewhere(script, device, str(other)) as pid:
        refused(f"is claimed already, by {pid} ")
    claim = os.open(device, os.O_RDONLY | os.O_EXCL)
    try:
        refused("is claimed already, by something in the kernel")
    finally:
        os.close(claim)


def test_claim_of_a_moment_is_waited_for(device: str, target: Path) -> None:
    claim = os.open(device, os.O_RDONLY | os.O_EXCL)
    threading.Timer(0.5, os.close, [claim]).start()
    with mounted_root(Host(), device, str(target), ui=RecordingUi(), token=CancelToken()) as root:
        assert mounts_below(str(root))


def test_scan_ends_no_process_of_the_host_for_a_device_that_is_mounted_twice(target: Path) -> None:
    """A bind mount of the host's filesystem: its device is under every process of a container."""
    for each in ("root", "source"):
        (target.parent / each).mkdir()
    run("mount", "--bind", str(target.parent / "source"), str(target))
    try:
        with elsewhere("cd /usr") as pid:
            assert pid not in [holder.pid for holder in find_holders(str(target))]
    finally:
        run("umount", str(target))
