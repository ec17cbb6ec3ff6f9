"""What a test may leave on the machine: nothing. Compared before and after.

Other runs of the tests, and localclouds that people have up, come and go meanwhile. A test's own are
the loop devices of files below its directories (and of files on such disks), what is mounted below
those or from these disks, and the nodes of and links to these disks. A node or a link that leads to
no disk at all can be anybody's: it counts.
"""

import os
import stat
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from packer_plugin_osc_chroot.host.mountinfo import is_below, read_mounts
from packer_plugin_osc_chroot.localcloud.loops import (
    LOOP_MAJOR,
    LoopDevice,
    loop_devices,
    loop_devices_on,
)

# A process that was killed, or the kernel letting go of a loop device, may need a moment.
SETTLE_SECONDS = 5.0
# Packer's own, left where it was killed.
_PACKERS = ("packer-log", "packer-shell")


class Machine:
    """The machine as it was when this was made.

    `temporary` is the TMPDIR of all that is tested, `more` are other directories of the tests.
    """

    def __init__(self, temporary: Path, *more: Path) -> None:
        self.temporary = temporary
        self._directories = [directory.resolve() for directory in (temporary, *more)]
        self._entries_before = {*temporary.iterdir()}
        self._before = self._on_machine()

    def again(self) -> "Machine":
        """The same as it is now."""
        return Machine(self.temporary, *self._directories[1:])

    def leaks(self) -> set[str]:
        """What is there now and was not, after it had time to go."""
        found = self._now()
        deadline = time.monotonic() + SETTLE_SECONDS
        while found and time.monotonic() < deadline:
            time.sleep(0.05)
            found &= self._now()
        return found

    def check(self) -> None:
        left = self.leaks()
        assert not left, "left on the machine:\n" + "\n".join(sorted(left))

    def _now(self) -> set[str]:
        own = {f"process {text}" for text in processes_of(self.temporary)}
        for entry in self.temporary.iterdir():
            if entry not in self._entries_before and not entry.name.startswith(_PACKERS):
                own.add(f"temporary file {entry}")
        return own | (self._on_machine() - self._before)

    def _on_machine(self) -> set[str]:
        devices = self._loop_devices()
        numbers = {number for device in devices for number in device.device_numbers()}
        return {
            *(f"loop device {device.path} of {device.backing_file}" for device in devices),
            *(f"mount {path}" for path in self._mounts(numbers)),
            *(f"device node {path}" for path in _nodes_and_links(numbers)),
        }

    def _loop_devices(self) -> set[LoopDevice]:
        found: set[LoopDevice] = set()
        more = {each for directory in self._directories for each in loop_devices(directory)}
        while more:
            found |= more
            numbers = {number for device in more for number in device.device_numbers()}
            more = {*loop_devices_on(numbers)} - found
        return found

    def _mounts(self, numbers: Collection[int]) -> Iterator[str]:
        """In the table's order: what is mounted in a mount comes after it."""
        tops = [os.fspath(directory) for directory in self._directories]
        for mount in read_mounts():
            major, minor = map(int, mount.device_number.split(":"))
            if os.makedev(major, minor) in numbers:
                tops.append(mount.mount_point)
            if any(is_below(mount.mount_point, top) for top in tops):
                yield mount.mount_point


def _nodes_and_links(numbers: Collection[int]) -> Iterator[Path]:
    """Those that lead to one of these disks, or to none."""
    for pattern in ("xvd*", "sd*", "disk/by-id/scsi-0QEMU*"):
        for path in Path("/dev").glob(pattern):
            try:
                status = path.stat()
            except FileNotFoundError:
                if path.is_symlink():
                    yield path
                continue
            if status.st_rdev in numbers or not _is_of_a_disk(status):
                yield path


def _is_of_a_disk(status: os.stat_result) -> bool:
    """Whether the node's disk is there; a loop device with no file is none."""
    major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    if not stat.S_ISBLK(status.st_mode) or not Path(f"/sys/dev/block/{major}:{minor}").exists():
        return False
    return major != LOOP_MAJOR or bool(LoopDevice(minor).backing_file)


def processes_of(temporary: Path) -> Iterable[str]:
    """The processes, other than this one, that were started with that TMPDIR."""
    wanted = f"TMPDIR={temporary}".encode()
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit() or int(directory.name) == os.getpid():
            continue
        with suppress(OSError):
            environment = (directory / "environ").read_bytes().split(b"\0")
            if wanted in environment:
                command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                yield f"{directory.name}: {command.strip()}"
