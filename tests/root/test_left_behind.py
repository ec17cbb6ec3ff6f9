"""What provisioners leave in a root: mounts in odd places, processes, and what the kernel keeps."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from guest_tree import loop_device, no_mount_left, run
from whole_root import whole_root

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, UndoError
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.mountinfo import mounts_below
from packer_plugin_osc_chroot.host.mounts import ExtraMount, mounted_root
from packer_plugin_osc_chroot.ui import RecordingUi

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with loop_device(tmp_path_factory.mktemp("disk")) as name:
        yield name


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    with no_mount_left(tmp_path):
        yield tmp_path / "root"


def test_nested_chroot_mounts_in_order_and_undone_in_reverse(device: str, target: Path) -> None:
    commands: list[str] = []

    def note(command: str) -> str:
        commands.append(command)
        return command

    points = ["/a", "/a/b", "/a/b/c", "/other", "/a/b/d"]
    mounts = [ExtraMount("tmpfs", f"t{number}", point) for number, point in enumerate(points)]
    with whole_root(device, target, host=Host(wrap=note), mounts=mounts) as (root, _):
        seen = [each.mount_point.removeprefix(str(root)) for each in mounts_below(str(root))]
        assert seen == ["", *points]
    last = [each.split()[-1].removeprefix(str(target)) for each in commands]
    done = [each for each, command in zip(last, commands, strict=True) if "mount " in command]
    assert done == ["", *points, *reversed(points), ""]


def over_the_root(root: Path) -> None:
    run("mount", "-t", "tmpfs", "tmpfs", str(root))


def bound_over_the_root(root: Path) -> None:
    run("mount", "--bind", str(root / "tmp"), str(root))


def over_a_parent(root: Path) -> None:
    (root / "tmp/x/y").mkdir(parents=True, exist_ok=True)
    run("mount", "-t", "tmpfs", "tmpfs", str(root / "tmp/x/y"))
    run("mount", "-t", "tmpfs", "tmpfs", str(root / "tmp/x"))


def moved_onto_a_later_one(root: Path) -> None:
    for name in ("early", "late"):
        (root / "tmp" / name).mkdir(exist_ok=True)
        run("mount", "-t", "tmpfs", name, str(root / "tmp" / name))
    (root / "tmp/late/in").mkdir()
    run("mount", "--move", str(root / "tmp/early"), str(root / "tmp/late/in"))


def the_root_in_itself(root: Path) -> None:
    run("mount", "--rbind", str(root), str(root / "root"))


def odd_name(root: Path) -> None:
    name = os.fsencode(root / "tmp") + b"/n\xff\n \\134 (deleted)"
    os.makedirs(name, exist_ok=True)
    subprocess.run([b"mount", b"-t", b"tmpfs", b"t", name], check=True)


@pytest.mark.parametrize(
    "left",
    [
        over_the_root,
        bound_over_the_root,
        over_a_parent,
        moved_onto_a_later_one,
        the_root_in_itself,
        odd_name,
    ],
)
def test_mounts_in_odd_places_are_undone(
    device: str, target: Path, left: Callable[[Path], None]
) -> None:
    with whole_root(device, target) as (root, _):
        left(root)
    assert not target.exists()
    subprocess.run(["e2fsck", "-fn", device], check=True, capture_output=True)


def test_daemon_with_a_deleted_cwd_and_a_file_of_an_odd_name_is_ended(
    device: str, target: Path
) -> None:
    ui = RecordingUi()
    with whole_root(device, target, ui=ui) as (root, _):
        gone = root / "tmp/gone"
        gone.mkdir()
        (root / "tmp/a\nb\x1b[31m").write_text("")
        with open(root / "tmp/a\nb\x1b[31m") as held:
            daemons = [
                subprocess.Popen(["sleep", "71"], cwd=gone),
                subprocess.Popen(["sleep", "72"], stdin=held),
            ]
        time.sleep(0.2)
        gone.rmdir()
    assert [each.wait(1) for each in daemons] == [-signal.SIGTERM] * 2
    lines = [text for _, text in ui.said]
    assert f"  {daemons[0].pid} sleep 71 (cwd)" in lines
    assert f"  {daemons[1].pid} sleep 72 (open file /tmp/a?b?[31m)" in lines


def test_program_of_the_image_that_runs_outside_is_ended(device: str, target: Path) -> None:
    """Its executable alone lies in the root."""
    ui = RecordingUi()
    with whole_root(device, target, ui=ui) as (root, _):
        daemon = subprocess.Popen(
            ["sleep", "73"], executable=root / "bin/busybox", cwd="/", stdin=subprocess.DEVNULL
        )
        time.sleep(0.2)
    assert daemon.wait(1) == -signal.SIGTERM
    assert f"  {daemon.pid} sleep 73 (executable)" in [text for _, text in ui.said]


ENDED_FIRST_THREAD = """
import ctypes, os, platform, sys, threading, time
os.chdir(sys.argv[1])
threading.Thread(target=time.sleep, args=[74]).start()
print(flush=True)
# exit(2), which ends the thread that calls it alone.
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)
"""


def test_process_whose_first_thread_has_ended_is_found(device: str, target: Path) -> None:
    ui = RecordingUi()
    with whole_root(device, target, ui=ui) as (root, _):
        daemon = subprocess.Popen(
            [sys.executable, "-c", ENDED_FIRST_THREAD, root], stdout=subprocess.PIPE
        )
        assert daemon.stdout is not None
        daemon.stdout.readline()
        time.sleep(0.2)
    daemon.stdout.close()
    assert daemon.wait(1) == -signal.SIGTERM
    assert re.search(rf"  {daemon.pid} .*\(cwd\)", ui.text)


@pytest.mark.parametrize("kind", ["loop device", "swap"])
def test_what_the_kernel_keeps_in_the_root_is_named(device: str, target: Path, kind: str) -> None:
    with ExitStack() as stack:
        with pytest.raises(UndoError) as caught:
            with whole_root(device, target, mounts=[]) as (root, _):
                file = root / "tmp/a file"
                file.write_bytes(b"\0" * 4_000_000)
                file.chmod(0o600)
                if kind == "loop device":
                    loop = run("losetup", "--find", "--show", str(file))
                    stack.callback(run, "losetup", "-d", loop)
                    said = f"loop device {loop} of {file}: losetup -d {loop}"
                else:
                    run("mkswap", str(file))
                    run("swapon", str(file))
                    stack.callback(run, "swapoff", str(file))
                    said = f"swap on {file}: swapoff '{file}'"
        assert caught.value.left == (f"{target} is still mounted", said)
    run("umount", str(target))
    target.rmdir()


def test_disk_that_takes_no_writes_is_refused(device: str, target: Path) -> None:
    """mount(8) warns, and mounts it all the same."""
    run("blockdev", "--setro", device)
    try:
        with pytest.raises(BuildError, match=f"{device} can only be mounted read-only"):
            with whole_root(device, target):
                raise AssertionError
        assert not target.exists()
        with mounted_root(
            Host(),
            device,
            str(target),
            options=["noatime,ro"],
            ui=RecordingUi(),
            token=CancelToken(),
        ):
            pass
    finally:
        run("blockdev", "--setrw", device)
