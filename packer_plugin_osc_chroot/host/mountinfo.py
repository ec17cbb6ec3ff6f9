"""The kernel's table of mounts, as this process sees it (proc_pid_mountinfo(5))."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """`mount_id` tells a mount from every other of the machine while it is there."""

    mount_id: int
    parent_id: int
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
                mount_id=int(fields[0]),
                parent_id=int(fields[1]),
                device_number=fields[2].decode("ascii"),
                mount_point=unescape(fields[4]),
                fstype=unescape(kind[0]),
                source=unescape(kind[1]),
            )
        )
    return mounts


def unescape(field: bytes) -> str:
    """A name in a table of the kernel, where space, tab, newline and backslash are octal numbers."""
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field))


def read_mounts(process: int | str = "self") -> list[Mount]:
    """The table as a process sees it. Raises OSError where it is gone or may not be asked."""
    with open(f"/proc/{process}/mountinfo", "rb") as file:
        return parse_mountinfo(file.read())


def mounts_below(path: str) -> list[Mount]:
    """What is mounted at or below a path (absolute, without symlinks), in mounting order."""
    return [mount for mount in read_mounts() if is_below(mount.mount_point, path)]


def unmount_order(mounts: Sequence[Mount]) -> list[Mount]:
    """Of mounts in the table's order: last first, but each after all that are mounted on it.

    The table alone does not tell: a mount that was moved onto a later one keeps its place there.
    """
    place = {mount.mount_id: index for index, mount in enumerate(mounts)}
    on_it = Counter(mount.parent_id for mount in mounts)
    free = [-place[mount.mount_id] for mount in mounts if not on_it[mount.mount_id]]
    heapify(free)
    order = []
    while free:
        mount = mounts[-heappop(free)]
        order.append(mount)
        on_it[mount.parent_id] -= 1
        if not on_it[mount.parent_id] and mount.parent_id in place:
            heappush(free, -place[mount.parent_id])
    return order


def is_below(path: str, top: str) -> bool:
    """Whether a path is `top` or lies below it, by the text of both."""
    return path == top or path.startswith(top.rstrip("/") + "/")


def mount_id_of(fd: int, process: int | str = "self") -> int | None:
    """The mount in which an open file lies; None where it cannot be told."""
    try:
        with open(f"/proc/{process}/fdinfo/{fd}", encoding="ascii", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name == "mnt_id":
                    return int(value)
    except OSError:
        pass
    return None


def missing_dirs(path: str) -> list[str]:
    """What of a path is not there, topmost first."""
    missing: list[str] = []
    while not os.path.lexists(path):
        missing.insert(0, path)
        path = os.path.dirname(path)
    return missing
