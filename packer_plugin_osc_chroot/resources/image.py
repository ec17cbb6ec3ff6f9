"""Images: the source as the API describes it, and the new one, registered and a draft until kept."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.cloud.tags import as_map
from packer_plugin_osc_chroot.cloud.wait import insist, sent_once, wait_for
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.phases import Phases
from packer_plugin_osc_chroot.resources.removal import Attempt, Removal
from packer_plugin_osc_chroot.ui import Ui

# OUTSCALE registers images under this root device name only.
ROOT_DEVICE = "/dev/sda1"
_IMAGE_SECONDS = 3600.0

Json = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class SourceImage:
    """What a build needs to know of its source OMI. `size` is its root's, in GiB."""

    image_id: str
    name: str
    architecture: str
    tags: Mapping[str, str]
    root: Json
    other_mappings: Sequence[Json]
    snapshot_id: str
    size: int
    volume_type: str
    iops: int


@dataclasses.dataclass(frozen=True)
class ImageRequest:
    """What CreateImage is asked for, but for the new snapshot's id."""

    name: str
    description: str
    architecture: str
    root: Json
    other_mappings: Sequence[Json]

    def body(self, snapshot_id: str) -> dict[str, Any]:
        root = {**self.root, "Bsu": {**self.root.get("Bsu", {}), "SnapshotId": snapshot_id}}
        body: dict[str, Any] = {
            "ImageName": self.name,
            "Architecture": self.architecture,
            "RootDeviceName": ROOT_DEVICE,
            "BlockDeviceMappings": [root, *(dict(mapping) for mapping in self.other_mappings)],
        }
        if self.description:
            body["Description"] = self.description
        return body


def parse_source(image: Json) -> SourceImage:
    """Raises BuildError for an image that cannot be built from."""
    image_id = str(image["ImageId"])
    if image.get("State") != "available":
        raise BuildError(
            f"source_omi {image_id}: is in state {image.get('State')}, expected available"
        )
    root_name = image.get("RootDeviceName") or ROOT_DEVICE
    mappings = image.get("BlockDeviceMappings") or []
    root = next((item for item in mappings if item.get("DeviceName") == root_name), None)
    bsu = (root or {}).get("Bsu") or {}
    if image.get("RootDeviceType") not in (None, "bsu", "ebs") or not bsu.get("SnapshotId"):
        raise BuildError(
            f"source_omi {image_id}: its root device {root_name} is no BSU volume with a snapshot",
            hint="Choose an OMI whose root device type is bsu",
        )
    return SourceImage(
        image_id=image_id,
        name=str(image.get("ImageName", "")),
        architecture=str(image.get("Architecture") or "x86_64"),
        tags=as_map(image.get("Tags")),
        root=dict(root or {}),
        other_mappings=[dict(item) for item in mappings if item is not root],
        snapshot_id=str(bsu["SnapshotId"]),
        size=int(bsu.get("VolumeSize") or 0),
        volume_type=str(bsu.get("VolumeType") or "standard"),
        iops=int(bsu.get("Iops") or 0),
    )


def read_image(cloud: Cloud, image_id: str, *, token: CancelToken) -> Json | None:
    """The image as the API shows it now, or None."""
    return cloud.one("ReadImages", "Images", token=token, ImageIds=[image_id])


def images_named(cloud: Cloud, name: str, account_id: str, *, token: CancelToken) -> list[Json]:
    """The account's own images of exactly that name. Without an account id: whatever is shown."""
    filters: dict[str, Any] = {"ImageNames": [name]}
    if account_id:
        filters["AccountIds"] = [account_id]
    found = cloud.pages("ReadImages", "Images", token=token, Filters=filters)
    # The API reads `*` in a filter as a wildcard.
    return [image for image in found if image.get("ImageName") == name]


def register_image(
    cloud: Cloud,
    request: ImageRequest,
    snapshot_id: str,
    *,
    account_id: str,
    phases: Phases,
    token: CancelToken,
    ui: Ui,
) -> str:
    """CreateImage, with its undo registered; returns the id. There is no ClientToken for it."""
    ui.say(f'Registering OMI "{request.name}"...')
    attempt = Attempt()

    removal = Removal(
        kind="OMI",
        action="DeleteImage",
        parameter="ImageId",
        unnamed=f'named "{request.name}"',
        find=lambda undo: _find_by_snapshot(
            cloud, request.name, account_id, snapshot_id, token=undo
        ),
        delete=lambda key, undo: delete_image(cloud, key, token=undo),
    )

    def send() -> str:
        answer = cloud.change("CreateImage", token=token, **request.body(snapshot_id))
        return str(answer["Image"]["ImageId"])

    def find() -> str | None:
        return _find_by_snapshot(cloud, request.name, account_id, snapshot_id, token=token)

    draft = phases.draft(
        "OMI",
        lambda: removal.run(attempt, ui=ui),
        describe=lambda: removal.describe(attempt),
    )
    with draft, attempt.sending():
        attempt.resource_id = sent_once(send, find, token=token)
    ui.message(f"OMI: {attempt.resource_id}")
    return attempt.resource_id


def wait_for_image(cloud: Cloud, image_id: str, *, token: CancelToken, ui: Ui) -> None:
    wait_for(
        f"OMI {image_id}",
        lambda: read_image(cloud, image_id, token=token),
        target=("available",),
        failed=("failed",),
        deadline=_IMAGE_SECONDS,
        token=token,
        ui=ui,
        pace=cloud.pace("OMI"),
    )


def delete_image(cloud: Cloud, image_id: str, *, token: CancelToken) -> None:
    """Deregister it; its snapshots stay."""
    insist(
        lambda: cloud.change("DeleteImage", token=token, ImageId=image_id),
        is_done=lambda: read_image(cloud, image_id, token=token) is None,
        token=token,
    )


def snapshots_of(image: Json) -> list[str]:
    """The snapshots that an image's mappings name."""
    bsus = [mapping.get("Bsu") or {} for mapping in image.get("BlockDeviceMappings") or ()]
    return [str(bsu["SnapshotId"]) for bsu in bsus if bsu.get("SnapshotId")]


def _find_by_snapshot(
    cloud: Cloud, name: str, account_id: str, snapshot_id: str, *, token: CancelToken
) -> str | None:
    for image in images_named(cloud, name, account_id, token=token):
        if snapshot_id in snapshots_of(image):
            return str(image["ImageId"])
    return None
