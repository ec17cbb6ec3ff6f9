"""The kernel's table of mounts, as this process sees it (proc_pid_mountinfo(5))."""

import os
import re
from dataclasses import dataclass

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    device_number: str
    mount_point: str
    fstype: str
    source: str


def parse_mountinfo(data: bytes) -> list[Mount]:
    """In the table's order: what is mounted over something comes after it."""
    mounts = []
    for line in data.splitlines():
        before, _, after = line.partition(b" - ")
        fields, kind = before.split(b" "), after.split(b" ")
        mounts.append(
            Mount(
                device_number=fields[2].decode("ascii"),
                mount_point=_unescape(fields[4]),
                fstype=_unescape(kind[0]),
                source=_unescape(kind[1]),
            )
        )
    return mounts


def _unescape(field: bytes) -> str:
    # Space, tab, newline and backslash are written as octal numbers.
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field))


def read_mounts() -> list[Mount]:
    with open("/proc/self/mountinfo", "rb") as file:
        return parse_mountinfo(file.read())


def mounts_below(path: str) -> list[Mount]:
    """What is mounted at or below a path (absolute, without symlinks), in mounting order."""
    return [
        mount
        for mount in read_mounts()
        if mount.mount_point == path or mount.mount_point.startswith(path.rstrip("/") + "/")
    ]
