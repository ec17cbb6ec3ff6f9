"""Puts a source OMI into a Region: the image, and the snapshot of its root volume."""

from dataclasses import dataclass
from pathlib import Path

from packer_plugin_osc_chroot.localcloud import assumptions, state
from packer_plugin_osc_chroot.localcloud.catalogue import OmiEntry
from packer_plugin_osc_chroot.localcloud.files import gibibytes
from packer_plugin_osc_chroot.localcloud.region import Region


@dataclass(frozen=True)
class Source:
    """`file` is the raw disk image that `entry` names, or that was made of it."""

    entry: OmiEntry
    file: Path


def add_source(region: Region, source: Source, *, scratch: Path) -> None:
    """A file below `scratch` is moved to where the Region's disks are; others stay, and are shared."""
    entry = source.entry
    owner = _owner(region, entry.owner)
    permissions = state.Permissions(
        account_ids=[_owner(region, name).account_id for name in entry.shared_with],
        everybody=entry.public,
    )
    created = entry.date or state.now()
    snapshot = state.Snapshot(
        snapshot_id=state.new_id("snap"),
        account_id=owner.account_id,
        account_alias=owner.alias,
        size=gibibytes(source.file.stat().st_size),
        description=f"root volume of {entry.id}",
        state="completed",
        progress=100,
        created=created,
        # Who may launch an OMI may have volumes made from its snapshot.
        permissions=state.Permissions(list(permissions.account_ids), permissions.everybody),
    )
    if source.file.is_relative_to(scratch):
        region.disks.take_over_snapshot(snapshot.snapshot_id, source.file)
    else:
        region.disks.adopt_snapshot(snapshot.snapshot_id, source.file)
    bsu = {
        "DeleteOnVmDeletion": True,
        "SnapshotId": snapshot.snapshot_id,
        "VolumeSize": snapshot.size,
        "VolumeType": "standard",
    }
    image = state.Image(
        image_id=entry.id,
        account_id=owner.account_id,
        account_alias=owner.alias,
        name=entry.name or f"source {entry.id}",
        description=entry.description,
        mappings=[{"Bsu": bsu, "DeviceName": assumptions.ROOT_DEVICE_NAME}],
        root_device_name=assumptions.ROOT_DEVICE_NAME,
        architecture=entry.architecture,
        boot_modes=["legacy"],
        state="available",
        created=created,
        tags=dict(entry.tags),
        permissions=permissions,
    )
    region.snapshots[snapshot.snapshot_id] = snapshot
    region.images[entry.id] = image
    region.source_ids |= {snapshot.snapshot_id, entry.id}


def _owner(region: Region, name: str) -> state.Account:
    """By alias or id; without a name the VM's account."""
    accounts = list(region.accounts.values())
    if not name:
        return accounts[0]
    return next(each for each in accounts if name in (each.alias, each.account_id))
