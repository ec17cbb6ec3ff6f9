"""The actions on volumes and their links."""

from packer_plugin_osc_chroot.localcloud import assumptions, filters
from packer_plugin_osc_chroot.localcloud.attacher import NameTaken
from packer_plugin_osc_chroot.localcloud.errors import ApiError
from packer_plugin_osc_chroot.localcloud.idempotence import remember_id, remembered_id
from packer_plugin_osc_chroot.localcloud.openapi import Json
from packer_plugin_osc_chroot.localcloud.quotas import check_quota
from packer_plugin_osc_chroot.localcloud.region import Region
from packer_plugin_osc_chroot.localcloud.state import Account, Link, Volume, new_id


async def create_volume(region: Region, account: Account, parameters: Json) -> Json:
    known = remembered_id(region, account, "CreateVolume", parameters)
    if known in region.volumes:
        return {"Volume": region.volumes[known].view()}
    subregion = parameters["SubregionName"]
    if subregion not in region.subregions:
        raise ApiError("no-such-az", f"The Subregion {subregion} does not exist.")
    snapshot_id = parameters.get("SnapshotId", "")
    size = _size(region, account, parameters)
    volume_type = parameters.get("VolumeType", "standard")
    check_volume_type(volume_type)
    used = region.used(account)
    check_quota(account.quotas, used, "volumes")
    check_quota(account.quotas, used, "volumes_gib", more=size)
    volume = Volume(
        volume_id=new_id("vol"),
        account_id=account.account_id,
        subregion=subregion,
        size=size,
        volume_type=volume_type,
        iops=iops_of(parameters, volume_type=volume_type, size=size),
        snapshot_id=snapshot_id,
        client_token=parameters.get("ClientToken", ""),
    )
    region.volumes[volume.volume_id] = volume
    remember_id(region, account, "CreateVolume", parameters, resource_id=volume.volume_id)
    region.start(region.transitions.make_volume(volume))
    return {"Volume": volume.view()}


def check_volume_type(volume_type: str) -> None:
    if volume_type not in assumptions.VOLUME_TYPES:
        known = ", ".join(assumptions.VOLUME_TYPES)
        raise ApiError("invalid-type", f"VolumeType is {volume_type}: it must be one of {known}.")


def _size(region: Region, account: Account, parameters: Json) -> int:
    snapshot_id = parameters.get("SnapshotId", "")
    least = 1
    if snapshot_id:
        snapshot = region.snapshot(snapshot_id, account)
        if snapshot.state != "completed":
            raise ApiError(
                "invalid-state", f"The snapshot {snapshot_id} is {snapshot.state}, not completed."
            )
        least = snapshot.size
    size: int | None = parameters.get("Size", least if snapshot_id else None)
    if size is None:
        raise ApiError("missing-parameter", "The parameter Size is required without a SnapshotId.")
    if not least <= size <= assumptions.MAX_VOLUME_SIZE_GIB:
        raise ApiError(
            "invalid-volume-size",
            f"Size is {size}: it must be between {least} and"
            f" {assumptions.MAX_VOLUME_SIZE_GIB} GiB.",
        )
    return size


def iops_of(parameters: Json, *, volume_type: str, size: int) -> int:
    iops: int | None = parameters.get("Iops")
    if volume_type != "io1":
        if iops is not None:
            raise ApiError("invalid-iops", f"Iops goes with io1 volumes only, not {volume_type}.")
        return assumptions.DEFAULT_IOPS
    if iops is None:
        raise ApiError("missing-parameter", "The parameter Iops is required for io1 volumes.")
    most = min(assumptions.MAX_IOPS, size * assumptions.MAX_IOPS_PER_GIB)
    if not 1 <= iops <= most:
        raise ApiError("invalid-iops", f"Iops is {iops}: it must be between 1 and {most}.")
    return iops


async def delete_volume(region: Region, account: Account, parameters: Json) -> Json:
    volume = region.volume(parameters["VolumeId"], account)
    _check_state(volume, ("available", "error"))
    if volume.task_id:
        raise ApiError("invalid-volume-state", f"The volume {volume.volume_id} is being updated.")
    if region.trouble.delete_needs_snapshot:
        _check_copied(region, volume)
    volume.state = "deleting"
    region.start(region.transitions.remove_volume(volume))
    return {}


def _check_state(volume: Volume, allowed: tuple[str, ...]) -> None:
    if volume.state not in allowed:
        raise ApiError(
            "invalid-volume-state",
            f"The volume {volume.volume_id} is {volume.state}, not {allowed[0]}.",
        )


def _check_copied(region: Region, volume: Volume) -> None:
    if region.is_being_copied(volume):
        raise ApiError(
            "invalid-volume-state",
            f"A snapshot of the volume {volume.volume_id} is not completed.",
        )


async def link_volume(region: Region, account: Account, parameters: Json) -> Json:
    volume = region.volume(parameters["VolumeId"], account)
    vm = region.vm
    if parameters["VmId"] != vm.vm_id or vm.account_id != account.account_id:
        raise ApiError("no-such-vm", f"The VM {parameters['VmId']} does not exist.")
    device_name = parameters["DeviceName"]
    slot = _slot(region, device_name)
    _check_state(volume, ("available",))
    if volume.subregion != vm.subregion:
        raise ApiError(
            "zone-mismatch",
            f"The volume {volume.volume_id} is in {volume.subregion}, the VM in {vm.subregion}.",
        )
    if len(region.history.live.linked_volumes()) >= assumptions.MAX_VOLUMES_PER_VM:
        raise ApiError(
            "too-many-volumes",
            f"The VM {vm.vm_id} has {assumptions.MAX_VOLUMES_PER_VM} volumes already.",
        )
    in_use = ApiError("device-in-use", f"The device name {device_name} is in use on {vm.vm_id}.")
    if region.trouble.is_taken(slot):
        raise in_use
    try:
        region.attacher.reserve(slot)
    except NameTaken:
        raise in_use from None
    link = Link(vm_id=vm.vm_id, device_name=device_name, slot=slot)
    volume.link, volume.state = link, "in-use"
    region.start(region.transitions.attach(volume, link))
    return {}


def _slot(region: Region, device_name: str) -> str:
    if device_name == assumptions.ROOT_DEVICE_NAME:
        raise ApiError(
            "device-in-use", f"The device name {device_name} is in use on {region.vm.vm_id}."
        )
    match = assumptions.LINK_DEVICE_NAME.fullmatch(device_name)
    if match is None:
        raise ApiError(
            "invalid-device-name",
            f"DeviceName is {device_name}: it must be /dev/sdX, /dev/sdXX, /dev/xvdX or"
            " /dev/xvdXX, the first letter b to z.",
        )
    return f"xvd{match['letters']}"


async def unlink_volume(region: Region, account: Account, parameters: Json) -> Json:
    volume = region.volume(parameters["VolumeId"], account)
    link = volume.link
    if link is None:
        raise ApiError("volume-not-in-use", f"The volume {volume.volume_id} is not linked.")
    if volume.volume_id == region.root_volume_id:
        raise ApiError("invalid-vm-state", "The root volume of a running VM cannot be unlinked.")
    forced = parameters.get("ForceUnlink", False)
    if link.state != "attached" and not forced:
        raise ApiError(
            "invalid-volume-state",
            f"The link of the volume {volume.volume_id} is {link.state}, not attached.",
        )
    if region.trouble.unlink_needs_snapshot:
        _check_copied(region, volume)
    if forced:
        region.transitions.force(link)
    if link.state != "detaching":
        link.state = "detaching"
        region.start(region.transitions.detach(volume, link))
    return {}


async def read_volumes(region: Region, account: Account, parameters: Json) -> Json:
    views = [
        volume.view()
        for volume in region.history.seen().volumes.values()
        if volume.account_id == account.account_id
    ]
    found = filters.select(views, parameters.get("Filters", {}), filters.VOLUMES)
    volumes, following = filters.page(found, parameters)
    return {"Volumes": volumes, **following}
