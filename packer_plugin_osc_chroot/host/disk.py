"""Disks and partitions as this VM's kernel shows them: free names, the disk of a link, its partitions.

Source of the by-id form: OUTSCALE's CSI driver, which looks for the API's device name as a node and
else for /dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_sdX, whose target may carry another letter.
"""

import dataclasses
import logging
import os
import stat
import string
from collections.abc import Collection, Iterator
from pathlib import Path

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, CommandError
from packer_plugin_osc_chroot.host.commands import Host

log = logging.getLogger(__name__)

GIB = 1024**3
_APPEAR_SECONDS = 60.0
_PARTITION_SECONDS = 15.0
# When the kernel has not read the partition table by itself by then, it is asked to.
_ASK_KERNEL_AFTER = 0.5
_LOOK_EVERY = 0.05


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


def letters(device_name: str) -> str:
    """The letters of a device name: "f" of /dev/xvdf, /dev/sdf, xvdf1; "" for other names."""
    name = device_name.removeprefix("/dev/").rstrip(string.digits)
    for prefix in ("xvd", "sd"):
        if name.startswith(prefix):
            return name[len(prefix) :]
    return ""


def free_names(taken: Collection[str], *, dev: Path = Path("/dev")) -> Iterator[str]:
    """Device names to link as, best first: /dev/xvdb to z, then ba to bz.

    `taken` are the device names of the VM's mappings. A name whose letters the kernel shows as a disk
    here comes after those that nobody uses, since another disk may carry it by chance.
    """
    used = {letters(name) for name in taken}
    candidates = [*string.ascii_lowercase[1:], *(f"b{c}" for c in string.ascii_lowercase)]
    free = [name for name in candidates if name not in used]
    shown = [x for x in free if any((dev / f"{p}{x}").exists() for p in ("xvd", "sd"))]
    for name in free:
        if name not in shown:
            yield f"/dev/xvd{name}"
    for name in shown:
        if not (dev / f"xvd{name}").exists():
            yield f"/dev/xvd{name}"


def candidate_paths(api_name: str, device_path: str) -> list[Path]:
    """Where a disk linked as `api_name` may be found, most certain first."""
    name = letters(api_name)
    paths = [Path(device_path)] if device_path else []
    paths += [Path(api_name), Path(f"/dev/xvd{name}")]
    paths += [
        Path(f"/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_sd{name}"),
        Path(f"/dev/sd{name}"),
    ]
    return list(dict.fromkeys(paths))


def find_disk(
    volume_id: str, *, api_name: str, device_path: str, size: int, token: CancelToken
) -> Disk:
    """Wait for the disk of a link to appear. `size` in GiB proves that it is the one.

    Raises BuildError listing what was seen when it does not appear in time.
    """
    waited = 0.0
    paths = candidate_paths(api_name, device_path)
    while True:
        for path in paths:
            if block_size(path) == size * GIB:
                return Disk(volume_id, api_name, Path(os.path.realpath(path)))
        if waited >= _APPEAR_SECONDS:
            seen = [f"{path} ({(block_size(path) or 0) / GIB:.1f} GiB)" for path in disks()]
            raise BuildError(
                f"volume {volume_id} is linked as {api_name}, and no disk of {size} GiB appeared as"
                f" {', '.join(map(str, paths))} within {_APPEAR_SECONDS:.0f} s",
                hint="Set device_path to the disk's path on this VM",
                details=[f"disks here: {', '.join(seen) or 'none'}"],
            )
        token.sleep(_LOOK_EVERY)
        waited += _LOOK_EVERY


def block_size(path: Path) -> int | None:
    """A block device's size in bytes, as the kernel gives it; None for anything else."""
    try:
        number = os.stat(path)
        if not stat.S_ISBLK(number.st_mode):
            return None
        sysfs = _sysfs(number.st_rdev)
        return int((sysfs / "size").read_text()) * 512
    except (OSError, ValueError):
        return None


def disks() -> list[Path]:
    """The whole disks that the kernel has, as nodes below /dev, those without content left out."""
    found = []
    for entry in sorted(Path("/sys/block").iterdir()):
        node = Path("/dev") / entry.name.replace("!", "/")
        if block_size(node):
            found.append(node)
    return found


def partition_path(disk: Path, number: int) -> Path:
    """A partition's node, named as the kernel names it: sda1, but nvme0n1p1 and loop0p1."""
    if number == 0:
        return disk
    separator = "p" if disk.name[-1:].isdigit() else ""
    return disk.with_name(f"{disk.name}{separator}{number}")


def find_partition(disk: Disk, number: int, *, host: Host, token: CancelToken) -> Path:
    """Wait for a partition's node; asks the kernel to read the table where it has not.

    Raises BuildError naming the partitions that there are.
    """
    path = partition_path(disk.path, number)
    waited = 0.0
    asked = False
    while block_size(path) is None:
        if not asked and waited >= _ASK_KERNEL_AFTER:
            asked = True
            _read_table(disk, host=host, token=token)
        if waited >= _PARTITION_SECONDS:
            there = ", ".join(str(partition) for partition in partitions(disk.path)) or "none"
            raise BuildError(
                f"disk {disk.path} has no partition {number} ({path} does not exist)",
                hint="Set mount_partition to the one that holds /, or to 0 for the whole disk",
                details=[f"partitions of {disk.path}: {there}"],
            )
        token.sleep(_LOOK_EVERY)
        waited += _LOOK_EVERY
    return path


def partitions(disk: Path) -> list[Path]:
    """The nodes of a disk's partitions that exist now."""
    separator = "p" if disk.name[-1:].isdigit() else ""
    prefix = f"{disk.name}{separator}"
    found = [path for path in disk.parent.glob(f"{prefix}*") if path.name[len(prefix) :].isdigit()]
    return sorted(found, key=lambda path: int(path.name[len(prefix) :]))


def mounts_of(disk: Path) -> list[str]:
    """Where a disk or one of its partitions is mounted now, read from the kernel's own table."""
    numbers = set()
    for node in (disk, *partitions(disk)):
        try:
            rdev = os.stat(node).st_rdev
        except OSError:
            continue
        numbers.add(f"{os.major(rdev)}:{os.minor(rdev)}")
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    rows = [line.split(" ") for line in lines]
    return [row[4] for row in rows if row[2] in numbers]


def _read_table(disk: Disk, *, host: Host, token: CancelToken) -> None:
    try:
        host.run(["partx", "--update", str(disk.path)], token=token)
    except CommandError as error:
        # A disk without a table, or one whose partitions are there already.
        log.info("partx: %s", error)


def _sysfs(rdev: int) -> Path:
    return Path(f"/sys/dev/block/{os.major(rdev)}:{os.minor(rdev)}")
