"""Which processes keep a mount busy, as /proc shows it to whoever asks."""

import os
from collections.abc import Collection
from dataclasses import dataclass

from packer_plugin_osc_chroot.host.procfs import ancestors, command_line, pids


@dataclass(frozen=True)
class Holder:
    """`why` names what lies in the mount: its root, cwd, executable, an open file, a mapping."""

    pid: int
    command: str
    why: str

    def __str__(self) -> str:
        return f"{self.pid} {self.command} ({self.why})"


def find_holders(mount_point: str, *, spare: Collection[int] = ()) -> list[Holder]:
    """Only links are read, nothing is opened or followed: a dead network mount cannot hang it.

    This process, those above it and `spare` with those above them are never holders.
    """
    spared = ancestors(os.getpid())
    for pid in spare:
        spared |= ancestors(pid)
    found = []
    for pid in sorted(set(pids()) - spared):
        why = _why(pid, mount_point)
        if why:
            found.append(Holder(pid, command_line(pid), why))
    return found


def find_mounters(device_number: str) -> list[str]:
    """Processes that see a mount of the device ("MAJOR:MINOR"): one for each mount namespace."""
    seen: set[str] = set()
    found = []
    for pid in sorted(pids()):
        namespace = _link(f"/proc/{pid}/ns/mnt")
        if not namespace or namespace in seen:
            continue
        try:
            with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="replace") as file:
                mounted = any(line.split()[2] == device_number for line in file)
        except OSError:
            continue
        seen.add(namespace)
        if mounted:
            found.append(f"{pid} {command_line(pid)} (its mount namespace)")
    return found


def _why(pid: int, mount_point: str) -> str:
    base = f"/proc/{pid}"
    for name, words in (("root", "root"), ("cwd", "cwd"), ("exe", "executable")):
        if _below(_link(f"{base}/{name}"), mount_point):
            return words
    try:
        fds = os.listdir(f"{base}/fd")
    except OSError:
        fds = []
    for fd in fds:
        target = _link(f"{base}/fd/{fd}")
        if _below(target, mount_point):
            return f"open file {target.removeprefix(mount_point) or '/'}"
    try:
        with open(f"{base}/maps", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                # Six columns; the path, with newlines as \012, is the last.
                columns = line.rstrip("\n").split(maxsplit=5)
                if len(columns) == 6 and _below(columns[5], mount_point):
                    return f"mapped file {columns[5].removeprefix(mount_point)}"
    except OSError:
        pass
    return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _below(path: str, mount_point: str) -> bool:
    return path == mount_point or path.startswith(mount_point + "/")
