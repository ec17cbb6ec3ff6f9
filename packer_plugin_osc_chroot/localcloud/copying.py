"""Copies of snapshots and OMIs, which a caller makes to have its own of another account's.

A copy has the data of its source, and none of its tags and permissions.
"""

from packer_plugin_osc_chroot.localcloud.errors import ApiError
from packer_plugin_osc_chroot.localcloud.openapi import Json
from packer_plugin_osc_chroot.localcloud.quotas import check_quota
from packer_plugin_osc_chroot.localcloud.region import Region
from packer_plugin_osc_chroot.localcloud.state import Account, Snapshot, new_id


def check_source(region: Region, parameters: Json, name: str) -> str:
    """The id in the parameter `name`, which goes with SourceRegionName. Raises ApiError."""
    for wanted in (name, "SourceRegionName"):
        if not parameters.get(wanted):
            raise ApiError("missing-parameter", f"The parameter {wanted} is required.")
    if parameters["SourceRegionName"] != region.name:
        raise ApiError(
            "invalid-parameter-value",
            f"SourceRegionName is {parameters['SourceRegionName']}: it must be {region.name}, the"
            " Region of the account.",
        )
    return str(parameters[name])


def check_snapshot_quotas(region: Region, account: Account, *, more: int = 1) -> None:
    """Raises ApiError where `more` snapshots would not fit."""
    used = region.used(account)
    for name in ("snapshots", "running_snapshots"):
        check_quota(account.quotas, used, name, more=more)


def copy_of(source: Snapshot, account: Account) -> Snapshot:
    """A snapshot of `account` that is to get the data of `source`."""
    return Snapshot(
        snapshot_id=new_id("snap"),
        account_id=account.account_id,
        account_alias=account.alias,
        size=source.size,
        volume_id=source.volume_id,
        source_id=source.snapshot_id,
    )


def copied_mappings(region: Region, account: Account, image_id: str) -> list[Json]:
    """The mappings of an OMI with copies of its snapshots, which are started. Raises ApiError."""
    image = region.images[image_id]
    check_snapshot_quotas(region, account, more=len(image.snapshot_ids()))
    found = []
    for mapping in image.mappings:
        source_id = mapping.get("Bsu", {}).get("SnapshotId", "")
        if source_id:
            snapshot = copy_of(region.snapshots[source_id], account)
            snapshot.description = f"copied with {image_id}"
            region.snapshots[snapshot.snapshot_id] = snapshot
            region.transitions.copy_data(snapshot, counts=False)
            mapping = {**mapping, "Bsu": {**mapping["Bsu"], "SnapshotId": snapshot.snapshot_id}}
        found.append(mapping)
    return found
