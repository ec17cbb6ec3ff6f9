"""Which disk here is the one of a link: found by its names, else by what appeared, and proved.

A VM may show a linked volume under any name. What the hypervisor says of the disk itself is certain:
the node of the API's name, a serial (by-id links of udev, virtio's and NVMe's in sysfs) that holds
that name or the volume's id. Where nothing of the kind is there, the one disk of the right size that
appeared is taken, and only when no other build can have caused it.

Source of the by-id form: OUTSCALE's CSI driver, which looks for the API's device name as a node and
else for /dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_sdX, whose target may carry another letter.
"""

import logging
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.disk import (
    DEV,
    GIB,
    SYSFS,
    Disk,
    block_size,
    device_number,
    disks,
    instance_of,
    sysfs_entry,
)
from packer_plugin_osc_chroot.host.signatures import read_signatures
from packer_plugin_osc_chroot.options.devices import letters

log = logging.getLogger(__name__)

_APPEAR_SECONDS = 60.0
# How long a new disk may stay without a name that tells whose it is: udev needs moments.
_NAMED_SECONDS = 3.0
_LOOK_EVERY = 0.05
_API_NAME = re.compile(r"(?:/dev/)?(?:sd|xvd)[a-z]{1,2}|vol-?[0-9a-f]{8,}")
_ANOTHER = "Nothing was written to it. Set nvme_device_path to the disk that is the volume's"
# No linked volume is one of these.
_NOT_LINKED = re.compile(r"(?:loop|ram|zram|dm-|md|sr|fd|nbd|rbd|drbd)\d")


class UnprovedDisk(BuildError):
    """Disks appeared, and nothing tells which of them belongs to the link."""


def find_disk(
    volume_id: str,
    *,
    api_name: str,
    nvme_device_path: str = "",
    size: int,
    before: Mapping[Path, str],
    is_alone: Callable[[], bool],
    token: CancelToken,
    dev: Path = DEV,
    sysfs: Path = SYSFS,
) -> Disk:
    """Wait for the disk of a link to appear. `size` is in GiB, `before` the `disks()` before it.

    A disk that was there before is another one, whatever it is called, and even if `nvme_device_path`
    names it: OUTSCALE's VMs give a disk other letters than the API. `is_alone` says whether nobody
    else can have linked one since `before`. Raises UnprovedDisk; BuildError listing what was seen
    when none appears in time.
    """
    waited = 0.0
    unnamed_since: float | None = None
    own_names = _own_names(volume_id, api_name)
    given = _given_paths(nvme_device_path)
    while True:
        new = _new_disks(size, before=before, dev=dev, sysfs=sysfs)
        numbers = {device_number(each) for each in new}
        certain = certain_paths(api_name, own_names, new, dev=dev, sysfs=sysfs)
        for path in given or certain:
            node = Path(os.path.realpath(path))
            if device_number(node) in numbers:
                return Disk(volume_id, api_name, node)
        unnamed = [] if given else _unnamed(new, dev=dev, sysfs=sysfs)
        if not unnamed:
            unnamed_since = None
        elif unnamed_since is None:
            unnamed_since = waited
        elif waited - unnamed_since >= _NAMED_SECONDS:
            if len(unnamed) == 1 and is_alone():
                log.info("%s is taken for %s by its appearance alone", unnamed[0], volume_id)
                return Disk(volume_id, api_name, unnamed[0])
            raise UnprovedDisk(
                f"volume {volume_id} is linked as {api_name}, and nothing tells whether it is"
                f" {' or '.join(map(str, unnamed))}",
                hint=_override_hint(api_name),
                details=_seen(before, dev=dev, sysfs=sysfs),
            )
        if waited >= _APPEAR_SECONDS:
            looked_for = [*given, dev / api_name.removeprefix("/dev/")]
            raise BuildError(
                f"volume {volume_id} is linked as {api_name}, and no disk of {size} GiB appeared as"
                f" {', '.join(map(str, looked_for))} or with a serial of"
                f" {', '.join(sorted(own_names))} within {_APPEAR_SECONDS:.0f} s",
                hint=_override_hint(api_name) + "; where it is not here, dmesg may say why",
                details=_seen(before, dev=dev, sysfs=sysfs),
            )
        token.sleep(_LOOK_EVERY)
        waited += _LOOK_EVERY


def find_again(
    volume_id: str, *, api_name: str, size: int, dev: Path = DEV, sysfs: Path = SYSFS
) -> Path | None:
    """The disk of a link that stands since before this VM was started; None where none is certain.

    The kernel's own sdX is left out: it may be any disk now. `size` is in GiB.
    """
    there = _new_disks(size, before={}, dev=dev, sysfs=sysfs)
    numbers = {device_number(each) for each in there}
    for path in certain_paths(
        api_name, _own_names(volume_id, api_name), there, dev=dev, sysfs=sysfs
    ):
        if path.parent == dev and path.name.startswith("sd"):
            continue
        node = Path(os.path.realpath(path))
        if device_number(node) in numbers:
            return node
    return None


def check_content(host: Host, disk: Disk, *, is_empty: bool, token: CancelToken) -> None:
    """The last proof before anything is written: a new volume is blank, one of a snapshot is not.

    Raises BuildError; CommandError where the disk cannot be read.
    """
    found = read_signatures(host, disk.path, token=token)
    if is_empty and found:
        raise BuildError(
            f"{disk.path} should be the new, empty volume {disk.volume_id}, and has"
            f" {found.describe()} on it",
            hint=_ANOTHER,
        )
    if not is_empty and not found:
        raise BuildError(
            f"{disk.path} should be volume {disk.volume_id}, made from the source OMI's snapshot, and"
            " has neither a partition table nor a filesystem on it",
            hint=_ANOTHER,
        )


def _own_names(volume_id: str, api_name: str) -> frozenset[str]:
    """What a hypervisor may give a disk as its serial."""
    name = letters(api_name)
    return frozenset({volume_id, volume_id.replace("-", ""), f"sd{name}", f"xvd{name}"})


def _given_paths(nvme_device_path: str) -> list[Path]:
    # Older builders put partitions' numbers right after it: /dev/nvme1n1p is the disk /dev/nvme1n1.
    path = re.sub(r"(?<=\d)p$", "", nvme_device_path)
    return [Path(path)] if path else []


def certain_paths(
    api_name: str,
    own_names: Collection[str],
    new: Sequence[Path],
    *,
    dev: Path = DEV,
    sysfs: Path = SYSFS,
) -> list[Path]:
    """Where the disk of a link is without doubt, if there is a new disk there.

    The kernel's sdX says little: its letters are not the API's, so a build of the same size beside
    this one may have it. It counts only where no udev gives certain names.
    """
    name = letters(api_name)
    paths = [path for path in (dev / api_name.removeprefix("/dev/"), dev / f"xvd{name}")]
    # Not by-id: udev makes that with the first disk that has a serial, which may be this one.
    has_udev = (dev / "disk").exists()
    if has_udev:
        paths = [path for path in paths if not path.name.startswith("sd")]
        paths += [link for link in _links(dev) if serial_of_link(link.name) in own_names]
    else:
        paths.append(dev / f"sd{name}")
    paths += [node for node in new if serials(node, sysfs=sysfs) & set(own_names)]
    return list(dict.fromkeys(paths))


def serial_of_link(name: str) -> str:
    """The serial in the name of a by-id link of a whole disk; "" for other links."""
    kind, _, rest = name.partition("-")
    if kind not in ("scsi", "virtio", "nvme", "ata") or re.search(r"-part\d+$", rest):
        return ""
    *model, serial = rest.split("_")
    # MODEL_SERIAL_NAMESPACE
    if kind == "nvme" and len(model) > 1 and serial.isdecimal():
        serial = model[-1]
    return serial


def serials(node: Path, *, sysfs: Path = SYSFS) -> set[str]:
    """A disk's own serial as the kernel knows it: virtio's and NVMe's."""
    found = set()
    for name in ("serial", "device/serial"):
        with suppress(OSError, UnicodeDecodeError):
            found.add((sysfs_entry(node, sysfs=sysfs) / name).read_text(encoding="ascii").strip())
    return found - {""}


def _new_disks(size: int, *, before: Mapping[Path, str], dev: Path, sysfs: Path) -> list[Path]:
    """The disks of that size (GiB) that were not there before; one that went is told from another
    that got its name since."""
    now = disks(dev=dev, sysfs=sysfs)
    old = {instance for instance in before.values() if instance}
    return [
        path
        for path, each in now.items()
        if each not in old and block_size(path, sysfs=sysfs) == size * GIB
    ]


def _unnamed(new: Sequence[Path], *, dev: Path, sysfs: Path) -> list[Path]:
    """Those of the new disks that nothing says to be another link's; one node for each disk."""
    linked: dict[int, set[str]] = {}
    with suppress(OSError):
        for link in (dev / "disk/by-id").iterdir():
            if serial := serial_of_link(link.name):
                linked.setdefault(device_number(link), set()).add(serial)
    found: dict[int, Path] = {}
    for node in new:
        number = device_number(node)
        names = serials(node, sysfs=sysfs) | linked.get(number, set())
        if _NOT_LINKED.match(node.name) or any(_API_NAME.fullmatch(name) for name in names):
            continue
        found.setdefault(number, node)
    return list(found.values())


def _override_hint(api_name: str) -> str:
    return (
        f'Set nvme_device_path to the disk\'s path and device_path = "{api_name}" to link it under'
        " that name"
    )


def _seen(before: Mapping[Path, str], *, dev: Path, sysfs: Path) -> list[str]:
    seen = []
    for path in disks(dev=dev, sysfs=sysfs):
        new = "" if before.get(path) == instance_of(path, sysfs=sysfs) else ", new"
        own = "".join(f", serial {each}" for each in sorted(serials(path, sysfs=sysfs)))
        seen.append(f"{path} ({(block_size(path, sysfs=sysfs) or 0) / GIB:.1f} GiB{own}{new})")
    by_id = [f"{link} -> {os.path.realpath(link)}" for link in _links(dev)]
    return [f"disks here: {', '.join(seen) or 'none'}", *(f"link: {each}" for each in by_id)]


def _links(dev: Path) -> list[Path]:
    try:
        return sorted(link for link in (dev / "disk/by-id").iterdir() if serial_of_link(link.name))
    except OSError:
        return []
