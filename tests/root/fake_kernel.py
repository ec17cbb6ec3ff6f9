"""A /dev and a /sys of disks that no kernel drives, for hardware that is not here.

Nodes need numbers, so making them needs root; nothing ever opens one.
"""

import os
import stat
from pathlib import Path

GIB = 1024**3
# For local and experimental use (the kernel's devices.txt), so no driver of the machine has it.
_MAJOR = 240


class FakeKernel:
    """Disks come and go as a hypervisor plugs them in; `dev` and `sysfs` are what is looked at."""

    def __init__(self, directory: Path) -> None:
        self.dev = directory / "dev"
        self.sysfs = directory / "sys"
        self.dev.mkdir()
        (self.sysfs / "dev/block").mkdir(parents=True)
        self._made = 0

    def plug(
        self, name: str, *, size: int = 1, virtio: str = "", nvme: str = "", by_id: str = ""
    ) -> Path:
        """A whole disk of `size` GiB; a serial as virtio or NVMe have it, or a link of udev."""
        self._made += 1
        node = self.dev / name
        os.mknod(node, 0o600 | stat.S_IFBLK, os.makedev(_MAJOR, self._made))
        entry = self._entry(node)
        (entry / "device").mkdir(parents=True)
        (entry / "size").write_text(f"{size * GIB // 512}\n")
        (entry / "diskseq").write_text(f"{self._made}\n")
        if virtio:
            (entry / "serial").write_text(virtio)
        if nvme:
            (entry / "device/serial").write_text(f"{nvme:<20}\n")
        if by_id:
            self.link(by_id, node)
        return node

    def link(self, by_id: str, node: Path) -> None:
        """What udev makes for a disk."""
        link = self.dev / "disk/by-id" / by_id
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"../../{node.name}")

    def add_partition(self, disk: Path, name: str) -> Path:
        node = self.plug(name)
        (self._entry(node) / "partition").write_text("1\n")
        return node

    def unplug(self, node: Path) -> None:
        (self._entry(node) / "size").unlink()
        node.unlink()

    def _entry(self, node: Path) -> Path:
        number = os.stat(node).st_rdev
        return self.sysfs / f"dev/block/{os.major(number)}:{os.minor(number)}"
