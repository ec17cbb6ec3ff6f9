"""What exists in a Region, in words: for `localcloud status`, and for the end of `localcloud run`."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from packer_plugin_osc_chroot.localcloud.state import Image, Snapshot, Volume


class Existing(Protocol):
    """What an inventory is made of: a Region, or what one has saved."""

    @property
    def volumes(self) -> Mapping[str, Volume]: ...
    @property
    def snapshots(self) -> Mapping[str, Snapshot]: ...
    @property
    def images(self) -> Mapping[str, Image]: ...
    @property
    def root_volume_id(self) -> str: ...
    @property
    def source_ids(self) -> Collection[str]: ...


@dataclass(frozen=True)
class Inventory:
    """One line for each resource. `left_over` is what belongs to no OMI, `sources` what was given."""

    sources: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        return [
            *(f"source {line}" for line in self.sources),
            *self.made,
            *(f"left over: {line}" for line in self.left_over),
            *([] if self.left_over else ["nothing was left over"]),
        ]


def take_inventory(existing: Existing, *, on_machine: Collection[str] = ()) -> Inventory:
    """`on_machine` is what else is left over: mounts of the Region's disks, processes in them."""
    used = {key for image in existing.images.values() for key in image.snapshot_ids()}
    images = existing.images.values()
    made = [_image(image) for image in images if image.image_id not in existing.source_ids]
    left_over = [
        _volume(volume)
        for volume in existing.volumes.values()
        if volume.volume_id != existing.root_volume_id and volume.state != "deleting"
    ]
    for snapshot in existing.snapshots.values():
        if snapshot.state == "deleting" or snapshot.snapshot_id in existing.source_ids:
            continue
        if snapshot.snapshot_id in used:
            made.append(_snapshot(snapshot))
        else:
            left_over.append(
                f"snapshot {snapshot.snapshot_id} ({snapshot.state}) belongs to no OMI"
            )
    return Inventory(
        sources=[_image(image) for image in images if image.image_id in existing.source_ids],
        made=made,
        left_over=[*left_over, *on_machine],
    )


def _image(image: Image) -> str:
    return f"OMI {image.image_id} ({image.state}): {image.name}"


def _snapshot(snapshot: Snapshot) -> str:
    return f"snapshot {snapshot.snapshot_id} ({snapshot.state}), {snapshot.size} GiB"


def _volume(volume: Volume) -> str:
    link = volume.link
    linked = f", {link.state} as {link.device_name}" if link is not None else ""
    return f"volume {volume.volume_id} ({volume.state}{linked})"
