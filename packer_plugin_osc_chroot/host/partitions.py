"""The partition that holds the root: found, waited for, mounted, and named where it is another one."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, CommandError, UndoError
from packer_plugin_osc_chroot.host.commands import Host, find_program
from packer_plugin_osc_chroot.host.disk import GIB, Disk, block_size, partition_path, partitions
from packer_plugin_osc_chroot.host.mounts import mounted_root
from packer_plugin_osc_chroot.host.signatures import Signatures, read_signatures
from packer_plugin_osc_chroot.ui import Ui

log = logging.getLogger(__name__)

_PARTITION_SECONDS = 15.0
# When the kernel has not read the partition table by itself by then, it is asked to.
_ASK_KERNEL_AFTER = 0.5
_LOOK_EVERY = 0.025
# How long the nodes of a new table must have been there. Little is enough: udev answers settle's ping
# after all that closing the disk has it do (systemd, src/udev); without udev the kernel makes them.
_STEADY_SECONDS = 0.1
# There where udev runs.
_UDEV = Path("/run/udev/control")

# What may hold a root, by blkid's names.
_ROOT_TYPES = ("ext4", "ext3", "ext2", "xfs", "btrfs", "f2fs", "jfs", "bcachefs")
# What is no filesystem, in words. The kernel mounts none of these.
_OTHER_USES = {
    "LVM2_member": "a physical volume of LVM",
    "crypto_LUKS": "an encrypted volume (LUKS)",
    "linux_raid_member": "a part of a RAID",
    "swap": "swap space",
}
# The top of a partition that is mounted at /boot or /boot/efi.
_BOOT_ENTRIES = re.compile(r"grub2?|loader|EFI|extlinux|vmlinuz.*|initramfs.*|initrd.*")
_ROOT_ENTRIES = ("etc", "usr", "bin", "sbin", "lib")


@dataclass(frozen=True)
class RootPartition:
    """Where the root filesystem is said to be. `is_default`: nobody has named it."""

    disk: Disk
    path: Path
    fstype: str
    is_default: bool

    def __str__(self) -> str:
        return str(self.path)


def find_partition(
    disk: Disk, number: int | None, *, host: Host, token: CancelToken
) -> RootPartition:
    """Wait for a partition's node; asks the kernel to read the table where it has not.

    `number` 0 is the whole disk, None the first partition, or the whole disk where it has no
    partition table. Raises BuildError listing the partitions that there are.
    """
    is_default = number is None
    if number is None:
        whole = read_signatures(host, disk.path, token=token)
        number = 0 if whole.fstype and not whole.table else 1
    path = partition_path(disk.path, number)
    waited = 0.0
    asked = False
    while block_size(path) is None:
        if not asked and waited >= _ASK_KERNEL_AFTER:
            asked = True
            _read_table(disk, host=host, token=token)
        if waited >= _PARTITION_SECONDS:
            raise _explained(
                f"disk {disk.path} has no partition {number} ({path} does not exist)",
                disk,
                host=host,
                token=token,
            )
        token.sleep(_LOOK_EVERY)
        waited += _LOOK_EVERY
    found = read_signatures(host, path, token=token)
    _check_mountable(disk, path, found, is_default=is_default, host=host, token=token)
    return RootPartition(disk, path, found.fstype, is_default)


def partition_table(disk: Disk, *, host: Host, token: CancelToken) -> tuple[str, ...]:
    """The partitions of the table on the disk: number, start and sectors of each; none without one."""
    columns = ["--show", "--noheadings", "--output", "NR,START,SECTORS"]
    # Without a table partx fails.
    shown = host.run(["partx", *columns, str(disk.path)], token=token, success=(0, 1))
    return tuple(line.strip() for line in shown.output.splitlines() if line.strip()[:1].isdigit())


def settle_partitions(
    disk: Disk, before: Sequence[str], *, host: Host, token: CancelToken
) -> tuple[str, ...]:
    """Where the table is another than `before`: wait until each of its partitions has its node.

    Kernel and udev make them, and after a new table may take them away and make them again; so they
    must stay for a moment. Where one does not appear nothing is said: whoever needs it says more.
    Returns the table.
    """
    table = partition_table(disk, host=host, token=token)
    if table == tuple(before):
        return table
    if _UDEV.exists() and find_program("udevadm") is not None:
        host.run(
            ["udevadm", "settle", f"--timeout={_PARTITION_SECONDS:.0f}"],
            token=token,
            success=(0, 1),
        )
    paths = [partition_path(disk.path, int(line.split()[0])) for line in table]
    waited = steady = 0.0
    shown: list[int | None] = []
    while steady < _STEADY_SECONDS and waited < _PARTITION_SECONDS:
        now = [_node_id(path) for path in paths]
        steady = steady + _LOOK_EVERY if now == shown and None not in now else 0.0
        shown = now
        token.sleep(_LOOK_EVERY)
        waited += _LOOK_EVERY
        if None in now and abs(waited - _ASK_KERNEL_AFTER) < _LOOK_EVERY / 2:
            _read_table(disk, host=host, token=token)
    return table


def _node_id(path: Path) -> int | None:
    """What changes when a node is made anew; None where it is none of a disk that is there."""
    try:
        return path.stat().st_ctime_ns if block_size(path) is not None else None
    except OSError:
        return None


def _check_mountable(
    disk: Disk,
    path: Path,
    found: Signatures,
    *,
    is_default: bool,
    host: Host,
    token: CancelToken,
) -> None:
    problem = ""
    if found.fstype in _OTHER_USES:
        problem = f"{path} holds {_OTHER_USES[found.fstype]}, no filesystem to mount"
    elif is_default and found.fstype == "vfat":
        problem = f"{path} is no root filesystem: it is a {found.fstype} one, as EFI uses it"
    elif not found and path != disk.path:
        problem = f"{path} has no filesystem"
    elif not found:
        problem = f"{path} has neither a filesystem nor partitions"
    if problem:
        raise _explained(problem, disk, host=host, token=token)


@contextmanager
def mounted_partition(
    host: Host,
    partition: RootPartition,
    mount_path: str,
    *,
    options: Sequence[str] = (),
    ui: Ui,
    token: CancelToken,
) -> Iterator[Path]:
    """`mounted_root` of a partition, with an error that says which one it may be where it is not."""
    # This VM, or another build, may run the same image: XFS mounts a UUID once only.
    always = ("nouuid",) if partition.fstype == "xfs" else ()
    with ExitStack() as stack:
        try:
            root = stack.enter_context(
                mounted_root(
                    host,
                    str(partition.path),
                    mount_path,
                    options=(*options, *always),
                    ui=ui,
                    token=token,
                )
            )
        except UndoError:
            raise
        except CommandError as error:
            if _is_wrong_one(partition, error):
                explained = _explained(
                    error.message,
                    partition.disk,
                    host=host,
                    token=token,
                    said=error.details,
                    other_than=partition.path,
                )
                explained.not_undone = error.not_undone
                raise explained from error
            if error.program == "mount" and options and not error.hint:
                error.hint = f"mount_options may be why: {', '.join(options)}"
            raise
        if partition.is_default and _is_boot(root):
            raise _explained(
                f"{partition} is no root filesystem: it has what belongs in /boot",
                partition.disk,
                host=host,
                token=token,
                other_than=partition.path,
            )
        yield root


def _is_wrong_one(partition: RootPartition, error: CommandError) -> bool:
    """Whether mount failed for what is on the partition, not for the options or the mount point.

    Status 32 is mount's own failure; the wrapper may have others.
    """
    if error.program != "mount" or error.status != 32:
        return False
    unknown = "unknown filesystem type" in "\n".join(error.details)
    return unknown or partition.fstype not in _ROOT_TYPES


def _is_boot(root: Path) -> bool:
    """An empty filesystem is none: a build from scratch fills it."""
    try:
        names = [entry.name for entry in root.iterdir()]
    except OSError:
        return False
    if any(name in names for name in _ROOT_ENTRIES):
        return False
    return any(_BOOT_ENTRIES.fullmatch(name) for name in names)


def digit_warning(option: str, command: str, disk: Disk) -> str:
    """What to say of a command that names a partition by a digit right after the disk's path.

    Empty where that is right: of /dev/xvdf the first is /dev/xvdf1, of /dev/nvme1n1 it is not
    /dev/nvme1n11.
    """
    if not disk.name[-1:].isdigit():
        return ""
    found = re.search(re.escape(str(disk.path)) + r"(\d+)", command)
    if found is None:
        return ""
    right = partition_path(disk.path, int(found[1]))
    return (
        f"warning: {option}: {found[0]} is no partition of {disk.path}: its name ends in a digit, so"
        f" the kernel calls that one {right}; {{{{.PartitionDevice}}}} is that of mount_partition"
    )


def _explained(
    problem: str,
    disk: Disk,
    *,
    host: Host,
    token: CancelToken,
    said: Sequence[str] = (),
    other_than: Path | None = None,
) -> BuildError:
    """The error, with what is on the disk and the mount_partition that may be meant."""
    found: dict[Path, Signatures] = {}
    lines = []
    for path in partitions(disk.path):
        try:
            found[path] = read_signatures(host, path, token=token)
        except CommandError as error:
            log.info("%s: %s", path, error)
            found[path] = Signatures()
        lines.append(_listed(path, found[path]))
    best = _best([path for path in found if path != other_than], found)
    if best is not None:
        number = str(best)[len(str(partition_path(disk.path, 1))) - 1 :]
        hint = f'{best} may be the root: set mount_partition = "{number}"'
    elif any(each.fstype == "LVM2_member" for each in found.values()):
        hint = "A root inside LVM cannot be built on: use a source OMI with the root on a partition"
    elif lines:
        hint = "Set mount_partition to the one that holds /, or to 0 for the whole disk"
    else:
        hint = (
            'Set mount_partition = "0" where the disk itself is the filesystem, or make partition and'
            " filesystem in pre_mount_commands"
        )
    shown = lines or [f"partitions of {disk.path}: none"]
    return BuildError(problem, hint=hint, details=[*said, *shown])


def _listed(path: Path, found: Signatures) -> str:
    size = block_size(path) or 0
    shown = f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 1024**2:.0f} MiB"
    label = f', label "{found.label}"' if found.label else ""
    kind = "several signatures" if found.is_ambivalent else found.fstype or "no filesystem"
    return f"{path}: {kind}, {shown}{label}"


def _best(paths: Sequence[Path], found: dict[Path, Signatures]) -> Path | None:
    """The most likely root: the largest Linux filesystem, one called root before the others."""
    likely = [path for path in paths if found[path].fstype in _ROOT_TYPES]
    if not likely:
        return None
    return max(likely, key=lambda path: ("root" in found[path].label.lower(), block_size(path)))


def _read_table(disk: Disk, *, host: Host, token: CancelToken) -> None:
    try:
        host.run(["partx", "--update", str(disk.path)], token=token)
    except CommandError as error:
        # A disk without a table, or one whose partitions are there already.
        log.info("partx: %s", error)
