"""What /proc says about processes: who belongs to a command, read without any state of our own.

A process may end between two reads, so everything here treats a vanished one as not there.
"""

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packer_plugin_osc_chroot.ui import printable

# The variable that tells a build's commands from all others, once their build is dead.
BUILD_MARK = "OSC_CHROOT_BUILD"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    # As the kernel keeps it: of 15 bytes at most.
    name: str
    parent: int
    session: int
    state: str
    # In clock ticks since the boot: with the pid it names one process of this boot.
    started: int

    @property
    def alive(self) -> bool:
        return self.state not in "ZX"


def boot_id() -> str:
    """What tells this boot of the machine from every other."""
    return _BOOT_ID.read_text().strip()


def pids() -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield int(name)


def read_process(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    # The name stands in parentheses and may hold any character, so the fields count from the last.
    end = text.rindex(b")")
    fields = text[end + 2 :].split()
    return Process(
        pid=pid,
        name=text[text.index(b"(") + 1 : end].decode("utf-8", "replace"),
        parent=int(fields[1]),
        session=int(fields[3]),
        state=fields[0].decode("ascii"),
        started=int(fields[19]),
    )


def processes() -> dict[int, Process]:
    return {pid: process for pid in pids() if (process := read_process(pid)) is not None}


def command_line(pid: int) -> str:
    """The command line for people; the name in brackets for a process that has none."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(4096).split(b"\0")
        text = b" ".join(words).decode("utf-8", "replace").strip()
        if text:
            return printable(text)
        with open(f"/proc/{pid}/comm", "rb") as file:
            return f"[{printable(file.read().decode('utf-8', 'replace').strip())}]"
    except OSError:
        return "[gone]"


def ancestors(pid: int) -> set[int]:
    """The process itself and everything above it."""
    found: set[int] = set()
    while pid > 0 and pid not in found:
        found.add(pid)
        process = read_process(pid)
        if process is None:
            break
        pid = process.parent
    return found


def started_below(tops: Collection[int], *, stem: str) -> set[int]:
    """All that `tops` started, and all of what is right above them and has a name that begins so.

    Nothing that this process comes from counts as above them: what it started is ours too.
    """
    table = processes()
    own = ancestors(os.getpid())
    waiting = set()
    for pid in tops:
        while (process := table.get(pid)) is not None:
            waiting.add(pid)
            above = table.get(process.parent)
            if above is None or above.pid in own or not above.name.startswith(stem):
                break
            pid = above.pid
    return _descendants(waiting, table)


def _descendants(tops: Collection[int], table: Mapping[int, Process]) -> set[int]:
    """Those of the table that are among `tops` or below them."""
    children: dict[int, list[int]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process.pid)
    members: set[int] = set()
    waiting = [*tops]
    while waiting:
        pid = waiting.pop()
        if pid in table and pid not in members:
            members.add(pid)
            waiting.extend(children.get(pid, ()))
    return members


class Family:
    """The processes that a command started, as far as the kernel can still tell.

    Three ways lead to them: the parents, the sessions seen so far (a child whose parent has ended
    stays in its session) and a mark in the environment (it survives setsid, double forks and the
    end of every parent; only root can read it of root's processes).
    """

    def __init__(self, leader: int, *, mark: str = "") -> None:
        self._leader = leader
        self._sessions = {leader}
        self._mark = mark.encode()

    def living(self) -> list[int]:
        table = processes()
        members = _descendants([self._leader], table)
        self._sessions |= {table[pid].session for pid in members} - {os.getsid(0), 0}
        for pid, process in table.items():
            if pid not in members and (process.session in self._sessions or self._is_marked(pid)):
                members.add(pid)
        members.discard(os.getpid())
        return sorted(pid for pid in members if table[pid].alive)

    def _is_marked(self, pid: int) -> bool:
        if not self._mark:
            return False
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                return self._mark in file.read().split(b"\0")
        except OSError:
            return False
