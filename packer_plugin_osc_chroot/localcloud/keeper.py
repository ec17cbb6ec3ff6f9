"""Keeps a Region in a directory while it changes, and brings it back from there.

A call that changes something is answered once the change is written, so that a kill loses nothing
that a caller was told. Calls that come together share one write.
"""

import asyncio
from pathlib import Path

from packer_plugin_osc_chroot.localcloud import saved
from packer_plugin_osc_chroot.localcloud.attacher import NameTaken
from packer_plugin_osc_chroot.localcloud.disks import ForeignFile
from packer_plugin_osc_chroot.localcloud.region import Region
from packer_plugin_osc_chroot.localcloud.saved import ForeignData, Saved, UsedToken
from packer_plugin_osc_chroot.localcloud.state import Link, Snapshot, Volume


class Keeper:
    """Used on the Region's thread."""

    def __init__(self, region: Region, directory: Path) -> None:
        self._region = region
        self._directory = directory
        self._wanted = 0
        self._written = 0
        self._writing = asyncio.Lock()

    async def write(self) -> None:
        """Return once all that has changed up to now is written. Raises StateError."""
        self._wanted += 1
        mine = self._wanted
        async with self._writing:
            if self._written >= mine:
                return
            seen = self._wanted
            data = saved.dump(to_save(self._region))
            await self._region.on_disk(saved.write, self._directory, data)
            self._written = seen


def to_save(region: Region) -> Saved:
    return Saved(
        accounts=list(region.accounts.values()),
        vm=region.vm,
        root_volume_id=region.root_volume_id,
        volumes=region.volumes,
        snapshots=region.snapshots,
        images=region.images,
        volume_updates=region.volume_updates,
        source_ids=sorted(region.source_ids),
        tokens=[
            UsedToken(*key, parameters=parameters, resource_id=resource_id)
            for key, (parameters, resource_id) in region.client_tokens.items()
        ],
        foreign={
            snapshot_id: ForeignData(path=str(file.path), size=file.size, modified=file.modified)
            for snapshot_id, file in region.disks.foreign.items()
        },
    )


def bring_back(region: Region, found: Saved) -> list[str]:
    """Fill a new Region with what was saved; what was on its way goes on.

    Returns what could not be had back, in words: a link whose device name is taken now, data that
    was not complete when the process was killed.
    """
    lost: list[str] = []
    for token in found.tokens:
        key = token.account_id, token.action, token.token
        region.client_tokens[key] = token.parameters, token.resource_id
    region.source_ids |= set(found.source_ids)
    region.disks.foreign |= {
        snapshot_id: ForeignFile(path=Path(file.path), size=file.size, modified=file.modified)
        for snapshot_id, file in found.foreign.items()
    }
    region.volumes |= found.volumes
    region.snapshots |= found.snapshots
    region.images |= found.images
    region.volume_updates |= found.volume_updates
    for snapshot in list(found.snapshots.values()):
        lost += _resume_snapshot(region, snapshot)
    for volume in list(found.volumes.values()):
        if volume.volume_id != found.root_volume_id:
            lost += _resume_volume(region, volume)
    for image in found.images.values():
        if image.state == "pending":
            region.start(region.transitions.make_image(image))
    for update in found.volume_updates.values():
        if update.state in ("pending", "active") and update.volume_id in region.volumes:
            updated = region.volumes[update.volume_id]
            region.start(region.transitions.update_volume(updated, update))
    return lost


def _resume_snapshot(region: Region, snapshot: Snapshot) -> list[str]:
    if snapshot.state == "deleting":
        region.start(region.transitions.remove_snapshot(snapshot))
    elif not (file := region.disks.snapshot_file(snapshot.snapshot_id)).exists():
        snapshot.state = "error"
        own = snapshot.snapshot_id not in region.disks.foreign
        why = "its data was not complete" if own else f"{file} is missing"
        return [f"snapshot {snapshot.snapshot_id}: {why}, it is in state error"]
    elif snapshot.state in ("in-queue", "pending"):
        complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        complete.set_result(None)
        region.start(region.transitions.make_snapshot(snapshot, complete))
    return []


def _resume_volume(region: Region, volume: Volume) -> list[str]:
    if volume.state == "deleting":
        region.start(region.transitions.remove_volume(volume))
        return []
    if not region.disks.volume_file(volume.volume_id).exists():
        if volume.state == "creating":
            region.start(region.transitions.make_volume(volume))
            return []
        volume.state, volume.link = "error", None
        return [f"volume {volume.volume_id}: its data is missing, it is in state error"]
    if volume.state == "creating":
        volume.state = "available"
    link, volume.link = volume.link, None
    if link is None:
        return []
    volume.state = "available"
    return _link_again(region, volume, link) if link.state != "detaching" else []


def _link_again(region: Region, volume: Volume, link: Link) -> list[str]:
    try:
        region.attacher.reserve(link.slot)
    except NameTaken:
        return [
            f"link of volume {volume.volume_id}: {link.device_name} is in use on this machine now"
        ]
    link.state = "attaching"
    volume.link, volume.state = link, "in-use"
    region.start(region.transitions.attach(volume, link))
    return []
