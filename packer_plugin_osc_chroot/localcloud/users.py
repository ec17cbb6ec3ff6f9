"""Who uses a disk: mounts in any mount namespace, processes that have it open, stacked devices."""

import os
import stat
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from packer_plugin_osc_chroot.host.holders_scan import Holder
from packer_plugin_osc_chroot.host.mountinfo import is_below, read_mounts
from packer_plugin_osc_chroot.host.procfs import ancestors, command_line, pids
from packer_plugin_osc_chroot.localcloud.loops import LoopDevice

_PROC = Path("/proc")
# Links of a process in /proc, and what they are called to the user.
_PLACES = (("root", "root"), ("cwd", "cwd"), ("exe", "executable"))


@dataclass(frozen=True)
class Mount:
    """A line of mountinfo: the device's number and where it is mounted."""

    device: int
    path: str


def mounts(process: str = "self") -> list[Mount]:
    """The mounts that `process` sees, in the order of mounting. Raises OSError where it is gone."""
    found = []
    for mount in read_mounts(process):
        major, minor = map(int, mount.device_number.split(":"))
        found.append(Mount(device=os.makedev(major, minor), path=mount.mount_point))
    return found


def mounts_of(device: LoopDevice) -> list[str]:
    """Where the disk or a partition of it is mounted, with the namespace's process if not ours.

    Other namespaces mostly have what they got from ours: that is not said twice.
    """
    numbers = device.device_numbers()
    found: dict[str, str] = {}
    for process in ("self", *_other_namespaces()):
        try:
            lines = mounts(process)
        except OSError:
            continue  # Ended while we looked.
        suffix = "" if process == "self" else f" (in the mount namespace of process {process})"
        for line in lines:
            if line.device in numbers:
                found.setdefault(line.path, f"{line.path}{suffix}")
    return list(found.values())


def mounts_elsewhere(device: LoopDevice) -> list[tuple[int, str]]:
    """A process of another mount namespace and a mount of the disk there, the innermost first.

    Paths count from the top of that namespace.
    """
    numbers = device.device_numbers()
    found = []
    for process in _other_namespaces():
        try:
            lines = mounts(process)
            # The table counts from the process's root.
            above = os.readlink(f"/proc/{process}/root").rstrip("/")
        except OSError:
            continue  # Ended while we looked.
        paths = [f"{above}{line.path}" for line in lines if line.device in numbers]
        found += [(int(process), path) for path in reversed(paths)]
    return found


def _other_namespaces() -> Iterator[str]:
    """One process for each mount namespace other than our own."""
    seen = {os.readlink("/proc/self/ns/mnt")}
    for process in _processes():
        try:
            namespace = os.readlink(f"/proc/{process}/ns/mnt")
        except OSError:
            continue
        if namespace not in seen:
            seen.add(namespace)
            yield process


def openers_of(device: LoopDevice) -> list[str]:
    """Processes that have the disk or a partition open, and devices stacked on it."""
    found = [f"device {entry.name}" for entry in (device.sys / "holders").glob("*")]
    opened = _have_open(device, spared={os.getpid()})
    return found + [f"process {process} ({_command(process)})" for process in opened]


def disk_holders(device: LoopDevice) -> list[Holder]:
    """Processes that have the disk or a partition open. Never this one or those above it."""
    opened = _have_open(device, spared=ancestors(os.getpid()))
    return [Holder(int(process), command_line(int(process)), "open disk") for process in opened]


def _have_open(device: LoopDevice, *, spared: AbstractSet[int]) -> list[str]:
    numbers = device.device_numbers()
    return [
        process
        for process in _processes()
        if int(process) not in spared
        and any(number in numbers for number in _open_block_devices(process))
    ]


def file_holders(device: LoopDevice) -> list[Holder]:
    """Processes that lie in a filesystem of the disk, or have a file of it open or mapped.

    They are told by the filesystem's device number: that holds in every mount namespace, and where
    the mount was detached lazily. Never this process or those above it.
    """
    numbers = device.device_numbers()
    numbers |= _devices_below(numbers)
    found = []
    for pid in sorted(set(pids()) - ancestors(os.getpid())):
        why = _why(pid, numbers)
        if why:
            found.append(Holder(pid, command_line(pid), why))
    return found


def _devices_below(numbers: AbstractSet[int]) -> set[int]:
    """What is mounted below the disk's mounts and nowhere else, such as a tmpfs on /run."""
    lines = mounts()
    tops = [line.path for line in lines if line.device in numbers]
    below: set[int] = set()
    elsewhere: set[int] = set()
    for line in lines:
        inside = any(is_below(line.path, top) for top in tops)
        (below if inside else elsewhere).add(line.device)
    return below - elsewhere


def _why(pid: int, numbers: AbstractSet[int]) -> str:
    base = f"/proc/{pid}"
    for name, words in _PLACES:
        if _device_of(f"{base}/{name}") in numbers:
            return words
    try:
        for handle in os.listdir(f"{base}/fd"):
            if _device_of(f"{base}/fd/{handle}") in numbers:
                return f"open file {os.readlink(f'{base}/fd/{handle}')}"
        with open(f"{base}/maps", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                # Six columns; the path, with newlines as \012, is the last.
                columns = line.rstrip("\n").split(maxsplit=5)
                major, _, minor = columns[3].partition(":")
                if os.makedev(int(major, 16), int(minor, 16)) in numbers:
                    return f"mapped file {columns[5]}"
    except OSError:
        pass  # Ended while we looked.
    return ""


def _device_of(path: str) -> int | None:
    """The number of the device that the file lies on; None when it cannot be told."""
    try:
        return os.stat(path).st_dev
    except OSError:
        return None


def _processes() -> Iterator[str]:
    return (entry for entry in os.listdir(_PROC) if entry.isdigit())


def _open_block_devices(process: str) -> Iterator[int]:
    try:
        handles = os.listdir(f"/proc/{process}/fd")
    except OSError:
        return
    for handle in handles:
        try:
            status = os.stat(f"/proc/{process}/fd/{handle}")
        except OSError:
            continue
        if stat.S_ISBLK(status.st_mode):
            yield status.st_rdev


def _command(process: str) -> str:
    try:
        return (_PROC / process / "comm").read_text().strip()
    except OSError:
        return "?"
