"""Frees a disk from all that uses it, so that its loop device goes: for when nobody needs it more.

In this order: processes in its filesystems, swap, loop devices with files in them, mounts in every
mount namespace, and what still has the disk itself open.
"""

import os
import signal
import stat
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from packer_plugin_osc_chroot.host.holders_scan import Holder
from packer_plugin_osc_chroot.host.mountinfo import is_below
from packer_plugin_osc_chroot.localcloud import loops, users
from packer_plugin_osc_chroot.localcloud.loops import LoopDevice
from packer_plugin_osc_chroot.localcloud.tools import run_tool

_GRACES = ((signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0))
# A process that was killed lets go of its files a moment after it is no longer seen to have them.
_UNMOUNT_SECONDS = 0.5


def free(device: LoopDevice) -> list[Holder]:
    """Take the disk from its users and detach it. Returns the processes that were ended for it.

    This process and those above it are spared; where one of them is in the way, the kernel keeps
    the disk until it has gone.
    """
    ended = _end(lambda: users.file_holders(device))
    numbers = device.device_numbers()
    _swap_off(numbers)
    for inner in loops.loop_devices_on(numbers):
        ended += free(inner)
    _unmount(device)
    file = device.backing_file
    if not loops.detach(device, file=file):
        ended += _end(lambda: users.disk_holders(device))
        loops.detach(device, file=file)
    return ended


def _end(find: Callable[[], list[Holder]]) -> list[Holder]:
    """End the processes, and those that come after them. Returns all that were there."""
    seen: dict[int, Holder] = {}
    for number, seconds in _GRACES:
        deadline = time.monotonic() + seconds
        asked: set[int] = set()
        while held := find():
            for holder in held:
                seen.setdefault(holder.pid, holder)
                if holder.pid not in asked:
                    asked.add(holder.pid)
                    with suppress(ProcessLookupError):
                        os.kill(holder.pid, number)
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
    return list(seen.values())


def _swap_off(numbers: Collection[int]) -> None:
    """Swap files in the disk's filesystems, and swap areas on it."""
    with open("/proc/swaps", encoding="utf-8", errors="surrogateescape") as file:
        lines = file.read().splitlines()[1:]
    for line in lines:
        # Only blanks are of interest among what the kernel escapes.
        path = line.split()[0].replace("\\040", " ")
        try:
            status = os.stat(path)
        except OSError:
            continue
        area = status.st_rdev if stat.S_ISBLK(status.st_mode) else status.st_dev
        if area in numbers:
            run_tool(["swapoff", path])


def _unmount(device: LoopDevice) -> None:
    numbers = device.device_numbers()
    while tops := [mount.path for mount in users.mounts() if mount.device in numbers]:
        before = len(users.mounts())
        unmount_tree(tops[0])
        if len(users.mounts()) >= before:
            break
    for process, path in users.mounts_elsewhere(device):
        inside = ["nsenter", f"--mount=/proc/{process}/ns/mnt"]
        if run_tool([*inside, "umount", "--", path]).returncode != 0:
            run_tool([*inside, "umount", "--lazy", "--", path])


def unmount_tree(path: str) -> None:
    """Unmount `path` and all that is mounted below it; lazily where nothing else helps."""
    below = [mount.path for mount in users.mounts() if is_below(mount.path, path)]
    deadline = time.monotonic() + _UNMOUNT_SECONDS
    for mount_path in reversed(below):
        while run_tool(["umount", "--", mount_path]).returncode != 0:
            if time.monotonic() > deadline:
                run_tool(["umount", "--lazy", "--", mount_path])
                break
            time.sleep(0.05)
