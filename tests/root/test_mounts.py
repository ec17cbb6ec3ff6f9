"""Mounting and unmounting: nothing left, nothing on the host touched, no process of others ended."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from guest_tree import loop_device, no_mount_left, run
from whole_root import DEFAULTS, whole_root

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, Cancelled, CommandError, UndoError
from packer_plugin_osc_chroot.host import link_lock
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.holders_scan import find_holders
from packer_plugin_osc_chroot.host.mountinfo import mounts_below, read_mounts
from packer_plugin_osc_chroot.host.mounts import ExtraMount
from packer_plugin_osc_chroot.host.procfs import read_process
from packer_plugin_osc_chroot.ui import RecordingUi

pytestmark = pytest.mark.root

HOSTS = [Host(), Host(wrap=lambda command: f"sudo -n {command}")]


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with loop_device(tmp_path_factory.mktemp("disk")) as name:
        yield name


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    with no_mount_left(tmp_path):
        yield tmp_path / "made" / "root with space"


def fsck(device: str) -> None:
    subprocess.run(["e2fsck", "-fn", device], check=True, capture_output=True)


@pytest.mark.parametrize("host", HOSTS)
def test_default_mounts_come_and_go(device: str, target: Path, host: Host) -> None:
    before = read_mounts()
    with whole_root(device, target, host=host) as (root, _):
        at = [mount.mount_point.removeprefix(str(root)) for mount in mounts_below(str(root))]
        assert at == ["", "/proc", "/sys", "/dev", "/dev/pts", "/proc/sys/fs/binfmt_misc"]
        assert (root / "dev/null").is_char_device()
        assert "noatime" in run("findmnt", "-no", "OPTIONS", str(root))
    assert read_mounts() == before
    assert not target.parent.exists()
    fsck(device)


def test_missing_mount_points_are_made_and_removed(device: str, target: Path) -> None:
    host_file = target.parent.parent / "host file"
    host_file.write_text("host")
    mounts = [
        ExtraMount("tmpfs", "tmpfs", "/new/deep"),
        ExtraMount("tmpfs", "tmpfs", "/new/deep/er"),
        ExtraMount("bind", str(host_file), "/etc/of-the-host"),
        ExtraMount("tmpfs", "tmpfs", "/kept/x"),
    ]
    with whole_root(device, target, mounts=mounts) as (root, _):
        assert (root / "etc/of-the-host").read_text() == "host"
        (root / "kept/file").write_text("by a provisioner")
    with whole_root(device, target, mounts=[]) as (root, _):
        assert not (root / "new").exists()
        assert not (root / "etc/of-the-host").exists()
        assert [each.name for each in (root / "kept").iterdir()] == ["file"]
        (root / "kept/file").unlink()
        (root / "kept").rmdir()


def test_symlinks_in_the_image_lead_to_no_mount_outside(device: str, target: Path) -> None:
    outside = target.parent.parent / "outside"
    outside.mkdir()
    with whole_root(device, target, mounts=[]) as (root, _):
        (root / "lnk").symlink_to(outside)
        (root / "up").symlink_to("../../../../../../../.." + str(outside))
    mounts = [ExtraMount("tmpfs", "tmpfs", "/lnk"), ExtraMount("tmpfs", "tmpfs", "/up")]
    before = len(mounts_below(str(outside)))
    with whole_root(device, target, mounts=mounts) as (root, _):
        assert len(mounts_below(str(outside))) == before
        assert len(mounts_below(str(root))) == 3
    with whole_root(device, target, mounts=[]) as (root, _):
        assert not (root / str(outside).lstrip("/")).exists()
        (root / "lnk").unlink()
        (root / "up").unlink()


def test_missing_binfmt_misc_is_a_warning(device: str, target: Path) -> None:
    ui = RecordingUi()
    mounts = [DEFAULTS[0], ExtraMount("binfmt_misc", "x", "/proc/no-such-folder")]
    with whole_root(device, target, mounts=mounts, ui=ui) as (root, _):
        assert len(mounts_below(str(root))) == 2
    assert "warning: /proc/no-such-folder is not mounted" in ui.text


def test_failing_mount_undoes_the_others(device: str, target: Path) -> None:
    mounts = [*DEFAULTS, ExtraMount("no-such-fs", "x", "/mnt")]
    with pytest.raises(CommandError, match="no-such-fs"):
        with whole_root(device, target, mounts=mounts):
            raise AssertionError
    assert not target.parent.exists()
    with pytest.raises(BuildError, match="/no/such/source does not exist"):
        with whole_root(device, target, mounts=[ExtraMount("bind", "/no/such/source", "/mnt")]):
            raise AssertionError
    with pytest.raises(CommandError, match="failed with status 32"):
        with whole_root("/dev/no-such-device", target):
            raise AssertionError


def test_mount_path_in_use_is_refused(device: str, target: Path) -> None:
    with whole_root(device, target, mounts=[]):
        with pytest.raises(BuildError, match="is a mount point already"):
            with whole_root(device, target):
                raise AssertionError


def test_mounts_below_mount_path_are_nobodys_to_unmount(device: str, target: Path) -> None:
    theirs = target / "data of the host"
    theirs.mkdir(parents=True)
    run("mount", "-t", "tmpfs", "tmpfs", str(theirs))
    (theirs / "file").touch()
    with pytest.raises(BuildError, match=f"has mounts below it: {theirs}"):
        with whole_root(device, target, mounts=[]):
            raise AssertionError
    assert (theirs / "file").exists()
    run("umount", str(theirs))


def test_mounts_of_provisioners_are_undone(device: str, target: Path) -> None:
    with whole_root(device, target) as (root, _):
        (root / "tmp/a b").mkdir()
        run("mount", "-t", "tmpfs", "tmpfs", str(root / "tmp/a b"))
        run("mount", "-t", "tmpfs", "tmpfs", str(root / "tmp/a b"))
        run("mount", "--bind", "/etc", str(root / "root"))
        run("mount", "-t", "proc", "proc", str(root / "proc"))
    assert not target.parent.exists()
    fsck(device)


def stays_alive(root: Path, script: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        ["chroot", str(root), "/bin/sh", "-c", script],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(
    ("script", "seconds"),
    [
        ("exec sleep 81", 2.5),
        ("trap '' TERM; exec 7>/tmp/open; while :; do sleep 1; done", 6),
    ],
)
def test_target_is_busy_with_a_daemon(
    device: str, target: Path, host: Host, script: str, seconds: float
) -> None:
    ui = RecordingUi()
    other = subprocess.Popen(["sleep", "82"])
    try:
        with whole_root(device, target, host=host, ui=ui) as (root, _):
            child = stays_alive(root, script)
            time.sleep(0.2)
            start = time.monotonic()
        assert time.monotonic() - start < seconds
        assert child.wait(1) in (-signal.SIGTERM, -signal.SIGKILL)
        assert f"{child.pid} " in ui.text and ("sleep 81" in ui.text or "trap" in ui.text)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
    fsck(device)


@pytest.mark.parametrize("kind", ["cwd", "file", "map"])
def test_process_of_the_host_that_holds_the_mount_is_ended(
    device: str, target: Path, kind: str
) -> None:
    held = {
        "cwd": "import os; os.chdir(sys.argv[1])",
        "file": "f = open(sys.argv[1] + '/bin/busybox')",
        "map": "import ctypes; ctypes.CDLL(sys.argv[1] + '/tmp/lib.so')",
    }[kind]
    script = f"import sys, time; {held}; print(flush=True); time.sleep(83)"
    ui = RecordingUi()
    library = run("cc", "-print-file-name=libm.so.6")
    with whole_root(device, target, ui=ui) as (root, _):
        shutil.copy(library, root / "tmp/lib.so")
        child = subprocess.Popen([sys.executable, "-c", script, str(root)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
    child.stdout.close()
    assert child.wait(1) == -signal.SIGTERM
    assert {"cwd": "(cwd)", "file": "(open file", "map": "(mapped file"}[kind] in ui.text


def test_own_open_file_is_named_and_not_killed(device: str, target: Path) -> None:
    """Also what a held mount ends as: an error that lists what is left, and nothing hidden."""
    ui = RecordingUi()
    with ExitStack() as stack:
        with pytest.raises(UndoError) as caught:
            with whole_root(device, target, ui=ui) as (root, _):
                held = stack.enter_context(open(root / "bin/busybox", "rb"))
        assert f"{root} is still mounted" in caught.value.left
        assert mounts_below(str(root))
        held.close()
        run("umount", str(root))
        os.rmdir(root)
        os.rmdir(root.parent)


def test_process_in_the_folder_that_the_mount_covers_is_no_holder(
    device: str, target: Path
) -> None:
    """Its paths are the same: as of a shell that was in mount_path before the build."""
    target.mkdir(parents=True)
    library = shutil.copy(run("cc", "-print-file-name=libm.so.6"), target)
    script = (
        "import ctypes, os, sys, time; os.chdir(sys.argv[1]); f = open('x', 'w');"
        "ctypes.CDLL(sys.argv[2]); print(flush=True); time.sleep(85)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, target, library], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    ui = RecordingUi()
    try:
        with whole_root(device, target, ui=ui) as (root, _):
            assert find_holders(str(root)) == []
            real = stays_alive(root, "exec sleep 86")
            time.sleep(0.2)
            assert [each.pid for each in find_holders(str(root))] == [real.pid]
        assert real.wait(1) == -signal.SIGTERM
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
        shutil.rmtree(target)


OTHER_BUILD = """
import fcntl, os, subprocess, sys
# Packer, its plugin with the service, and what each of them has started.
os.chdir(sys.argv[2])
open("/proc/self/comm", "w").write("packer")
subprocess.Popen(["sleep", "87"])
service = "import fcntl, subprocess, sys; f = open(sys.argv[1]); fcntl.flock(f, 2);"
service += "subprocess.Popen(['sleep', '88']); print(flush=True); input()"
subprocess.run([sys.executable, "-c", service, sys.argv[1]])
"""


@pytest.mark.parametrize("host", HOSTS)
def test_service_packer_and_provisioners_of_another_build_are_named_and_not_ended(
    device: str, target: Path, host: Host
) -> None:
    lock = link_lock._directory() / "packer-plugin-osc-chroot-disk-test.lock"
    lock.touch()
    ui = RecordingUi()
    try:
        with pytest.raises(UndoError) as caught:
            with whole_root(device, target, host=host, ui=ui, mounts=[]) as (root, _):
                other = subprocess.Popen(
                    [sys.executable, "-c", OTHER_BUILD, lock, root],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    start_new_session=True,
                )
                assert other.stdout is not None
                other.stdout.readline()
                ours = stays_alive(root, "exec sleep 89")
                time.sleep(0.2)
                held = find_holders(str(root))
        assert len(held) == 5
        assert ours.wait(1) == -signal.SIGTERM
        theirs = [each for each in held if each.pid != ours.pid]
        assert find_holders(str(root)) == theirs
        assert caught.value.left[1:] == tuple(map(str, theirs))
    finally:
        lock.unlink()
        os.killpg(other.pid, signal.SIGKILL)
        other.communicate()
    run("umount", str(root))
    os.rmdir(root)
    os.rmdir(root.parent)


@pytest.mark.parametrize("error", [BuildError("the provisioner failed"), Cancelled()])
def test_mounts_that_stay_do_not_hide_why_the_build_failed(
    device: str, target: Path, error: BuildError
) -> None:
    """Each of the undos runs, and what each could not undo goes with the first error."""
    with ExitStack() as stack:
        with pytest.raises(type(error)) as caught:
            with whole_root(device, target, mounts=[ExtraMount("tmpfs", "tmpfs", "/tmp")]) as (
                root,
                _,
            ):
                held = stack.enter_context(open(root / "tmp/held", "w"))
                raise error
        assert caught.value is error
        left = [each.left for each in error.not_undone if isinstance(each, UndoError)]
        assert left == [(f"{root}/tmp is still mounted",)] * 2 or left == [
            (f"{root}/tmp is still mounted",),
            (f"{root}/tmp is still mounted", f"{root} is still mounted"),
        ]
        held.close()
        run("umount", str(root / "tmp"), str(root))
        os.rmdir(root)
        os.rmdir(root.parent)


def test_copy_in_another_mount_namespace_is_reported(device: str, target: Path) -> None:
    with pytest.raises(UndoError, match="still in use elsewhere") as caught:
        with whole_root(device, target, mounts=[]):
            child = subprocess.Popen(["unshare", "-m", "--propagation", "private", "sleep", "84"])
            time.sleep(0.3)
    try:
        assert any(str(child.pid) in each for each in caught.value.left)
    finally:
        child.kill()
        child.wait()


def test_cancel_during_the_mounts(device: str, target: Path) -> None:
    token = CancelToken()
    with pytest.raises(Cancelled):
        with whole_root(device, target, token=token):
            token.cancel()
            token.check()
    token = CancelToken()
    threading.Timer(0.02, token.cancel).start()
    with pytest.raises(Cancelled):
        with whole_root(device, target, token=token):
            token.sleep(5)
    assert not target.parent.exists()


def test_cancelled_unmount_hurries(device: str, target: Path) -> None:
    token = CancelToken()
    with pytest.raises(Cancelled):
        with whole_root(device, target, token=token) as (root, _):
            child = stays_alive(root, "trap '' TERM; while :; do sleep 1; done")
            time.sleep(0.2)
            token.cancel()
            start = time.monotonic()
            token.check()
    assert time.monotonic() - start < 1.5
    assert child.wait(1) == -signal.SIGKILL


SHARED_HOST = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from whole_root import DEFAULTS, whole_root
from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.host.chroot import Chroot
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.mountinfo import is_below, read_mounts
before = [(m.device_number, m.mount_point) for m in read_mounts()]
with whole_root(sys.argv[1], Path(sys.argv[2])) as (root, _):
    inside = [(m.device_number, m.mount_point) for m in read_mounts()]
    extra = [m for m in inside if m not in before]
    assert all(m[1].startswith(str(root)) for m in extra), extra
    assert len(inside) == len(before) + 6, inside
    # What a provisioner may do: nothing of it is seen outside.
    chroot = Chroot(Host(), root)
    for command in (
        "umount /dev/pts", "umount /proc/sys/fs/binfmt_misc", "umount /proc", "umount /sys",
        "mkdir -p /var/x /var/y; mount -o bind /dev /var/x; mount -t tmpfs t /dev/shm; "
        "umount /dev/shm /var/x", "mount -t proc proc /proc; umount -a; umount -l /dev; true",
    ):
        said = bytearray()
        chroot.start(command, on_stdout=said.extend, on_stderr=said.extend, token=CancelToken())
        seen = [(m.device_number, m.mount_point) for m in read_mounts()]
        assert [m for m in seen if not is_below(m[1], str(root))] == before, (command, said)
after = [(m.device_number, m.mount_point) for m in read_mounts()]
assert after == before, (before, after)
print("same")
"""


def test_host_with_shared_propagation_keeps_its_mounts(device: str, target: Path) -> None:
    """As under systemd: a mount below the bound /dev must not appear in, or vanish from, /dev.

    Nor does anything that a provisioner mounts or unmounts.
    """
    argv = ["unshare", "-m", "--propagation", "shared", sys.executable, "-c", SHARED_HOST]
    here = os.path.dirname(__file__)
    done = subprocess.run(
        [*argv, device, str(target), here], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "same", done.stderr


def test_the_tests_own_parents_are_spared(device: str, target: Path) -> None:
    """Packer is above the service: even with its working directory in the root it is not ended."""
    script = (
        "import os,sys;"
        "from packer_plugin_osc_chroot.host.holders_scan import find_holders; os.chdir(sys.argv[1]);"
        "print([h.pid for h in find_holders(sys.argv[1])], flush=True)"
    )
    with whole_root(device, target) as (root, _):
        done = subprocess.run(
            [sys.executable, "-c", script, str(root)], capture_output=True, text=True, check=True
        )
    assert done.stdout.strip() == "[]"
    assert read_process(os.getpid()) is not None
