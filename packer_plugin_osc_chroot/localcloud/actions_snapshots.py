"""The actions on snapshots."""

from packer_plugin_osc_chroot.localcloud import filters
from packer_plugin_osc_chroot.localcloud.errors import ApiError
from packer_plugin_osc_chroot.localcloud.idempotence import remember_id, remembered_id
from packer_plugin_osc_chroot.localcloud.openapi import Json
from packer_plugin_osc_chroot.localcloud.permissions import update_permissions
from packer_plugin_osc_chroot.localcloud.quotas import check_quota
from packer_plugin_osc_chroot.localcloud.region import Region
from packer_plugin_osc_chroot.localcloud.state import Account, Snapshot, new_id


async def create_snapshot(region: Region, account: Account, parameters: Json) -> Json:
    known = remembered_id(region, account, "CreateSnapshot", parameters)
    if known in region.snapshots:
        return {"Snapshot": region.snapshots[known].view()}
    for name in ("SourceSnapshotId", "SourceRegionName", "FileLocation", "SnapshotSize"):
        if name in parameters:
            raise ApiError(
                "operation-not-supported",
                f"The localcloud makes snapshots from volumes only, not with {name}.",
            )
    if "VolumeId" not in parameters:
        raise ApiError("missing-parameter", "The parameter VolumeId is required.")
    volume = region.volume(parameters["VolumeId"], account)
    if volume.state not in ("available", "in-use"):
        raise ApiError(
            "invalid-volume-state",
            f"The volume {volume.volume_id} is {volume.state}, not available or in-use.",
        )
    if volume.volume_id == region.root_volume_id:
        raise ApiError(
            "operation-not-supported",
            "The VM's root volume is this machine's own disk: the localcloud cannot copy it.",
        )
    used = region.used(account)
    check_quota(account.quotas, used, "snapshots")
    check_quota(account.quotas, used, "running_snapshots")
    snapshot = Snapshot(
        snapshot_id=new_id("snap"),
        account_id=account.account_id,
        account_alias=account.alias,
        size=volume.size,
        volume_id=volume.volume_id,
        description=parameters.get("Description", ""),
        client_token=parameters.get("ClientToken", ""),
    )
    region.snapshots[snapshot.snapshot_id] = snapshot
    remember_id(region, account, "CreateSnapshot", parameters, resource_id=snapshot.snapshot_id)
    answer = {"Snapshot": snapshot.view()}
    await region.transitions.take_data(snapshot, volume)
    return answer


async def delete_snapshot(region: Region, account: Account, parameters: Json) -> Json:
    snapshot = region.snapshot(parameters["SnapshotId"], account, own=True)
    for image in region.images.values():
        if snapshot.snapshot_id in image.snapshot_ids():
            raise ApiError(
                "busy", f"The snapshot {snapshot.snapshot_id} is used by the OMI {image.image_id}."
            )
    if snapshot.state == "deleting":
        raise ApiError("invalid-state", f"The snapshot {snapshot.snapshot_id} is being deleted.")
    running = snapshot.state in ("in-queue", "pending")
    if running and region.trouble.delete_snapshot_needs_completed:
        raise ApiError(
            "invalid-state",
            f"The snapshot {snapshot.snapshot_id} is {snapshot.state}, not completed.",
        )
    snapshot.state = "deleting"
    region.start(region.transitions.remove_snapshot(snapshot))
    return {}


async def update_snapshot(region: Region, account: Account, parameters: Json) -> Json:
    snapshot = region.snapshot(parameters["SnapshotId"], account, own=True)
    update_permissions(snapshot.permissions, parameters["PermissionsToCreateVolume"])
    return {"Snapshot": snapshot.view()}


async def read_snapshots(region: Region, account: Account, parameters: Json) -> Json:
    views = [
        snapshot.view()
        for snapshot in region.history.seen().snapshots.values()
        if region.may_use(snapshot, account)
    ]
    found = filters.select(views, parameters.get("Filters", {}), filters.SNAPSHOTS)
    snapshots, following = filters.page(found, parameters)
    return {"Snapshots": snapshots, **following}
