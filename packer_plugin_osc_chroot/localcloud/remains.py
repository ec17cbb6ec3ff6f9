"""What a localcloud leaves on the machine, and its removal: also of localclouds that were killed.

Each live localcloud holds a lock on its entry below the runtime directory; the entry names its
directory of disk files. An entry that nobody locks belongs to a dead one: whoever starts next
removes its mounts, loop devices, device nodes and files. Device names are shared with every other
localcloud of the machine: a name is taken by making a symlink, which is atomic.
"""

import fcntl
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from packer_plugin_osc_chroot.localcloud import loops, users
from packer_plugin_osc_chroot.localcloud.tools import run_tool

_DEV = Path("/dev")


class NameTaken(Exception):
    """The device name is in use on this machine."""


def runtime_directory() -> Path:
    """Where the localclouds of this machine (of this user, without root) know of each other."""
    if os.geteuid() == 0:
        return Path("/run/osc-chroot-localcloud")
    return Path(tempfile.gettempdir()) / f"osc-chroot-localcloud-{os.geteuid()}"


@dataclass(frozen=True)
class Remains:
    """One localcloud's traces. `directory` holds its disk files, `lock` is an open descriptor."""

    name: str
    directory: Path
    runtime: Path
    lock: int

    def reserve(self, device_name: str) -> None:
        """Take `xvdX` for this localcloud. Raises NameTaken."""
        try:
            os.symlink(self.name, self._reservation(device_name))
        except FileExistsError:
            raise NameTaken(device_name) from None
        twin = device_name.replace("xvd", "sd", 1)
        # A real disk sdX counts too: a builder that looked there would write to it.
        if any(os.path.lexists(_DEV / node) for node in (device_name, twin)):
            self.release(device_name)
            raise NameTaken(device_name)

    def release(self, device_name: str) -> None:
        self._reservation(device_name).unlink(missing_ok=True)

    def _reservation(self, device_name: str) -> Path:
        return self.runtime / "names" / device_name

    def mounts(self) -> list[str]:
        """Where disks of this localcloud are mounted."""
        return [
            path for loop in loops.loop_devices(self.directory) for path in users.mounts_of(loop)
        ]

    def remove(self) -> None:
        """Remove everything, and end the entry."""
        _remove(self.name, self.directory, self.runtime)
        # Whoever starts meanwhile looks at every entry: none may go, or lose its lock, under it.
        with _registry_lock(self.runtime):
            (self.runtime / "clouds" / self.name).unlink(missing_ok=True)
            os.close(self.lock)


def register() -> Remains:
    """Start a localcloud's entry and directory; first remove what dead ones left."""
    runtime = runtime_directory()
    for folder in (runtime, runtime / "clouds", runtime / "names"):
        folder.mkdir(mode=0o700, exist_ok=True)
    if runtime.lstat().st_uid != os.geteuid():
        raise PermissionError(f"{runtime} belongs to another user: remove it")
    with _registry_lock(runtime):
        remove_dead(runtime)
        name = secrets.token_hex(6)
        directory = Path(tempfile.gettempdir()).resolve() / f"osc-chroot-localcloud-{name}"
        entry = runtime / "clouds" / name
        entry.write_text(f"{directory}\n")
        lock = os.open(entry, os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        directory.mkdir(mode=0o700)
    return Remains(name=name, directory=directory, runtime=runtime, lock=lock)


@contextmanager
def _registry_lock(runtime: Path) -> Iterator[None]:
    handle = os.open(runtime / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def remove_dead(runtime: Path) -> None:
    """Remove what localclouds left that were killed. The registry must be locked."""
    for entry in list((runtime / "clouds").iterdir()):
        # One of another version of this program may not take the registry's lock to end.
        with suppress(FileNotFoundError):
            _remove_if_dead(entry, runtime)


def _remove_if_dead(entry: Path, runtime: Path) -> None:
    handle = os.open(entry, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        directory = Path(entry.read_text().strip())
        if directory.name == f"osc-chroot-localcloud-{entry.name}":
            _remove(entry.name, directory, runtime)
        entry.unlink()
    except BlockingIOError:
        return
    finally:
        os.close(handle)


def _remove(name: str, directory: Path, runtime: Path) -> None:
    for loop in loops.loop_devices(directory):
        for path in users.mounts_of(loop):
            unmount_tree(path)
        loops.detach(loop, file=loop.backing_file)
    for reservation in (runtime / "names").iterdir():
        if _holder(reservation) == name:
            for node in nodes_of(reservation.name):
                node.unlink(missing_ok=True)
            reservation.unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)


def _holder(reservation: Path) -> str:
    """The localcloud that has the name; empty when it was given back meanwhile."""
    try:
        return os.readlink(reservation)
    except FileNotFoundError:
        return ""


def nodes_of(device_name: str) -> list[Path]:
    """The nodes of the disk `xvdX` and its partitions that a localcloud made."""
    pattern = re.compile(rf"{device_name}\d*")
    found = (node for node in _DEV.glob(f"{device_name}*") if pattern.fullmatch(node.name))
    return [node for node in found if loops.is_ours(node)]


def unmount_tree(path: str) -> None:
    """Unmount `path` and all that is mounted below it; lazily where it is busy: its disk goes."""
    below = [mount.path for mount in users.mounts() if _is_below(mount.path, path)]
    for mount_path in reversed(below):
        if run_tool(["umount", "--", mount_path]).returncode != 0:
            run_tool(["umount", "--lazy", "--", mount_path])


def _is_below(path: str, parent: str) -> bool:
    return path == parent or path.startswith(f"{parent.rstrip('/')}/")
