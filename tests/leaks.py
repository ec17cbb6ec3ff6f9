"""What a test may leave on the machine: nothing. Compared before and after."""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from packer_plugin_osc_chroot.host.mountinfo import read_mounts

# A process that was killed, or the kernel letting go of a loop device, may need a moment.
SETTLE_SECONDS = 5.0
# Packer's own, left where it was killed.
_PACKERS = ("packer-log", "packer-shell")


class Machine:
    """The machine as it was when this was made. `temporary` is the TMPDIR of all that is tested."""

    def __init__(self, temporary: Path) -> None:
        self.temporary = temporary
        self._before = _shared()
        self._entries_before = {*temporary.iterdir()}

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
        return own | (_shared() - self._before)


def _shared() -> set[str]:
    return {
        *(f"mount {mount.mount_point}" for mount in read_mounts()),
        *(f"loop device {text}" for text in _loop_devices()),
        *(f"device node {path}" for path in _nodes_and_links()),
    }


def _nodes_and_links() -> Iterator[Path]:
    for pattern in ("xvd*", "sd*", "disk/by-id/scsi-0QEMU*"):
        yield from Path("/dev").glob(pattern)


def _loop_devices() -> Iterator[str]:
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            yield f"/dev/{backing.parent.parent.name} of {backing.read_text().strip()}"


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
