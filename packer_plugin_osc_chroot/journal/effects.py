"""Which calls of the API make or remove something, and what of them identifies it."""

from collections.abc import Mapping
from typing import Any

# The answer's part that has the new resource, and its key there.
_MADE: Mapping[str, tuple[str, str]] = {
    "CreateVolume": ("Volume", "VolumeId"),
    "CreateSnapshot": ("Snapshot", "SnapshotId"),
    "CreateImage": ("Image", "ImageId"),
    "LinkVolume": ("", ""),
}
_REMOVED: Mapping[str, str] = {
    "DeleteVolume": "VolumeId",
    "DeleteSnapshot": "SnapshotId",
    "DeleteImage": "ImageId",
    "UnlinkVolume": "VolumeId",
}
# Nothing else is written down: a description or a tag may hold what is nobody's business.
_TRACES = ("ClientToken", "VolumeId", "VmId", "DeviceName", "ImageName", "SourceImageId")


def traces_of(action: str, body: Mapping[str, Any]) -> dict[str, str] | None:
    """What a request says that its resource can be found by; None for one that makes nothing."""
    if action not in _MADE:
        return None
    found = {name: str(body[name]) for name in _TRACES if body.get(name)}
    if snapshots := snapshots_in(body):
        found["SnapshotId"] = snapshots[0]
    return found


def snapshots_in(image: Mapping[str, Any]) -> list[str]:
    """The snapshots that the mappings of an image, or of a request for one, name."""
    bsus = [mapping.get("Bsu") or {} for mapping in image.get("BlockDeviceMappings") or ()]
    return [str(bsu["SnapshotId"]) for bsu in bsus if bsu.get("SnapshotId")]


def id_in(action: str, answer: Mapping[str, Any]) -> str:
    """The new resource's id; empty for what has none."""
    part, key = _MADE[action]
    resource = answer.get(part)
    return str(resource.get(key, "")) if isinstance(resource, Mapping) else ""


def tells_id(action: str, answer: Mapping[str, Any]) -> bool:
    """False for an answer that should say what was made, and does not."""
    return not _MADE.get(action, ("", ""))[0] or bool(id_in(action, answer))


def removed_by(action: str, body: Mapping[str, Any]) -> str:
    """The id of what the request removes; empty for other requests."""
    return str(body.get(_REMOVED.get(action, ""), ""))
