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
import time
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
_WAS_HERE = "it was here before the volume was linked"
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
    seconds: float,
    token: CancelToken,
    dev: Path = DEV,
    sysfs: Path = SYSFS,
) -> Disk:
    """Wait for the disk of a link to appear. `size` is in GiB, `before` the `disks()` before it.

    A disk that was there before is another one, whatever it is called, and even if `nvme_device_path`
    names it: OUTSCALE's VMs give a disk other letters than the API. `is_alone` says whether nobody
    else can have linked one since `before`. `seconds` is what is left of link_timeout. Raises
    UnprovedDisk; BuildError listing what was seen when none appears in time, or `nvme_device_path`
    names another.
    """
    begun = time.monotonic()
    seconds = max(0.0, min(seconds, _APPEAR_SECONDS))
    unnamed_since: float | None = None
    own_names = _own_names(volume_id, api_name)
    given = _given_path(nvme_device_path)
    while True:
        waited = time.monotonic() - begun
        new = _new_disks(size, before=before, dev=dev, sysfs=sysfs)
        numbers = {device_number(each) for each in new}
        certain = certain_paths(api_name, own_names, new, dev=dev, sysfs=sysfs)
        if given is not None and (
            why := _is_another(given, new, own_names, before=before, dev=dev, sysfs=sysfs)
        ):
            # One that is about to go makes room for ours.
            if why != _WAS_HERE or waited >= min(_NAMED_SECONDS, seconds):
                raise BuildError(
                    f"nvme_device_path {given} is not the disk of volume {volume_id}: {why}",
                    hint="Nothing was written to it. Leave nvme_device_path out: the disk is found"
                    " by itself",
                    details=_seen(before, dev=dev, sysfs=sysfs),
                )
        for path in certain if given is None else [given]:
            node = Path(os.path.realpath(path))
            if device_number(node) in numbers:
                return Disk(volume_id, api_name, node)
        unnamed = _unnamed(new, dev=dev, sysfs=sysfs) if given is None else []
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
        if waited >= seconds:
            looked_for = [dev / api_name.removeprefix("/dev/")] if given is None else [given]
            more = (
                "; a higher link_timeout leaves it more time" if seconds < _APPEAR_SECONDS else ""
            )
            raise BuildError(
                f"volume {volume_id} is linked as {api_name}, and no disk of {size} GiB appeared as"
                f" {', '.join(map(str, looked_for))} or with a serial of"
                f" {', '.join(sorted(own_names))} within {seconds:.0f} s",
                hint=f"{_override_hint(api_name)}; where it is not here, dmesg may say why{more}",
                details=_seen(before, dev=dev, sysfs=sysfs),
            )
        token.sleep(_LOOK_EVERY)


def _is_another(
    given: Path,
    new: Sequence[Path],
    own_names: frozenset[str],
    *,
    before: Mapping[Path, str],
    dev: Path,
    sysfs: Path,
) -> str:
    """Why the disk at a path that the user gave is not the link's; empty where nothing says so."""
    node = Path(os.path.realpath(given))
    number = device_number(node)
    if not number:
        return ""
    if (sysfs_entry(node, sysfs=sysfs) / "partition").exists():
        return "it is a partition"
    if instance_of(node, sysfs=sysfs) in before.values():
        return _WAS_HERE
    names = _link_names(dev=dev, sysfs=sysfs, nodes=[*new, node])
    if others := sorted(name for name in names[number] - own_names if _API_NAME.fullmatch(name)):
        return f"it is called {', '.join(others)}"
    for each in new:
        if device_number(each) != number and names[device_number(each)] & own_names:
            return f"{each} is"
    return ""


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


def _given_path(nvme_device_path: str) -> Path | None:
    # Older builders put partitions' numbers right after it: /dev/nvme1n1p is the disk /dev/nvme1n1.
    path = re.sub(r"(?<=\d)p$", "", nvme_device_path)
    return Path(path) if path else None


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


def _link_names(*, dev: Path, sysfs: Path, nodes: Sequence[Path]) -> Mapping[int, set[str]]:
    """What the hypervisor calls each of the disks, by device number: serials, and udev's links."""
    names: dict[int, set[str]] = {device_number(node): set() for node in nodes}
    for node in nodes:
        names[device_number(node)] |= serials(node, sysfs=sysfs)
    for link in _links(dev):
        if (number := device_number(link)) in names:
            names[number].add(serial_of_link(link.name))
    return names


def _unnamed(new: Sequence[Path], *, dev: Path, sysfs: Path) -> list[Path]:
    """Those of the new disks that nothing says to be another link's; one node for each disk."""
    names = _link_names(dev=dev, sysfs=sysfs, nodes=new)
    found: dict[int, Path] = {}
    for node in new:
        number = device_number(node)
        if _NOT_LINKED.match(node.name) or any(map(_API_NAME.fullmatch, names[number])):
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
