"""Block devices as this VM's kernel shows them: which there are, what uses them.

Which of them belongs to a link is found in `disk_search.py`, its partitions in `partitions.py`.
"""

import dataclasses
import logging
import os
import stat
import time
from pathlib import Path

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.host.mountinfo import read_mounts
from packer_plugin_osc_chroot.host.rootfs import Files

log = logging.getLogger(__name__)

DEV = Path("/dev")
SYSFS = Path("/sys")
GIB = 1024**3
# What looks at new disks (udev, blkid) may claim one for moments.
_CLAIM_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Disk:
    """A linked volume's disk. `api_name` is its name in the API, `path` its node here."""

    volume_id: str
    api_name: str
    path: Path

    @property
    def name(self) -> str:
        """What `{{.Device}}` is in mount_path."""
        return self.path.name


def device_number(node: Path) -> int:
    """What a node or a link to it stands for; 0 where it is no block device."""
    try:
        found = os.stat(node)
    except OSError:
        return 0
    return found.st_rdev if stat.S_ISBLK(found.st_mode) else 0


def sysfs_entry(node: Path, *, sysfs: Path = SYSFS) -> Path:
    """The kernel's folder for a block device; it need not exist."""
    number = device_number(node)
    return sysfs / f"dev/block/{os.major(number)}:{os.minor(number)}"


def block_size(path: Path, *, sysfs: Path = SYSFS) -> int | None:
    """A block device's size in bytes, as the kernel gives it; None for anything else."""
    if not device_number(path):
        return None
    try:
        return int((sysfs_entry(path, sysfs=sysfs) / "size").read_text()) * 512
    except (OSError, ValueError):
        return None


def disks(*, dev: Path = DEV, sysfs: Path = SYSFS) -> dict[Path, str]:
    """The nodes of whole disks, those without content left out, each with its `instance_of`."""
    return {
        node: instance_of(node, sysfs=sysfs)
        for node in sorted(dev.iterdir())
        if not node.is_symlink()
        and block_size(node, sysfs=sysfs)
        and not (sysfs_entry(node, sysfs=sysfs) / "partition").exists()
    }


def instance_of(node: Path, *, sysfs: Path = SYSFS) -> str:
    """What tells a disk from another that gets the same name later; "" where there is none.

    Device number and, since Linux 5.15, the sequence number that no other disk ever gets.
    """
    if not device_number(node):
        return ""
    entry = sysfs_entry(node, sysfs=sysfs)
    try:
        sequence = (entry / "diskseq").read_text().strip()
    except OSError:
        sequence = ""
    return f"{entry.name} {sequence}"


def partition_path(disk: Path, number: int | None) -> Path:
    """A partition's node, named as the kernel names it: sda1, but nvme0n1p1 and loop0p1.

    `number` 0 is the whole disk, None (nobody has named one) the first.
    """
    if number == 0:
        return disk
    return disk.with_name(f"{_partition_prefix(disk)}{1 if number is None else number}")


def partitions(disk: Path) -> list[Path]:
    """The nodes of a disk's partitions that exist now."""
    prefix = _partition_prefix(disk)
    found = [path for path in disk.parent.glob(f"{prefix}*") if path.name[len(prefix) :].isdigit()]
    return sorted(found, key=lambda path: int(path.name[len(prefix) :]))


def _partition_prefix(disk: Path) -> str:
    return f"{disk.name}p" if disk.name[-1:].isdigit() else disk.name


def mounts_of(disk: Path) -> list[str]:
    """Where a disk or one of its partitions is mounted now, read from the kernel's own table."""
    numbers = {sysfs_entry(node).name for node in (disk, *partitions(disk)) if device_number(node)}
    return [mount.mount_point for mount in read_mounts() if mount.device_number in numbers]


def check_unused(files: Files, partition: Path, *, token: CancelToken) -> None:
    """Raises BuildError naming who uses the partition, its disk or another partition of it.

    What is no block device is left to mount, which says so. `files` is of `holders.machine_files`.
    """
    if block_size(partition) is None:
        return
    own = sysfs_entry(partition)
    try:
        entry = own.resolve(strict=True)
    except OSError:
        return
    whole = entry.parent if (entry / "partition").exists() else entry
    parts = [path.parent for path in whole.glob("*/partition")]
    try:
        numbers = {(path / "dev").read_text().strip() for path in (entry, whole, *parts)}
    except OSError:
        # The disk, or its table, went meanwhile.
        return
    hint = "Builds use disks of their own. Check device_path, and what mounts disks by itself here."
    mounted = [mount.mount_point for mount in read_mounts() if mount.device_number in numbers]
    if mounted:
        raise BuildError(
            f"{partition} or its disk is mounted already, at {', '.join(mounted)}", hint=hint
        )
    users = sorted({user.name for path in (whole, *parts) for user in path.glob("holders/*")})
    if users:
        raise BuildError(
            f"{partition} or its disk is in use already, by {', '.join(users)}", hint=hint
        )
    node = DEV / whole.name.replace("!", "/")
    # A claim of any partition is one of the whole disk; where that has no node, the partition's.
    path = node if block_size(node) else partition
    deadline = time.monotonic() + _CLAIM_SECONDS
    while is_claimed(files, path, token=token):
        if time.monotonic() >= deadline:
            seen = [
                line
                for number in sorted(numbers)
                for line in files.call(
                    "find_mounters", {"device_number": number}, check=token.check
                )
            ]
            raise BuildError(
                f"{partition} or its disk is claimed already, by"
                f" {', '.join(seen) or 'something in the kernel (swap, RAID, a volume group)'}",
                hint=hint,
            )
        token.sleep(0.1)


def is_claimed(files: Files, disk: Path, *, token: CancelToken) -> bool:
    """Whether something has the disk or one of its partitions: a mount in any namespace, a filesystem
    that is unmounted and still writes, swap, RAID. A disk that has gone, or that we may not open, is
    not claimed by us.

    `files` is of `holders.machine_files`. Raises Cancelled, BuildError where its agent fails.
    """
    try:
        return bool(files.call("is_claimed", {"device": str(disk)}, check=token.check))
    except OSError as error:
        log.info("whether %s is claimed: %s", disk, error)
        return False
