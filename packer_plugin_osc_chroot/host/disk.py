"""Disks and partitions as this VM's kernel shows them: free names, the disk of a link, its partitions.

Source of the by-id form: OUTSCALE's CSI driver, which looks for the API's device name as a node and
else for /dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_sdX, whose target may carry another letter.
"""

import dataclasses
import logging
import os
import stat
import string
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, CommandError
from packer_plugin_osc_chroot.host import holders
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.mountinfo import read_mounts
from packer_plugin_osc_chroot.host.rootfs import Files

log = logging.getLogger(__name__)

GIB = 1024**3
_APPEAR_SECONDS = 60.0
_PARTITION_SECONDS = 15.0
# When the kernel has not read the partition table by itself by then, it is asked to.
_ASK_KERNEL_AFTER = 0.5
_LOOK_EVERY = 0.05
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


def candidate_paths(api_name: str, device_path: str, *, dev: Path = Path("/dev")) -> list[Path]:
    """Where a disk linked as `api_name` may be found, most certain first."""
    name = letters(api_name)
    paths = [Path(device_path)] if device_path else []
    paths += [dev / api_name.removeprefix("/dev/"), dev / f"xvd{name}"]
    paths += [dev / f"disk/by-id/scsi-0QEMU_QEMU_HARDDISK_sd{name}", dev / f"sd{name}"]
    return list(dict.fromkeys(paths))


def find_disk(
    volume_id: str,
    *,
    api_name: str,
    device_path: str,
    size: int,
    before: Mapping[Path, str],
    token: CancelToken,
    dev: Path = Path("/dev"),
) -> Disk:
    """Wait for the disk of a link to appear. `size` is in GiB, `before` the `disks()` before it.

    A disk that was there before is another one, whatever it is called, unless the user named it
    with `device_path`. The kernel's sdX says little: its letters are not the API's, so a build of
    the same size beside this one may have it. It counts only where it is new and no udev gives
    certain names. Raises BuildError listing what was seen when it does not appear in time.
    """
    waited = 0.0
    paths = candidate_paths(api_name, device_path, dev=dev)
    while True:
        for path in paths:
            if block_size(path) != size * GIB:
                continue
            node = Path(os.path.realpath(path))
            named = bool(device_path) and path == Path(device_path)
            if named or _is_certain(path, node, before=before, dev=dev):
                return Disk(volume_id, api_name, node)
        if waited >= _APPEAR_SECONDS:
            seen = [_shown(path, instance, before) for path, instance in disks(dev=dev).items()]
            raise BuildError(
                f"volume {volume_id} is linked as {api_name}, and no disk of {size} GiB appeared as"
                f" {', '.join(map(str, paths))} within {_APPEAR_SECONDS:.0f} s",
                hint=f"Where it is here under another name, have a udev rule link {api_name} to it and"
                f' set device_path = "{api_name}"; where it is not, dmesg may say why',
                details=[f"disks here: {', '.join(seen) or 'none'}"],
            )
        token.sleep(_LOOK_EVERY)
        waited += _LOOK_EVERY


def _shown(path: Path, instance: str, before: Mapping[Path, str]) -> str:
    new = "" if before.get(path) == instance else ", new"
    return f"{path} ({(block_size(path) or 0) / GIB:.1f} GiB{new})"


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


def _is_certain(path: Path, node: Path, *, before: Mapping[Path, str], dev: Path) -> bool:
    # A disk that went is told from one that got its name since.
    if node in before and before[node] == instance_of(node):
        return False
    if path.parent == dev and path.name.startswith("sd"):
        return not (dev / "disk/by-id").exists()
    return True


def disks(*, dev: Path = Path("/dev")) -> dict[Path, str]:
    """The nodes of whole disks, those without content left out.

    Each with what tells it from another disk that gets the same name later: numbers of the kernel.
    """
    found: dict[Path, str] = {}
    for node in sorted(dev.iterdir()):
        try:
            is_disk = (
                bool(block_size(node))
                and not (_sysfs(os.stat(node).st_rdev) / "partition").exists()
            )
        except OSError:
            continue
        if is_disk and not node.is_symlink():
            found[node] = instance_of(node)
    return found


def instance_of(node: Path) -> str:
    """What tells a disk from another that gets its node later; empty where there is none.

    Device number and, since Linux 5.15, the sequence number that no other disk ever gets."""
    try:
        sysfs = _sysfs(os.stat(node).st_rdev)
    except OSError:
        return ""
    try:
        sequence = (sysfs / "diskseq").read_text().strip()
    except OSError:
        sequence = ""
    return f"{sysfs.name} {sequence}"


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
        with suppress(OSError):
            numbers.add(_sysfs(os.stat(node).st_rdev).name)
    return [mount.mount_point for mount in read_mounts() if mount.device_number in numbers]


def check_unused(host: Host, partition: Path, *, token: CancelToken) -> None:
    """Raises BuildError naming who uses the partition, its disk or another partition of it.

    What is no block device is left to mount, which says so.
    """
    if block_size(partition) is None:
        return
    own = _sysfs(os.stat(partition).st_rdev)
    try:
        entry = own.resolve(strict=True)
    except OSError:
        return
    whole = entry.parent if (entry / "partition").exists() else entry
    parts = [path.parent for path in whole.glob("*/partition")]
    numbers = {(path / "dev").read_text().strip() for path in (entry, whole, *parts)}
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
    node = Path("/dev") / whole.name.replace("!", "/")
    # A claim of any partition is one of the whole disk; where that has no node, the partition's.
    path = node if block_size(node) else partition
    deadline = time.monotonic() + _CLAIM_SECONDS
    with holders.machine_files(host) as files:
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


def _read_table(disk: Disk, *, host: Host, token: CancelToken) -> None:
    try:
        host.run(["partx", "--update", str(disk.path)], token=token)
    except CommandError as error:
        # A disk without a table, or one whose partitions are there already.
        log.info("partx: %s", error)


def _sysfs(rdev: int) -> Path:
    return Path(f"/sys/dev/block/{os.major(rdev)}:{os.minor(rdev)}")
