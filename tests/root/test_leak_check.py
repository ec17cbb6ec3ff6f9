"""What the tests' leak check takes for theirs, and what for somebody else's."""

import os
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import leaks
import pytest
from leaks import Machine

pytestmark = pytest.mark.root

# Names that neither another test nor another run of these has.
NODE = Path(f"/dev/xvd-{os.getpid()}")
LINK = Path(f"/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_{os.getpid()}")


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@dataclass(frozen=True)
class Disk:
    """A loop device of a file with a filesystem."""

    undo: ExitStack
    loop: str
    file: Path

    def mount(self, at: Path) -> Path:
        at.mkdir(exist_ok=True)
        run("mount", self.loop, at)
        self.undo.callback(run, "umount", at)
        return at

    def node(self) -> None:
        os.mknod(NODE, 0o600 | stat.S_IFBLK, os.stat(self.loop).st_rdev)
        self.undo.callback(NODE.unlink)
        LINK.parent.mkdir(parents=True, exist_ok=True)
        LINK.symlink_to(NODE)
        self.undo.callback(LINK.unlink)


def attached(undo: ExitStack, file: Path) -> Disk:
    with open(file, "wb") as stream:
        stream.truncate(4 << 20)
    undo.callback(file.unlink, missing_ok=True)
    run("mkfs.ext4", "-q", "-F", file)
    loop = run("losetup", "--find", "--show", file)
    undo.callback(run, "losetup", "--detach", loop)
    return Disk(undo, loop, file)


@pytest.fixture
def undo(leak_check: Machine) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def elsewhere(undo: ExitStack) -> Path:
    """A directory of another run's."""
    return Path(undo.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))


@pytest.fixture
def machine(leak_check: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(leaks, "SETTLE_SECONDS", 0.2)
    return leak_check.again()


def test_what_another_run_has_is_not_a_leak(
    machine: Machine, undo: ExitStack, elsewhere: Path
) -> None:
    disk = attached(undo, elsewhere / "disk")
    disk.node()
    inner = attached(undo, disk.mount(elsewhere / "mounted") / "inner")
    inner.mount(elsewhere / "inside")
    run("mount", "-t", "tmpfs", "tmpfs", elsewhere / "inside")
    undo.callback(run, "umount", elsewhere / "inside")
    assert machine.leaks() == set()


@pytest.mark.parametrize("directory", ["tmp_path", "TMPDIR"])
def test_a_disk_of_a_test_s_own_file(
    machine: Machine, undo: ExitStack, elsewhere: Path, tmp_path: Path, directory: str
) -> None:
    own = tmp_path if directory == "tmp_path" else machine.temporary
    disk = attached(undo, own / "disk")
    disk.node()
    # Not below its directories, as a build mounts its disk.
    mounted = disk.mount(elsewhere / "mounted")
    (mounted / "proc").mkdir()
    run("mount", "-t", "proc", "proc", mounted / "proc")
    undo.callback(run, "umount", mounted / "proc")
    assert machine.leaks() >= {
        f"loop device {disk.loop} of {disk.file}",
        f"mount {mounted}",
        f"mount {mounted / 'proc'}",
        f"device node {NODE}",
        f"device node {LINK}",
    }


def test_a_file_that_was_removed_is_still_its_own(
    machine: Machine, undo: ExitStack, tmp_path: Path
) -> None:
    disk = attached(undo, tmp_path / "disk")
    disk.file.unlink()
    assert machine.leaks() == {f"loop device {disk.loop} of {disk.file}"}


def test_a_disk_in_a_disk_of_its_own(
    machine: Machine, undo: ExitStack, elsewhere: Path, tmp_path: Path
) -> None:
    outer = attached(undo, tmp_path / "disk")
    inner = attached(undo, outer.mount(elsewhere / "mounted") / "inner")
    assert f"loop device {inner.loop} of {inner.file}" in machine.leaks()


def test_a_mount_below_its_directory(machine: Machine, undo: ExitStack, tmp_path: Path) -> None:
    run("mount", "-t", "tmpfs", "tmpfs", tmp_path)
    undo.callback(run, "umount", tmp_path)
    assert machine.leaks() == {f"mount {tmp_path}"}


def _dead_node() -> None:
    os.mknod(NODE, 0o600 | stat.S_IFBLK, os.makedev(7, 1 << 19))


def _dead_link() -> None:
    LINK.parent.mkdir(parents=True, exist_ok=True)
    LINK.symlink_to(NODE)


@pytest.mark.parametrize(("make", "path"), [(_dead_node, NODE), (_dead_link, LINK)])
def test_what_leads_to_no_disk(
    machine: Machine, undo: ExitStack, make: Callable[[], None], path: Path
) -> None:
    make()
    undo.callback(path.unlink)
    assert machine.leaks() == {f"device node {path}"}


def test_what_was_there_before_is_no_leak(undo: ExitStack, machine: Machine) -> None:
    attached(undo, machine.temporary / "disk").node()
    assert machine.again().leaks() == set()
