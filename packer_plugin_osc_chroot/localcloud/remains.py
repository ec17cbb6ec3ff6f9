"""What a localcloud leaves on the machine, and its removal: also of localclouds that were killed.

Each live localcloud holds a lock on its entry below the runtime directory; the entry names its
directory of disk files. An entry that nobody locks belongs to a dead one: whoever starts next
removes its mounts, loop devices, device nodes and files. Device names are shared with every other
localcloud of the machine: a name is taken by making a symlink, which is atomic.
"""

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from packer_plugin_osc_chroot.host.holders_scan import Holder
from packer_plugin_osc_chroot.localcloud import loops, nodes, users
from packer_plugin_osc_chroot.localcloud.attacher import NameTaken
from packer_plugin_osc_chroot.localcloud.freeing import free


def runtime_directory() -> Path:
    """Where the localclouds of this machine (of this user, without root) know of each other."""
    if os.geteuid() == 0:
        return Path("/run/osc-chroot-localcloud")
    return Path(tempfile.gettempdir()) / f"osc-chroot-localcloud-{os.geteuid()}"


@dataclass(frozen=True)
class Remains:
    """One localcloud's traces. `lock` is an open descriptor.

    `directory` goes with it, and `data`, which holds its disk files, lies in it unless its user
    keeps it. `ended` are the processes that were in the way of removing what dead ones left.
    """

    name: str
    directory: Path
    data: Path
    runtime: Path
    lock: int
    ended: Sequence[Holder] = ()

    def reserve(self, slot: str, *, by_id: bool = False) -> None:
        """Take the API's name `xvdX` for this localcloud. Raises NameTaken."""
        self._take(slot)
        twin = nodes.twin(slot)
        # A real disk sdX counts too: a builder that looked there would write to it.
        real = nodes.exists(twin) and not self._reservation(twin).is_symlink()
        if nodes.exists(slot) or real or (by_id and os.path.lexists(nodes.link_of(slot))):
            self.release(slot)
            raise NameTaken(slot)

    def reserve_node(self, *names: str) -> str:
        """Take the first of the kernel's names that is free. Raises NameTaken where none is."""
        for name in names or nodes.kernel_names():
            with suppress(NameTaken):
                self._take(name)
                if not nodes.exists(name):
                    return name
                self.release(name)
        raise NameTaken(", ".join(names) or "sdX")

    def _take(self, name: str) -> None:
        try:
            os.symlink(self.name, self._reservation(name))
        except FileExistsError:
            raise NameTaken(name) from None

    def release(self, device_name: str) -> None:
        self._reservation(device_name).unlink(missing_ok=True)

    def _reservation(self, device_name: str) -> Path:
        return self.runtime / "names" / device_name

    def mounts(self) -> list[str]:
        """Where disks of this localcloud are mounted."""
        return [path for loop in loops.loop_devices(self.data) for path in users.mounts_of(loop)]

    def holders(self) -> list[Holder]:
        """Processes that lie in disks of this localcloud, or have files of them open."""
        found = {
            holder.pid: holder
            for loop in loops.loop_devices(self.data)
            for holder in users.file_holders(loop)
        }
        return list(found.values())

    @property
    def _entry(self) -> "Entry":
        return Entry(self.name, self.directory, self.data)

    def remove(self) -> None:
        """Remove everything, and end the entry. Processes in the way are ended."""
        _remove(self._entry, self.runtime)
        # Whoever starts meanwhile looks at every entry: none may go, or lose its lock, under it.
        with _registry_lock(self.runtime):
            _unlink_entry(self.runtime / "clouds" / self.name, self._entry)
            os.close(self.lock)


@dataclass(frozen=True)
class Entry:
    """What the registry knows of a localcloud: its name, its directory, where its disk files are."""

    name: str
    directory: Path
    data: Path

    @classmethod
    def read(cls, file: Path) -> "Entry | None":
        """None for one that is not of this kind."""
        lines = file.read_text().splitlines()
        directory = Path(lines[0]) if lines else Path()
        if directory.name != f"osc-chroot-localcloud-{file.name}":
            return None
        return cls(file.name, directory, Path(lines[1]) if len(lines) > 1 else directory)

    def loop_devices(self) -> list[loops.LoopDevice]:
        """Those of its volumes, and of the VM's own disk, which is not kept with them."""
        places = {self.directory, self.data}
        return [device for place in places for device in loops.loop_devices(place)]


def register(*, data: Path | None = None) -> Remains:
    """Start a localcloud's entry and directory; first remove what dead ones left.

    `data` is the user's directory for its disk files, where there is one.
    """
    runtime = _registry()
    with _registry_lock(runtime):
        ended = remove_dead(runtime)
        name = secrets.token_hex(6)
        directory = Path(tempfile.gettempdir()).resolve() / f"osc-chroot-localcloud-{name}"
        entry = runtime / "clouds" / name
        data = data or directory
        entry.write_text(f"{directory}\n{data}\n")
        lock = os.open(entry, os.O_RDWR | os.O_CLOEXEC)
        # Who looks for localclouds that run may have it for a moment.
        fcntl.flock(lock, fcntl.LOCK_EX)
        directory.mkdir(mode=0o700)
    return Remains(
        name=name, directory=directory, data=data, runtime=runtime, lock=lock, ended=ended
    )


def clean() -> list[str]:
    """Remove what dead localclouds left; what there was, in words. Those that run are not touched."""
    runtime = _registry()
    found: list[str] = []
    with _registry_lock(runtime):
        ended = remove_dead(runtime, found=found)
    return [*(f"process {holder}" for holder in ended), *found]


def _registry() -> Path:
    """Made where it is missing. Raises PermissionError where it is another user's."""
    runtime = runtime_directory()
    for folder in (runtime, runtime / "clouds", runtime / "names"):
        folder.mkdir(mode=0o700, exist_ok=True)
    if runtime.lstat().st_uid != os.geteuid():
        raise PermissionError(f"{runtime} belongs to another user: remove it")
    return runtime


@contextmanager
def _registry_lock(runtime: Path) -> Iterator[None]:
    handle = os.open(runtime / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def remove_dead(runtime: Path, *, found: list[str] | None = None) -> list[Holder]:
    """Remove what localclouds left that were killed. The registry must be locked.

    Returns the processes that were ended for it; `found` gets what else there was.
    """
    ended = []
    found = [] if found is None else found
    for entry in list((runtime / "clouds").iterdir()):
        # One of another version of this program may not take the registry's lock to end.
        with suppress(FileNotFoundError):
            ended += _remove_if_dead(entry, runtime, found)
    return ended


def _remove_if_dead(file: Path, runtime: Path, found: list[str]) -> list[Holder]:
    handle = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        entry = Entry.read(file)
        if entry is None:
            file.unlink()
            return []
        found += _traces(entry, runtime)
        ended = _remove(entry, runtime)
        _unlink_entry(file, entry)
        return ended
    except BlockingIOError:
        return []
    finally:
        os.close(handle)


def _traces(entry: Entry, runtime: Path) -> list[str]:
    devices = entry.loop_devices()
    mounts = [path for loop in devices for path in users.mounts_of(loop)]
    names = [reservation.name for reservation in _names_of(entry.name, runtime)]
    return [
        *(f"mount {path}" for path in mounts),
        *(f"loop device {loop.path}" for loop in devices),
        *(f"device node {node}" for name in names for node in nodes.nodes_of(name)),
        *(f"link {link}" for name in names for link in nodes.links_of(name)),
        *([f"directory {entry.directory}"] if entry.directory.exists() else []),
    ]


def _unlink_entry(file: Path, entry: Entry) -> None:
    """End an entry, unless a disk is still there: the next to start tries again."""
    if not entry.loop_devices():
        file.unlink(missing_ok=True)


def _remove(entry: Entry, runtime: Path) -> list[Holder]:
    ended = []
    for loop in entry.loop_devices():
        # One disk that cannot be freed must not keep the others.
        with suppress(OSError):
            ended += free(loop)
    for reservation in _names_of(entry.name, runtime):
        nodes.remove(reservation.name)
        reservation.unlink(missing_ok=True)
    shutil.rmtree(entry.directory, ignore_errors=True)
    return ended


def _names_of(name: str, runtime: Path) -> list[Path]:
    """The reservations of the localcloud `name`."""
    return [each for each in (runtime / "names").iterdir() if _holder(each) == name]


def _holder(reservation: Path) -> str:
    """The localcloud that has the name; empty when it was given back meanwhile."""
    try:
        return os.readlink(reservation)
    except FileNotFoundError:
        return ""
