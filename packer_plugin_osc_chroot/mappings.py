"""The new OMI's block device mappings: the root's, the source's others, and the template's. No I/O."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.options import devices as names
from packer_plugin_osc_chroot.options.blocks import BlockDevice, iops_problem
from packer_plugin_osc_chroot.resources.image import Json

OPTION = "omi_block_device_mappings"


@dataclasses.dataclass(frozen=True)
class RootVolume:
    """The root volume as the build makes it and the OMI has it: GiB, type, IOPS (0 but for io1)."""

    size: int
    type: str
    iops: int


def find_root(devices: Sequence[BlockDevice], root_device_name: str) -> tuple[str, BlockDevice]:
    """The template's mapping of the root device, with its path; an empty one where there is none.

    The root is the device named by `root_device_name`, else the one named as OUTSCALE names it.
    """
    wanted = _same(root_device_name or names.ROOT)
    for i, device in enumerate(devices):
        if _same(device.name) == wanted:
            return f"{OPTION}[{i}]", device
    return "", BlockDevice()


def plan_root_mapping(
    volume: RootVolume, path: str, device: BlockDevice, *, delete_on_vm_deletion: bool
) -> Json:
    """The root's mapping, without its snapshot. `device` is the template's, at `path` if there is one.

    Raises BuildError where the template's cannot hold the volume that is built.
    """
    size = device.volume_size or volume.size
    if size < volume.size:
        raise BuildError(
            f"{path}.volume_size: {size} GiB is smaller than the root volume, {volume.size} GiB",
            hint=f"Set {volume.size} or more, or leave it out",
        )
    if path:
        delete_on_vm_deletion = device.delete_on_vm_deletion
    volume_type = device.volume_type or volume.type
    bsu: dict[str, Any] = {
        "DeleteOnVmDeletion": delete_on_vm_deletion,
        "VolumeSize": size,
        "VolumeType": volume_type,
    }
    iops = device.iops or (volume.iops if volume_type == "io1" else 0)
    if problem := iops_problem(volume_type, iops, size):
        raise BuildError(f"{path}.iops: {problem}")
    if iops:
        bsu["Iops"] = iops
    return {"DeviceName": names.ROOT, "Bsu": bsu}


def plan_other_mappings(
    source: Sequence[Json], devices: Sequence[BlockDevice], root_path: str
) -> list[Json]:
    """The mappings beside the root's: the source's, those of the template in their place or added.

    A device of the template with `no_device` takes the source's away; CreateImage has no such thing.
    """
    found: dict[str, Json] = {
        _same(str(mapping["DeviceName"])): dict(mapping) for mapping in source
    }
    for i, device in enumerate(devices):
        if f"{OPTION}[{i}]" == root_path:
            continue
        if device.no_device:
            found.pop(_same(device.name), None)
        else:
            found[_same(device.name)] = _mapping(device)
    return list(found.values())


def unknown_removals(source: Sequence[Json], devices: Sequence[BlockDevice]) -> list[str]:
    """The paths of the devices that the template takes away, and the source does not have."""
    there = {_same(str(mapping["DeviceName"])) for mapping in source}
    return [
        f"{OPTION}[{i}]"
        for i, device in enumerate(devices)
        if device.no_device and _same(device.name) not in there
    ]


def _mapping(device: BlockDevice) -> Json:
    if device.virtual_name:
        return {"DeviceName": device.name, "VirtualDeviceName": device.virtual_name}
    bsu: dict[str, Any] = {"DeleteOnVmDeletion": device.delete_on_vm_deletion}
    for key, value in (
        ("SnapshotId", device.snapshot_id),
        ("VolumeSize", device.volume_size),
        ("VolumeType", device.volume_type),
        ("Iops", device.iops),
    ):
        if value:
            bsu[key] = value
    return {"DeviceName": device.name, "Bsu": bsu}


def _same(device_name: str) -> str:
    """What is the same for two names of one device: /dev/sdf and /dev/xvdf, /dev/sda1 and xvda."""
    return names.letters(device_name) or device_name
