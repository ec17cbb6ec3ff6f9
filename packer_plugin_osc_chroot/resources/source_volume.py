"""The volume to build on, from a source OMI whose snapshot may be another account's.

Where that account permits it the snapshot is used as it is. Else the OMI is copied into this account
first (CreateImage with SourceImageId), and the copy and its snapshots are removed with the volume.
"""

import dataclasses
import logging
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.client import Cloud, is_forbidden, is_missing
from packer_plugin_osc_chroot.cloud.wait import sent_once
from packer_plugin_osc_chroot.errors import BuildError, CloudError, UndoError
from packer_plugin_osc_chroot.journal.effects import snapshots_in
from packer_plugin_osc_chroot.resources.image import (
    SourceImage,
    create_image,
    delete_image,
    images_named,
    parse_source,
    read_image,
    wait_for_image,
)
from packer_plugin_osc_chroot.resources.removal import Attempt, Removal
from packer_plugin_osc_chroot.resources.snapshot import delete_snapshot
from packer_plugin_osc_chroot.resources.volume import VolumeRequest, created_volume
from packer_plugin_osc_chroot.ui import Ui
from packer_plugin_osc_chroot.undoing import undoing

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Timeouts:
    """Seconds to wait for a volume to be created and for an OMI to be copied."""

    volume: float
    image: float


@dataclasses.dataclass(frozen=True)
class SourceVolume:
    """The volume, and the copy of the source OMI where one was needed."""

    volume_id: str
    copy_id: str = ""

    def describe(self) -> str:
        copied = f" (and OMI {self.copy_id}, the copy of the source)" if self.copy_id else ""
        return f"volume {self.volume_id}{copied}"


@contextmanager
def source_volume(
    cloud: Cloud,
    request: VolumeRequest,
    foreign: SourceImage | None,
    *,
    carried: Sequence[str] = (),
    timeouts: Timeouts,
    token: CancelToken,
    ui: Ui,
) -> Iterator[SourceVolume]:
    """The volume, ready to be linked. `foreign` is the source OMI where it is not this account's.

    `carried` are the snapshots of the source's other volumes that the new OMI is to have. Raises
    BuildError where they may not be used: a copy's own go with it.
    """
    with ExitStack() as stack:

        def create(asked: VolumeRequest) -> str:
            manager = created_volume(cloud, asked, timeout=timeouts.volume, token=token, ui=ui)
            return stack.enter_context(manager)

        copy_id = ""
        try:
            volume_id = create(request)
        except CloudError as error:
            if foreign is None or not (is_missing(error) or is_forbidden(error)):
                raise
            _check_usable(cloud, carried, foreign, token=token)
            ui.message(
                f"Snapshot {request.snapshot_id} of account {foreign.account_id} may not be used:"
                f" {foreign.image_id} is copied first"
            )
            log.info("its refusal: %s", error)
            copied = copied_image(cloud, foreign, timeout=timeouts.image, token=token, ui=ui)
            copy = stack.enter_context(copied)
            copy_id = copy.image_id
            volume_id = create(dataclasses.replace(request, snapshot_id=copy.snapshot_id))
        yield SourceVolume(volume_id, copy_id)


def _check_usable(
    cloud: Cloud, snapshot_ids: Sequence[str], foreign: SourceImage, *, token: CancelToken
) -> None:
    if not snapshot_ids:
        return
    filters = {"SnapshotIds": list(snapshot_ids)}
    found = cloud.pages("ReadSnapshots", "Snapshots", token=token, Filters=filters)
    if missing := set(snapshot_ids) - {str(each["SnapshotId"]) for each in found}:
        raise BuildError(
            f"source_omi {foreign.image_id}: the snapshots of its other volumes"
            f" ({', '.join(sorted(missing))}) are account {foreign.account_id}'s and may not be used",
            hint="Ask that account for the permission, or leave these volumes out:"
            " omi_block_device_mappings with their device_name and no_device = true",
        )


@contextmanager
def copied_image(
    cloud: Cloud, source: SourceImage, *, timeout: float, token: CancelToken, ui: Ui
) -> Iterator[SourceImage]:
    """The account's own copy of an OMI; removed at the end with its snapshots."""
    ui.say(f"Copying the source OMI {source.image_id}...")
    # Unique, so that a copy whose id was never told can be found by it.
    name = f"packer-copy-of-{source.image_id}-{uuid.uuid4()}"
    attempt = Attempt()
    body = {
        "ImageName": name,
        "SourceImageId": source.image_id,
        "SourceRegionName": cloud.region,
        "Description": f"Temporary copy of {source.image_id}, made by packer",
    }
    with undoing(lambda: remove_copy(cloud, source.image_id, name, attempt, ui=ui)):
        with attempt.sending():
            attempt.resource_id = sent_once(
                lambda: create_image(cloud, body, name_is_new=True, token=token),
                lambda: _find_named(cloud, name, token=token),
                token=token,
            )
        ui.message(f"Copy: {attempt.resource_id}")
        shown = wait_for_image(
            cloud, attempt.resource_id, timeout=timeout, token=token, ui=ui, kind="copy of an OMI"
        )
        for snapshot_id in snapshots_in(shown):
            cloud.journal.owns_snapshot(snapshot_id)
        yield parse_source(shown)


def remove_copy(
    cloud: Cloud,
    source_id: str,
    name: str,
    attempt: Attempt,
    *,
    ui: Ui,
    token: CancelToken | None = None,
) -> None:
    """Remove the copy of an OMI that was to have that name, and its snapshots. Raises UndoError."""
    snapshot_ids: list[str] = []
    removal = Removal(
        kind=f"copy of OMI {source_id}:",
        action="DeleteImage",
        parameter="ImageId",
        unnamed=f'the OMI named "{name}"',
        find=lambda undo: _find_named(cloud, name, token=undo),
        delete=lambda key, undo: _delete_copy(cloud, key, snapshot_ids, token=undo),
    )
    # In this order: the snapshots can go only after their image.
    with undoing(lambda: _remove_snapshots(cloud, snapshot_ids, ui=ui, token=token)):
        removal.run(attempt, ui=ui, token=token)


def _find_named(cloud: Cloud, name: str, *, token: CancelToken) -> str | None:
    found = images_named(cloud, name, "", token=token)
    return str(found[0]["ImageId"]) if found else None


def _delete_copy(
    cloud: Cloud, image_id: str, snapshot_ids: list[str], *, token: CancelToken
) -> None:
    """Note its snapshots, then delete the image."""
    image = read_image(cloud, image_id, token=token)
    snapshot_ids += snapshots_in(image or {})
    delete_image(cloud, image_id, token=token)


def _remove_snapshots(
    cloud: Cloud, snapshot_ids: list[str], *, ui: Ui, token: CancelToken | None
) -> None:
    """Raises UndoError for the first that cannot be deleted, once all have been tried.

    The others go with it (`not_undone`).
    """
    failures: list[UndoError] = []
    removal = Removal(
        kind="snapshot",
        action="DeleteSnapshot",
        parameter="SnapshotId",
        unnamed="",
        find=lambda undo: None,
        delete=lambda key, undo: delete_snapshot(cloud, key, token=undo, tell=ui.message),
    )
    for snapshot_id in dict.fromkeys(snapshot_ids):
        try:
            removal.run(Attempt(resource_id=snapshot_id, may_stand=True), ui=ui, token=token)
        except UndoError as error:
            failures.append(error)
    if failures:
        failures[0].not_undone = tuple(failures[1:])
        raise failures[0]
