"""Which processes keep a mount busy, as /proc shows it to whoever asks."""

import dataclasses
import os
import shlex
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from packer_plugin_osc_chroot.host.mountinfo import (
    Mount,
    is_below,
    mount_id_of,
    read_mounts,
    unescape,
)
from packer_plugin_osc_chroot.host.procfs import ancestors, command_line, pids
from packer_plugin_osc_chroot.ui import printable

# Links of a process in /proc, and what they are called to the user.
_PLACES = (("root", "root"), ("cwd", "cwd"), ("exe", "executable"))
# Filesystems that may never answer.
_NETWORK = ("nfs", "cifs", "smb", "fuse", "9p", "ceph", "afs")


@dataclasses.dataclass(frozen=True)
class Holder:
    """`why` names what lies in the mount: its root, cwd, executable, an open file, a mapping."""

    pid: int
    command: str
    why: str

    def __str__(self) -> str:
        return f"{self.pid} {self.command} ({self.why})"


def find_holders(mount_point: str, *, spare: Collection[int] = ()) -> list[Holder]:
    """Nothing is followed into a network mount: a dead one cannot hang it.

    This process, those above it and `spare` with those above them are never holders, nor what lies
    in the folder that the mount covers. Of processes in other mount namespaces, where the same path
    is another place, those count that lie in a copy of the mount, or have a file open in the mount
    itself.
    """
    namespace = _link("/proc/self/ns/mnt")
    own = read_mounts()
    inside = [mount for mount in own if is_below(mount.mount_point, mount_point)]
    ids = {mount.mount_id for mount in inside}
    elsewhere = {mount.device_number for mount in own if mount not in inside}
    elsewhere -= {mount.device_number for mount in inside}
    device = _device(mount_point, own)
    spared = ancestors(os.getpid())
    for pid in spare:
        spared |= ancestors(pid)
    found = []
    for pid in sorted(set(pids()) - spared):
        for thread in _threads(pid):
            if _link(f"/proc/{thread}/ns/mnt") == namespace:
                why = _why(thread, mount_point, inside=inside, elsewhere=elsewhere)
            else:
                why = _why_elsewhere(thread, mount_point, ids=ids, device=device)
            if why:
                found.append(Holder(pid, command_line(pid), printable(why)))
                break
    return found


def find_kernel_users(mount_point: str) -> list[str]:
    """What keeps a mount busy without a process: loop devices and swap on files in it."""
    found = []
    for backing in sorted(Path("/sys/block").glob("*/loop/backing_file")):
        with suppress(OSError):
            path = os.fsdecode(backing.read_bytes()).removesuffix("\n")
            if is_below(path, mount_point):
                device = f"/dev/{backing.parts[-3]}"
                found.append(f"loop device {device} of {printable(path)}: losetup -d {device}")
    with suppress(OSError), open("/proc/swaps", "rb") as file:
        for line in file.read().splitlines()[1:]:
            path = unescape(line.split()[0])
            if is_below(path, mount_point):
                found.append(f"swap on {printable(path)}: swapoff {shlex.quote(path)}")
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
            mounts = read_mounts(pid)
        except OSError:
            continue
        seen.add(namespace)
        if any(mount.device_number == device_number for mount in mounts):
            found.append(f"{pid} {command_line(pid)} (its mount namespace)")
    return found


def _device(mount_point: str, mounts: Sequence[Mount]) -> str:
    """The number of the device mounted there, which is nowhere else; "" where that is not so.

    What is mounted at other places too (bound, or the host's own) tells nothing about a process.
    """
    at = [mount.device_number for mount in mounts if mount.mount_point == mount_point]
    # The first is what was mounted by us; later ones lie over it.
    if not at or at[0].startswith("0:"):
        return ""
    same = [mount for mount in mounts if mount.device_number == at[0]]
    return at[0] if all(is_below(mount.mount_point, mount_point) for mount in same) else ""


def _threads(pid: int) -> list[str]:
    """Where /proc shows what a process has: its first thread, or the others where that has ended."""
    if _link(f"/proc/{pid}/cwd"):
        return [str(pid)]
    try:
        return [f"{pid}/task/{thread}" for thread in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def _why(
    process: str, mount_point: str, *, inside: Sequence[Mount], elsewhere: Collection[str]
) -> str:
    """A path alone says little: it may be of what the mount covers, and counts unless it is that.

    `inside` are the mounts at and below the mount point, `elsewhere` the numbers of devices that are
    mounted at other places only.
    """
    base = f"/proc/{process}"
    ids = {mount.mount_id for mount in inside}
    for name, words in _PLACES:
        target = _link(f"{base}/{name}")
        if is_below(target, mount_point) and _lies_in(f"{base}/{name}", target, inside):
            return words
    for fd in _fds(process):
        target = _link(f"{base}/fd/{fd}")
        if is_below(target, mount_point) and mount_id_of(int(fd), process) in (None, *ids):
            return f"open file {target.removeprefix(mount_point) or '/'}"
    for number, path in _maps(process):
        if is_below(path, mount_point) and number not in elsewhere:
            return f"mapped file {path.removeprefix(mount_point)}"
    return ""


def _lies_in(link: str, target: str, inside: Sequence[Mount]) -> bool:
    """Whether a link of /proc leads into one of these mounts; taken to where it cannot be told."""
    mount = _mount_of(target, inside)
    if mount is None or mount.fstype.startswith(_NETWORK):
        return True
    try:
        fd = os.open(link, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        return mount_id_of(fd) in (None, *(each.mount_id for each in inside))
    finally:
        os.close(fd)


def _why_elsewhere(process: str, mount_point: str, *, ids: Collection[int], device: str) -> str:
    """As `_why`, for a process that sees other mounts than we do, some of them maybe copies."""
    base = f"/proc/{process}"
    try:
        mounts = read_mounts(process)
    except OSError:
        return ""
    # The table counts from the process's root, its links from the top of its namespace.
    above = _link(f"{base}/root").rstrip("/")
    mounts = [dataclasses.replace(each, mount_point=above + each.mount_point) for each in mounts]
    copies = [mount for mount in mounts if device and mount.device_number == device]
    if copies:
        for name, words in _PLACES:
            if _mount_of(_link(f"{base}/{name}"), mounts) in copies:
                return words
    tops = {mount_point, *(mount.mount_point for mount in copies)}
    ids = {*ids, *(mount.mount_id for mount in copies)}
    for fd in _fds(process):
        target = _link(f"{base}/fd/{fd}")
        if any(is_below(target, top) for top in tops) and mount_id_of(int(fd), process) in ids:
            return f"open file {target}"
    if copies:
        for number, path in _maps(process):
            if number == device and any(is_below(path, top) for top in tops):
                return f"mapped file {path}"
    return ""


def _mount_of(path: str, mounts: Sequence[Mount]) -> Mount | None:
    """The mount that a path lies in: the innermost, and of several at one place the last."""
    found = None
    for mount in mounts:
        if path and is_below(path, mount.mount_point or "/"):
            if found is None or len(mount.mount_point) >= len(found.mount_point):
                found = mount
    return found


def _fds(process: str) -> list[str]:
    try:
        return os.listdir(f"/proc/{process}/fd")
    except OSError:
        return []


def _maps(process: str) -> Iterator[tuple[str, str]]:
    """The device ("MAJOR:MINOR") and the path of each mapped file."""
    try:
        with open(f"/proc/{process}/maps", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                # Six columns; the path, with newlines as \012, is the last.
                columns = line.rstrip("\n").split(maxsplit=5)
                if len(columns) == 6:
                    major, _, minor = columns[3].partition(":")
                    yield f"{int(major, 16)}:{int(minor, 16)}", columns[5]
    except OSError:
        return


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
