"""Linked volumes as disks of a running VM: plugged in and pulled out over QMP, as OUTSCALE does it.

A SCSI disk whose device_id is the API's name, sdX, becomes /dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_sdX
in the VM, whichever letter its kernel gives it.
"""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qmp import Qmp

from packer_plugin_osc_chroot.localcloud.attacher import NameTaken

Bus = Literal["scsi", "nvme"]

# The VM's kernel answers to this; under tcg it is slow.
_UNPLUG_SECONDS = 60.0


@dataclass
class QmpDisk:
    """The Attachment of a file. What the VM does with its disk cannot be seen from here."""

    qmp: Qmp
    attacher: "QmpAttacher"
    file: Path
    slot: str
    name: str
    node: Path
    gone: bool = False
    is_here: bool = False

    def update_partitions(self) -> None:
        """The VM's kernel reads the table itself."""

    def update_size(self) -> None:
        self.qmp.execute("block_resize", node_name=self.name, size=self.file.stat().st_size)

    def flush(self) -> int | None:
        """The bytes that the VM wrote or discarded; QEMU has nothing of them that the file has not."""
        if self.gone:
            return None
        for entry in self.qmp.execute("query-blockstats"):
            if entry.get("node-name") == self.name:
                stats = entry["stats"]
                return int(stats["wr_bytes"]) + int(stats["unmap_bytes"])
        raise LookupError(f"QEMU does not count for {self.name}")

    def mounts(self) -> list[str]:
        return []

    def users(self) -> list[str]:
        return []

    def detach(self) -> bool:
        self.gone = True
        self.qmp.delete_device(f"disk-{self.name}", timeout=_UNPLUG_SECONDS)
        self.qmp.execute("blockdev-del", node_name=self.name)
        self.attacher.release(self.slot)
        return True


class QmpAttacher:
    """The Attacher of one VM. `bus` may be changed at any time, and is that of the next disk."""

    def __init__(self, qmp: Qmp) -> None:
        self.bus: Bus = "scsi"
        self._qmp = qmp
        self._lock = threading.Lock()
        self._reserved: set[str] = set()

    def reserve(self, slot: str) -> None:
        with self._lock:
            if slot in self._reserved:
                raise NameTaken(slot)
            self._reserved.add(slot)

    def release(self, slot: str) -> None:
        with self._lock:
            self._reserved.discard(slot)

    def attach(self, file: Path, *, slot: str) -> QmpDisk:
        """Raises OSError."""
        name = slot.replace("xvd", "sd", 1)
        self._qmp.execute(
            "blockdev-add",
            node_name=name,
            driver="raw",
            discard="unmap",
            file={"driver": "file", "filename": str(file), "discard": "unmap"},
        )
        if self.bus == "nvme":
            # Amazon's VMs have the volume's id there too.
            properties = {"driver": "nvme", "serial": file.stem}
            node = Path("/dev/nvme0n1")
        else:
            properties = {"driver": "scsi-hd", "bus": "scsi0.0", "device_id": name}
            node = Path(f"/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_{name}")
        self._qmp.execute("device_add", id=f"disk-{name}", drive=name, **properties)
        return QmpDisk(qmp=self._qmp, attacher=self, file=file, slot=slot, name=name, node=node)
