"""The actions that change a volume's size and type, which takes its time."""

from packer_plugin_osc_chroot.localcloud import assumptions, filters
from packer_plugin_osc_chroot.localcloud.actions_volumes import check_volume_type, iops_of
from packer_plugin_osc_chroot.localcloud.errors import ApiError
from packer_plugin_osc_chroot.localcloud.openapi import Json
from packer_plugin_osc_chroot.localcloud.quotas import check_quota
from packer_plugin_osc_chroot.localcloud.region import Region
from packer_plugin_osc_chroot.localcloud.state import (
    Account,
    Volume,
    VolumeShape,
    VolumeUpdate,
    new_id,
)


async def update_volume(region: Region, account: Account, parameters: Json) -> Json:
    volume = region.volume(parameters["VolumeId"], account)
    if volume.volume_id == region.root_volume_id:
        raise ApiError(
            "operation-not-supported",
            "The VM's root volume is this machine's own disk: the localcloud cannot change it.",
        )
    if volume.state not in ("available", "in-use") or volume.task_id:
        state = f"being updated ({volume.task_id})" if volume.task_id else volume.state
        raise ApiError(
            "invalid-volume-state",
            f"The volume {volume.volume_id} is {state}, not available or in-use.",
        )
    if not {"Size", "VolumeType", "Iops"} & set(parameters):
        raise ApiError(
            "missing-parameter", "One of the parameters Size, VolumeType and Iops is required."
        )
    target = _target(region, account, volume, parameters)
    update = VolumeUpdate(
        task_id=new_id("vol-update"),
        account_id=account.account_id,
        volume_id=volume.volume_id,
        origin=VolumeShape(size=volume.size, volume_type=volume.volume_type, iops=volume.iops),
        target=target,
    )
    volume.task_id = update.task_id
    region.volume_updates[update.task_id] = update
    region.start(region.transitions.update_volume(volume, update))
    return {"Volume": volume.view()}


def _target(region: Region, account: Account, volume: Volume, parameters: Json) -> VolumeShape:
    size = parameters.get("Size", volume.size)
    if not volume.size <= size <= assumptions.MAX_VOLUME_SIZE_GIB:
        raise ApiError(
            "invalid-volume-size",
            f"Size is {size}: it must be between {volume.size}, what it is now, and"
            f" {assumptions.MAX_VOLUME_SIZE_GIB} GiB.",
        )
    check_quota(account.quotas, region.used(account), "volumes_gib", more=size - volume.size)
    volume_type = parameters.get("VolumeType", volume.volume_type)
    check_volume_type(volume_type)
    asked = dict(parameters)
    if volume_type == volume.volume_type == "io1":
        asked.setdefault("Iops", volume.iops)
    iops = iops_of(asked, volume_type=volume_type, size=size)
    return VolumeShape(size=size, volume_type=volume_type, iops=iops)


async def read_volume_update_tasks(region: Region, account: Account, parameters: Json) -> Json:
    views = [
        update.view()
        for update in region.history.seen().volume_updates.values()
        if update.account_id == account.account_id
    ]
    found = filters.select(views, parameters.get("Filters", {}), filters.VOLUME_UPDATES)
    updates, following = filters.page(found, parameters)
    return {"VolumeUpdateTasks": updates, **following}
