"""The Region's disks: a sparse file for each volume and snapshot, loop devices for linked volumes.

A linked volume is a node with the numbers of its loop device, and one for each partition; `nodes.py`
says what they are called. Everything here blocks and runs in the Region's thread pool, except where
it says otherwise.
"""

import errno
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from packer_plugin_osc_chroot.localcloud import files, images, loops, nodes, users
from packer_plugin_osc_chroot.localcloud.loops import LoopDevice
from packer_plugin_osc_chroot.localcloud.nodes import Style, nodes_of
from packer_plugin_osc_chroot.localcloud.remains import NameTaken, Remains

# A probe of udev's or blkid's is over by then; what still uses a disk after it is no accident.
_SETTLE_SECONDS = 0.2


class SourceChanged(Exception):
    """The file of a source OMI is no longer what it was at the start."""


@dataclass(frozen=True)
class ForeignFile:
    """A user's image file that serves as a snapshot's data in place. Never written to."""

    path: Path
    size: int
    modified: int

    @classmethod
    def of(cls, path: Path) -> "ForeignFile":
        status = path.stat()
        return cls(path=path, size=status.st_size, modified=status.st_mtime_ns)

    def check(self) -> None:
        """Raises SourceChanged."""
        if ForeignFile.of(self.path) != self:
            raise SourceChanged(f"{self.path} changed while the localcloud was using it")


@dataclass
class Attachment:
    """A disk at the API's name `slot` (`xvdX`); `name` is that of its node."""

    loop: LoopDevice
    file: Path
    slot: str
    name: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    gone: bool = False

    @property
    def node(self) -> Path:
        return Path("/dev") / self.name


class Disks:
    """Owns the files below the localcloud's directory and the attachments."""

    def __init__(self, remains: Remains, *, style: Style = "xvd") -> None:
        self._remains = remains
        self._by_id = style == "by-id"
        self._directory = remains.data
        # Snapshots whose data is a user's own file.
        self.foreign: dict[str, ForeignFile] = {}
        for folder in ("volumes", "snapshots"):
            (self._directory / folder).mkdir(exist_ok=True)
            for part in (self._directory / folder).glob(".*.part"):
                part.unlink()

    def volume_file(self, volume_id: str) -> Path:
        return self._directory / "volumes" / f"{volume_id}.raw"

    def snapshot_file(self, snapshot_id: str) -> Path:
        """The snapshot's data; for a source OMI that could not be cloned, the user's own file."""
        foreign = self.foreign.get(snapshot_id)
        return foreign.path if foreign else self._directory / "snapshots" / f"{snapshot_id}.raw"

    def adopt_snapshot(self, snapshot_id: str, image: Path) -> None:
        """Make the raw image file `image` a snapshot's data: a clone, else the file in place.

        In place, because copying a large image would delay every start; it is only ever read.
        """
        target = self._directory / "snapshots" / f"{snapshot_id}.raw"
        with open(image, "rb") as reader, open(target, "xb") as writer:
            cloned = files.try_clone(reader.fileno(), writer.fileno())
        if not cloned:
            target.unlink()
            self.foreign[snapshot_id] = ForeignFile.of(image.resolve())

    def take_over_snapshot(self, snapshot_id: str, image: Path) -> None:
        """Make a file of ours a snapshot's data: it is moved."""
        target = self._directory / "snapshots" / f"{snapshot_id}.raw"
        try:
            os.rename(image, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            files.replace_sparse(image, target)
            image.unlink()

    def create_volume(self, volume_id: str, *, size: int, snapshot_id: str) -> None:
        """Make a volume of `size` bytes, from a snapshot unless `snapshot_id` is empty."""
        target = self.volume_file(volume_id)
        if not snapshot_id:
            files.create_sparse(target, size=size)
            return
        files.replace_sparse(self.snapshot_file(snapshot_id), target, size=size)
        foreign = self.foreign.get(snapshot_id)
        if foreign is not None:
            foreign.check()

    def grow_volume(self, volume_id: str, size: int, attachment: Attachment | None) -> None:
        """To `size` bytes, and its disk, where it has one, with it."""
        os.truncate(self.volume_file(volume_id), size)
        if attachment is not None:
            with attachment.lock:
                if not attachment.gone:
                    loops.read_size(attachment.loop)

    def create_snapshot(self, snapshot_id: str, source: Path) -> None:
        files.replace_sparse(source, self._directory / "snapshots" / f"{snapshot_id}.raw")

    def delete_volume(self, volume_id: str) -> None:
        self.volume_file(volume_id).unlink(missing_ok=True)

    def delete_snapshot(self, snapshot_id: str) -> None:
        if self.foreign.pop(snapshot_id, None) is None:
            self.snapshot_file(snapshot_id).unlink(missing_ok=True)

    def make_own_disk(self, size: int) -> None:
        """The VM's own disk, of `size` bytes: read-only, one partition, no filesystem in it.

        Where the machine has a disk of that name, or another localcloud made one, there is none.
        """
        file = self._remains.directory / "own-disk.raw"
        images.partitioned(file, size=size)
        with suppress(NameTaken):
            self.reserve(nodes.OWN_SLOT)
            try:
                names = (nodes.twin(nodes.OWN_SLOT),) if self._by_id else ()
                attachment = self._attach(file, nodes.OWN_SLOT, *names, read_only=True)
            except NameTaken:
                self.release(nodes.OWN_SLOT)
            else:
                self.update_partitions(attachment)

    def reserve(self, slot: str) -> None:
        """Take the API's name `xvdX` on this machine. Quick. Raises NameTaken."""
        self._remains.reserve(slot, by_id=self._by_id)

    def release(self, slot: str) -> None:
        """Give a name back. Quick."""
        self._remains.release(slot)

    def attach(self, volume_id: str, *, slot: str) -> Attachment:
        """Attach the volume and make its node (its partitions': `update_partitions`).

        Raises OSError, NameTaken where the machine has no name left for it.
        """
        return self._attach(self.volume_file(volume_id), slot)

    def _attach(self, file: Path, slot: str, *names: str, read_only: bool = False) -> Attachment:
        name = self._remains.reserve_node(*names) if self._by_id else slot
        try:
            loop = loops.attach(file, read_only=read_only)
        except OSError:
            self._release_node(name, slot)
            raise
        attachment = Attachment(loop=loop, file=file, slot=slot, name=name)
        try:
            nodes.make_node(attachment.node, os.makedev(loops.LOOP_MAJOR, loop.number))
            if self._by_id:
                nodes.make_link(nodes.link_of(slot), attachment.node)
        except OSError:
            loops.detach(loop, file=os.fspath(file))
            self._release_node(name, slot)
            raise
        return attachment

    def _release_node(self, name: str, slot: str) -> None:
        if name != slot:
            self.release(name)

    def update_partitions(self, attachment: Attachment) -> None:
        """Read the partition table and make the nodes match it."""
        with attachment.lock:
            if attachment.gone:
                return
            loops.read_partition_table(attachment.loop)
            self._update_nodes(attachment)

    def _update_nodes(self, attachment: Attachment) -> None:
        partitions = attachment.loop.partitions()
        wanted = {
            Path(f"{attachment.node}{number}"): device for number, device in partitions.items()
        }
        for node in nodes_of(attachment.name):
            if node != attachment.node and node not in wanted:
                node.unlink(missing_ok=True)
        for node, device in wanted.items():
            try:
                if node.lstat().st_rdev == device:
                    continue
                node.unlink()
            except FileNotFoundError:
                pass
            nodes.make_node(node, device)
        if self._by_id:
            self._update_links(attachment, list(partitions))

    def _update_links(self, attachment: Attachment, partitions: Sequence[int]) -> None:
        wanted = {
            nodes.link_of(attachment.slot, partition=number): f"{attachment.node}{number}"
            for number in partitions
        }
        for link in nodes.links_of(attachment.slot):
            if link != nodes.link_of(attachment.slot) and link not in wanted:
                link.unlink(missing_ok=True)
        for link, node in wanted.items():
            nodes.make_link(link, Path(node))

    def flush(self, attachment: Attachment) -> int | None:
        """Bring all that was written into the file; the sectors written so far.

        None when the disk is gone: its loop device may be another's by now.
        """
        with attachment.lock:
            if attachment.gone:
                return None
            loops.flush(nodes_of(attachment.name))
            return attachment.loop.sectors_written

    def mounts_of(self, attachment: Attachment) -> list[str]:
        return users.mounts_of(attachment.loop)

    def users_of(self, attachment: Attachment) -> list[str]:
        """What keeps the disk in use, in words; a probe that ends by itself does not count."""
        found = self._users_now(attachment)
        if found:
            time.sleep(_SETTLE_SECONDS)
            found = self._users_now(attachment)
        return found

    def _users_now(self, attachment: Attachment) -> list[str]:
        mounted = [f"mounted on {path}" for path in users.mounts_of(attachment.loop)]
        return mounted + [f"open in {user}" for user in users.openers_of(attachment.loop)]

    def detach(self, attachment: Attachment) -> bool:
        """Take the disk away; False when the kernel keeps it for a user that still has it."""
        with attachment.lock:
            attachment.gone = True
            loops.flush(nodes_of(attachment.name))
            for name in {attachment.slot, attachment.name}:
                nodes.remove(name)
            detached = loops.detach(attachment.loop, file=os.fspath(attachment.file))
        self._release_node(attachment.name, attachment.slot)
        self.release(attachment.slot)
        return detached
