"""Linked volumes as disks of this machine: a loop device each, with nodes of its own.

A disk is a node with the numbers of its loop device, and one for each partition; `nodes.py` says
what they are called.
"""

import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from packer_plugin_osc_chroot.localcloud import images, loops, nodes, users
from packer_plugin_osc_chroot.localcloud.attacher import NameTaken
from packer_plugin_osc_chroot.localcloud.loops import LoopDevice
from packer_plugin_osc_chroot.localcloud.nodes import Style, nodes_of
from packer_plugin_osc_chroot.localcloud.remains import Remains

# A probe of udev's or blkid's is over by then; what still uses a disk after it is no accident.
_SETTLE_SECONDS = 0.2


@dataclass
class LoopDisk:
    """The Attachment of a file at the API's name `slot` (`xvdX`); `name` is that of its node."""

    loop: LoopDevice
    file: Path
    slot: str
    name: str
    remains: Remains
    has_links: bool
    lock: threading.Lock = field(default_factory=threading.Lock)
    gone: bool = False
    is_here: bool = True

    @property
    def node(self) -> Path:
        return Path("/dev") / self.name

    def update_partitions(self) -> None:
        with self.lock:
            if self.gone:
                return
            loops.read_partition_table(self.loop)
            self._update_nodes()

    def _update_nodes(self) -> None:
        partitions = self.loop.partitions()
        wanted = {Path(f"{self.node}{number}"): device for number, device in partitions.items()}
        for node in nodes_of(self.name):
            if node != self.node and node not in wanted:
                node.unlink(missing_ok=True)
        for node, device in wanted.items():
            try:
                if node.lstat().st_rdev == device:
                    continue
                node.unlink()
            except FileNotFoundError:
                pass
            nodes.make_node(node, device)
        if self.has_links:
            self._update_links(list(partitions))

    def _update_links(self, partitions: Sequence[int]) -> None:
        wanted = {
            nodes.link_of(self.slot, partition=number): f"{self.node}{number}"
            for number in partitions
        }
        for link in nodes.links_of(self.slot):
            if link != nodes.link_of(self.slot) and link not in wanted:
                link.unlink(missing_ok=True)
        for link, node in wanted.items():
            nodes.make_link(link, Path(node))

    def update_size(self) -> None:
        with self.lock:
            if not self.gone:
                loops.read_size(self.loop)

    def flush(self) -> int | None:
        """The sectors written so far. None when the disk is gone: its loop device may be another's."""
        with self.lock:
            if self.gone:
                return None
            loops.flush(nodes_of(self.name))
            return self.loop.sectors_written

    def mounts(self) -> list[str]:
        return users.mounts_of(self.loop)

    def users(self) -> list[str]:
        """What keeps the disk in use, in words; a probe that ends by itself does not count."""
        found = self._users_now()
        if found:
            time.sleep(_SETTLE_SECONDS)
            found = self._users_now()
        return found

    def _users_now(self) -> list[str]:
        mounted = [f"mounted on {path}" for path in users.mounts_of(self.loop)]
        return mounted + [f"open in {user}" for user in users.openers_of(self.loop)]

    def detach(self) -> bool:
        """False when the kernel keeps the disk for a user that still has it."""
        with self.lock:
            self.gone = True
            loops.flush(nodes_of(self.name))
            for name in {self.slot, self.name}:
                nodes.remove(name)
            detached = loops.detach(self.loop, file=os.fspath(self.file))
        for name in {self.slot, self.name}:
            self.remains.release(name)
        return detached


class LoopAttacher:
    """The Attacher of this machine. What a killed localcloud leaves is in its `remains`."""

    def __init__(self, remains: Remains, *, style: Style = "xvd") -> None:
        self._remains = remains
        self._by_id = style == "by-id"

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
                disk = self._attach(file, nodes.OWN_SLOT, *names, read_only=True)
            except NameTaken:
                self.release(nodes.OWN_SLOT)
            else:
                disk.update_partitions()

    def reserve(self, slot: str) -> None:
        self._remains.reserve(slot, by_id=self._by_id)

    def release(self, slot: str) -> None:
        self._remains.release(slot)

    def attach(self, file: Path, *, slot: str) -> LoopDisk:
        """Attach the file and make its node (its partitions': `update_partitions`)."""
        return self._attach(file, slot)

    def _attach(self, file: Path, slot: str, *names: str, read_only: bool = False) -> LoopDisk:
        name = self._remains.reserve_node(*names) if self._by_id else slot
        try:
            loop = loops.attach(file, read_only=read_only)
        except OSError:
            self._release_node(name, slot)
            raise
        disk = LoopDisk(
            loop=loop,
            file=file,
            slot=slot,
            name=name,
            remains=self._remains,
            has_links=self._by_id,
        )
        try:
            nodes.make_node(disk.node, os.makedev(loops.LOOP_MAJOR, loop.number))
            if self._by_id:
                nodes.make_link(nodes.link_of(slot), disk.node)
        except OSError:
            loops.detach(loop, file=os.fspath(file))
            self._release_node(name, slot)
            raise
        return disk

    def _release_node(self, name: str, slot: str) -> None:
        if name != slot:
            self.release(name)
