"""Images: the source as the API describes it, and the new one, registered and a draft until kept."""

import dataclasses
import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.cloud.tags import as_map
from packer_plugin_osc_chroot.cloud.wait import insist, sent_once, wait_for
from packer_plugin_osc_chroot.errors import BuildError, CloudError
from packer_plugin_osc_chroot.journal.effects import snapshots_in
from packer_plugin_osc_chroot.options import devices
from packer_plugin_osc_chroot.options.checks import MAX_VOLUME_GIB
from packer_plugin_osc_chroot.phases import Phases
from packer_plugin_osc_chroot.resources.removal import Attempt, Removal
from packer_plugin_osc_chroot.ui import Ui

log = logging.getLogger(__name__)

_GIB = 1024**3
_BSU_KEYS = ("DeleteOnVmDeletion", "Iops", "SnapshotId", "VolumeSize", "VolumeType")
# How long the name of an OMI that was deregistered may still be refused, in seconds.
_NAME_SECONDS = 15.0

NAME_TAKEN_HINT = (
    "Choose another name, for example with {{timestamp}} in it, delete that OMI, or have it replaced"
    " with force_deregister = true"
)

Json = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class SourceImage:
    """What a build needs to know of its source OMI. `size` is its root's, in GiB."""

    image_id: str
    name: str
    account_id: str
    architecture: str
    tags: Mapping[str, str]
    root: Json
    other_mappings: Sequence[Json]
    snapshot_id: str
    size: int
    volume_type: str
    iops: int
    boot_modes: tuple[str, ...] = ()
    product_codes: tuple[str, ...] = ()
    tpm_mandatory: bool = False


@dataclasses.dataclass(frozen=True)
class ImageRequest:
    """What CreateImage is asked for, but for the new snapshot's id."""

    name: str
    description: str
    architecture: str
    root: Json
    other_mappings: Sequence[Json]
    boot_modes: tuple[str, ...] = ()
    product_codes: tuple[str, ...] = ()
    tpm_mandatory: bool = False

    def body(self, snapshot_id: str) -> dict[str, Any]:
        root = {**self.root, "Bsu": {**self.root.get("Bsu", {}), "SnapshotId": snapshot_id}}
        body: dict[str, Any] = {
            "ImageName": self.name,
            "Architecture": self.architecture,
            "RootDeviceName": devices.ROOT,
            "BlockDeviceMappings": [root, *(dict(mapping) for mapping in self.other_mappings)],
        }
        if self.description:
            body["Description"] = self.description
        if self.boot_modes:
            body["BootModes"] = list(self.boot_modes)
        if self.product_codes:
            body["ProductCodes"] = list(self.product_codes)
        if self.tpm_mandatory:
            body["TpmMandatory"] = True
        return body

    @property
    def snapshot_ids(self) -> list[str]:
        """The snapshots that it names beside the new one."""
        return snapshots_in({"BlockDeviceMappings": self.other_mappings})


def parse_source(image: Json) -> SourceImage:
    """Raises BuildError for an image that cannot be built from."""
    image_id = str(image["ImageId"])
    if image.get("State") != "available":
        raise BuildError(
            f"source_omi {image_id}: is in state {image.get('State')}, expected available"
        )
    root, others = split_mappings(image)
    bsu = root.get("Bsu") or {}
    if image.get("RootDeviceType") not in (None, "bsu", "ebs") or not bsu.get("SnapshotId"):
        raise BuildError(
            f"source_omi {image_id}: its root device {_root_name(image)} is no BSU volume with a"
            " snapshot",
            hint="Choose an OMI whose root device type is bsu",
        )
    return SourceImage(
        image_id=image_id,
        name=str(image.get("ImageName", "")),
        account_id=str(image.get("AccountId", "")),
        architecture=str(image.get("Architecture") or "x86_64"),
        tags=as_map(image.get("Tags")),
        root=root,
        other_mappings=others,
        snapshot_id=str(bsu["SnapshotId"]),
        size=int(bsu.get("VolumeSize") or 0),
        volume_type=str(bsu.get("VolumeType") or "standard"),
        iops=int(bsu.get("Iops") or 0),
        boot_modes=tuple(image.get("BootModes") or ()),
        product_codes=tuple(image.get("ProductCodes") or ()),
        tpm_mandatory=bool(image.get("TpmMandatory")),
    )


def parse_request(image: Json) -> ImageRequest:
    """What registers an image like this one again; its root's snapshot is in `root`."""
    root, others = split_mappings(image)
    return ImageRequest(
        name=str(image.get("ImageName", "")),
        description=str(image.get("Description") or ""),
        architecture=str(image.get("Architecture") or "x86_64"),
        root=root,
        other_mappings=others,
        boot_modes=tuple(image.get("BootModes") or ()),
        product_codes=tuple(image.get("ProductCodes") or ()),
        tpm_mandatory=bool(image.get("TpmMandatory")),
    )


def split_mappings(image: Json) -> tuple[Json, list[Json]]:
    """The root's mapping (empty where there is none) and the others, as CreateImage takes them."""
    mappings = [_to_create(mapping) for mapping in image.get("BlockDeviceMappings") or ()]
    root = next((each for each in mappings if each.get("DeviceName") == _root_name(image)), None)
    return root or {}, [each for each in mappings if each is not root]


def _root_name(image: Json) -> str:
    return str(image.get("RootDeviceName") or devices.ROOT)


def _to_create(mapping: Json) -> Json:
    """A copy with what CreateImage takes of it (BlockDeviceMappingImage, BsuToCreate)."""
    found = {key: mapping[key] for key in ("DeviceName", "VirtualDeviceName") if mapping.get(key)}
    if not mapping.get("Bsu"):
        return found
    bsu = {key: mapping["Bsu"][key] for key in _BSU_KEYS if mapping["Bsu"].get(key) is not None}
    if bsu.get("VolumeSize", 0) > MAX_VOLUME_GIB:
        # In bytes: OUTSCALE's own Packer plugin divides what images show.
        bsu["VolumeSize"] = math.ceil(bsu["VolumeSize"] / _GIB)
    return {**found, "Bsu": bsu}


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
    name_is_new: bool,
    phases: Phases,
    token: CancelToken,
    ui: Ui,
) -> str:
    """CreateImage, with its undo registered; returns the id. There is no ClientToken for it.

    Without `name_is_new` another OMI had the name until now, and it may take a moment to be free.
    """
    ui.say(f'Registering OMI "{request.name}"...')
    attempt = Attempt()
    removal = image_removal(cloud, request.name, account_id, snapshot_id)

    def send() -> str:
        body = request.body(snapshot_id)
        try:
            return create_image(cloud, body, name_is_new=name_is_new, token=token)
        except CloudError as error:
            # What else is in conflict (a snapshot's state) has no such OMI.
            if error.status == 409 and images_named(cloud, request.name, account_id, token=token):
                error.message = (
                    f'omi_name: another OMI took the name "{request.name}" while this build ran:'
                    f" {error.message}"
                )
                error.hint = NAME_TAKEN_HINT
            raise

    def find() -> str | None:
        return find_by_snapshot(cloud, request.name, account_id, snapshot_id, token=token)

    draft = phases.draft(
        "OMI",
        lambda: removal.run(attempt, ui=ui),
        describe=lambda: removal.describe(attempt),
    )
    with draft, attempt.sending():
        attempt.resource_id = sent_once(send, find, token=token)
    ui.message(f"OMI: {attempt.resource_id}")
    return attempt.resource_id


def create_image(cloud: Cloud, body: Json, *, name_is_new: bool, token: CancelToken) -> str:
    """CreateImage, sent anew while a name that was just given up is refused as taken."""
    begun = time.monotonic()
    while True:
        try:
            answer = cloud.change("CreateImage", token=token, **body)
            return str(answer["Image"]["ImageId"])
        except CloudError as error:
            if name_is_new or error.status != 409 or time.monotonic() - begun > _NAME_SECONDS:
                raise
            log.info("the name is not free yet: %s", error)
            token.sleep(0.5)


def image_removal(cloud: Cloud, name: str, account_id: str, snapshot_id: str) -> Removal:
    """How an image goes that was made with that name from that snapshot."""
    return Removal(
        kind="OMI",
        action="DeleteImage",
        parameter="ImageId",
        unnamed=f'named "{name}"',
        find=lambda undo: find_by_snapshot(cloud, name, account_id, snapshot_id, token=undo),
        delete=lambda key, undo: delete_image(cloud, key, token=undo),
    )


def wait_for_image(
    cloud: Cloud, image_id: str, *, timeout: float, token: CancelToken, ui: Ui, kind: str = "OMI"
) -> Json:
    """Until it is available, for `timeout` seconds; returns it as it is shown then.

    `kind` tells waits apart that take times of their own.
    """
    return wait_for(
        f"OMI {image_id}",
        lambda: read_image(cloud, image_id, token=token),
        target=("available",),
        failed=("failed",),
        deadline=timeout,
        option="image_timeout",
        token=token,
        ui=ui,
        pace=cloud.pace(kind),
    )


def delete_image(cloud: Cloud, image_id: str, *, token: CancelToken) -> None:
    """Deregister it; its snapshots stay."""
    insist(
        lambda: cloud.change("DeleteImage", token=token, ImageId=image_id),
        is_done=lambda: read_image(cloud, image_id, token=token) is None,
        token=token,
    )


def find_by_snapshot(
    cloud: Cloud,
    name: str,
    account_id: str,
    snapshot_id: str,
    *,
    token: CancelToken,
    other_than: str = "",
) -> str | None:
    """The id of the image of that name that uses the snapshot, if there is one."""
    for image in images_named(cloud, name, account_id, token=token):
        if snapshot_id in snapshots_in(image) and image.get("ImageId") != other_than:
            return str(image["ImageId"])
    return None
