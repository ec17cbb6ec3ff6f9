"""Volumes and snapshots that carry our mark and belong to no build that anybody knows of.

They are what is left where the journal went with its VM. Only a ClientToken tells: it stays on the
snapshot of a finished OMI too, and such a one without its OMI may be somebody's backup. So orphans
are named, and removed only where that is asked for.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.journal.effects import snapshots_in
from packer_plugin_osc_chroot.journal.marks import Mark, read_mark
from packer_plugin_osc_chroot.resources.snapshot import delete_snapshot
from packer_plugin_osc_chroot.resources.volume import delete_volume
from packer_plugin_osc_chroot.ui import printable

# A VM in this state does not come back.
_GONE = ("terminated",)


@dataclass(frozen=True)
class Orphan:
    """`kind` is "volume" or "snapshot"; `made_at` in UTC, `description` the snapshot's own."""

    kind: str
    resource_id: str
    vm_id: str
    made_at: str
    description: str = ""

    def describe(self) -> str:
        what = f' "{self.description}"' if self.description else ""
        return f"{self.kind} {self.resource_id}{what}, made {self.made_at} on VM {self.vm_id}"


def find_orphans(
    cloud: Cloud, *, vm_id: str, spare: Collection[str], hours: float, token: CancelToken
) -> list[Orphan]:
    """Those made on this VM, or on one that is gone, at least so many hours ago.

    `spare` are ClientTokens that journals name: their builds live, or are undone by them. Builds of
    other users of this VM have journals that we do not see: for those the age counts.
    """

    def marked(resource: Mapping[str, Any]) -> Mark | None:
        client_token = str(resource.get("ClientToken") or "")
        mark = read_mark(client_token)
        if mark is None or client_token in spare or mark.age < hours * 3600:
            return None
        return mark

    states = {"VolumeStates": ["available", "error"]}
    volumes = [
        Orphan("volume", str(each["VolumeId"]), mark.vm_id, mark.at)
        for each in cloud.pages("ReadVolumes", "Volumes", token=token, Filters=states)
        if (mark := marked(each)) is not None
    ]
    snapshots = [
        Orphan("snapshot", str(each["SnapshotId"]), mark.vm_id, mark.at, _said(each))
        for each in cloud.pages("ReadSnapshots", "Snapshots", token=token)
        if (mark := marked(each)) is not None
    ]
    found = [*volumes, *snapshots]
    others = {each.vm_id for each in found} - {vm_id}
    living = _living(cloud, others, token=token) if others else set()
    used = _used(cloud, [each.resource_id for each in snapshots], token=token) if snapshots else ()
    return [each for each in found if each.vm_id not in living and each.resource_id not in used]


def remove_orphan(cloud: Cloud, orphan: Orphan, *, token: CancelToken) -> None:
    """Raises BuildError where it cannot be had away."""
    remove = delete_volume if orphan.kind == "volume" else delete_snapshot
    remove(cloud, orphan.resource_id, token=token)


def _said(snapshot: Mapping[str, Any]) -> str:
    return printable(str(snapshot.get("Description") or ""))


def _living(cloud: Cloud, vm_ids: Collection[str], *, token: CancelToken) -> set[str]:
    vms = cloud.pages("ReadVms", "Vms", token=token, Filters={"VmIds": sorted(vm_ids)})
    return {str(vm["VmId"]) for vm in vms if vm.get("State") not in _GONE}


def _used(cloud: Cloud, snapshot_ids: list[str], *, token: CancelToken) -> set[str]:
    """Those that are part of an OMI, of whoever shows it."""
    filters = {"BlockDeviceMappingSnapshotIds": snapshot_ids}
    images = cloud.pages("ReadImages", "Images", token=token, Filters=filters)
    return {snapshot_id for image in images for snapshot_id in snapshots_in(image)}
