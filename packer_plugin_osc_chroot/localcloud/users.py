"""Who uses a disk: mounts in any mount namespace, processes that have it open, stacked devices."""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packer_plugin_osc_chroot.localcloud.loops import LoopDevice

_PROC = Path("/proc")


@dataclass(frozen=True)
class Mount:
    """A line of mountinfo: the device's number and where it is mounted."""

    device: int
    path: str


def mounts(process: str = "self") -> list[Mount]:
    """The mounts that `process` sees, in the order of mounting."""
    found = []
    # Paths can hold any byte.
    text = (_PROC / process / "mountinfo").read_text(errors="surrogateescape")
    for line in text.splitlines():
        fields = line.split(" ")
        major, minor = fields[2].split(":")
        path = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        found.append(Mount(device=os.makedev(int(major), int(minor)), path=path))
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
    numbers = device.device_numbers()
    found = [f"device {entry.name}" for entry in (device.sys / "holders").glob("*")]
    for process in _processes():
        if process == str(os.getpid()):
            continue
        if any(number in numbers for number in _open_block_devices(process)):
            found.append(f"process {process} ({_command(process)})")
    return found


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
