"""The actions on snapshots."""

from packer_plugin_osc_chroot.localcloud import copying, filters
from packer_plugin_osc_chroot.localcloud.copying import check_snapshot_quotas
from packer_plugin_osc_chroot.localcloud.errors import ApiError
from packer_plugin_osc_chroot.localcloud.idempotence import remember_id, remembered_id
from packer_plugin_osc_chroot.localcloud.openapi import Json
from packer_plugin_osc_chroot.localcloud.permissions import update_permissions
from packer_plugin_osc_chroot.localcloud.region import Region
from packer_plugin_osc_chroot.localcloud.state import Account, Snapshot, new_id


async def create_snapshot(region: Region, account: Account, parameters: Json) -> Json:
    known = remembered_id(region, account, "CreateSnapshot", parameters)
    if known in region.snapshots:
        return {"Snapshot": region.snapshots[known].view()}
    for name in ("FileLocation", "SnapshotSize"):
        if name in parameters:
            raise ApiError(
                "operation-not-supported",
                f"The localcloud has no buckets to import a snapshot from: {name}.",
            )
    copies = "SourceSnapshotId" in parameters or "SourceRegionName" in parameters
    if copies and "VolumeId" in parameters:
        raise ApiError(
            "invalid-parameter-set",
            "A snapshot is made from a volume (VolumeId) or from another snapshot"
            " (SourceSnapshotId, SourceRegionName), not from both.",
        )
    snapshot = await (_from_snapshot if copies else _from_volume)(region, account, parameters)
    return {"Snapshot": snapshot.view()}


def _add(region: Region, account: Account, parameters: Json, snapshot: Snapshot) -> None:
    snapshot.description = parameters.get("Description", "")
    snapshot.client_token = parameters.get("ClientToken", "")
    region.snapshots[snapshot.snapshot_id] = snapshot
    remember_id(region, account, "CreateSnapshot", parameters, resource_id=snapshot.snapshot_id)


async def _from_snapshot(region: Region, account: Account, parameters: Json) -> Snapshot:
    source_id = copying.check_source(region, parameters, "SourceSnapshotId")
    source = region.snapshot(source_id, account)
    if source.state != "completed":
        raise ApiError(
            "invalid-state", f"The snapshot {source_id} is {source.state}, not completed."
        )
    check_snapshot_quotas(region, account)
    snapshot = copying.copy_of(source, account)
    _add(region, account, parameters, snapshot)
    region.transitions.copy_data(snapshot, counts=True)
    return snapshot


async def _from_volume(region: Region, account: Account, parameters: Json) -> Snapshot:
    if "VolumeId" not in parameters:
        raise ApiError(
            "missing-parameter", "The parameter VolumeId (or SourceSnapshotId) is required."
        )
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
    check_snapshot_quotas(region, account)
    snapshot = Snapshot(
        snapshot_id=new_id("snap"),
        account_id=account.account_id,
        account_alias=account.alias,
        size=volume.size,
        volume_id=volume.volume_id,
    )
    _add(region, account, parameters, snapshot)
    await region.transitions.take_data(snapshot, volume)
    return snapshot


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
