"""The critical path of an OMI: what nobody could have made it in less time than, in this Region.

An OMI waits for its snapshot, that for the volume's being linked, that for the volume, and that for
its source where that had to be copied. Each step is the call that set it off and the time until it
was there. It is read from the record alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from packer_plugin_osc_chroot.localcloud.openapi import Json
from packer_plugin_osc_chroot.localcloud.record import RecordedCall, Transition


@dataclass(frozen=True)
class Step:
    """`seconds` is that of the call and of what it set on its way."""

    what: str
    resource: str
    seconds: float


def critical_path(
    calls: Sequence[RecordedCall], transitions: Sequence[Transition], image_id: str
) -> list[Step]:
    """The steps in the order of time; empty for an OMI that was not made in this record."""
    return list(_steps(calls, transitions, image_id))[::-1]


def describe(steps: Sequence[Step]) -> str:
    whole = sum(step.seconds for step in steps)
    parts = ", ".join(f"{step.what} {step.seconds:.1f}" for step in steps)
    return f"{whole:.1f} s ({parts})"


def _steps(
    calls: Sequence[RecordedCall], transitions: Sequence[Transition], image_id: str
) -> Iterator[Step]:
    def step(what: str, call: RecordedCall, resource: str) -> Step:
        taken = next(
            (
                each.seconds
                for each in transitions
                if each.action == call.action and each.resource == resource
            ),
            0.0,
        )
        return Step(what, resource, call.duration + taken)

    def copied(snapshot_id: str) -> Iterator[Step]:
        """Where the volume's source is a copy that was made in this record."""
        snapshot = _last(done, "CreateSnapshot", "Snapshot", "SnapshotId", snapshot_id)
        if snapshot is not None and "SourceSnapshotId" in snapshot.parameters:
            yield step("copy of the source's snapshot", snapshot, snapshot_id)
        for call in done:
            made = call.answer.get("Image", {}) if call.action == "CreateImage" else {}
            if "SourceImageId" in call.parameters and snapshot_id in _snapshot_ids(made):
                yield step("copy of the source OMI", call, made["ImageId"])

    done = [call for call in calls if call.status == 200]
    image = _last(done, "CreateImage", "Image", "ImageId", image_id)
    if image is None:
        return
    yield step("OMI", image, image_id)
    for snapshot_id in _snapshot_ids(image.parameters):
        snapshot = _last(done, "CreateSnapshot", "Snapshot", "SnapshotId", snapshot_id)
        if snapshot is None:
            continue
        yield step("snapshot", snapshot, snapshot_id)
        volume_id = str(snapshot.parameters.get("VolumeId", ""))
        links = [call for call in done if call.action == "LinkVolume"]
        for link in links:
            if link.parameters.get("VolumeId") == volume_id:
                yield step("link", link, volume_id)
                break
        volume = _last(done, "CreateVolume", "Volume", "VolumeId", volume_id)
        if volume is not None:
            yield step("volume", volume, volume_id)
            yield from copied(str(volume.parameters.get("SnapshotId", "")))
        return


def _last(
    calls: Sequence[RecordedCall], action: str, key: str, id_key: str, resource: str
) -> RecordedCall | None:
    for call in reversed(calls):
        if call.action == action and call.answer.get(key, {}).get(id_key) == resource:
            return call
    return None


def _snapshot_ids(image: Json) -> list[str]:
    """The root's is the first that a builder makes; others may be sources' own."""
    mappings = image.get("BlockDeviceMappings", [])
    found = [mapping.get("Bsu", {}).get("SnapshotId", "") for mapping in mappings]
    return [snapshot_id for snapshot_id in found if snapshot_id]
