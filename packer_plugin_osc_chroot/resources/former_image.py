"""The account's OMI that already has the new one's name (force_deregister): it goes just before its
successor is registered, and comes back where that fails."""

import logging
from collections.abc import Collection, Mapping
from typing import Any

from packer_plugin_osc_chroot.cancel import CancelToken, following, undo_token
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.cloud.tags import as_map, create_tags
from packer_plugin_osc_chroot.cloud.wait import sent_once
from packer_plugin_osc_chroot.errors import BuildError, CloudError, UndoError
from packer_plugin_osc_chroot.journal.effects import snapshots_in
from packer_plugin_osc_chroot.phases import Phases
from packer_plugin_osc_chroot.resources.image import (
    Json,
    create_image,
    delete_image,
    find_by_snapshot,
    images_named,
    parse_request,
    read_image,
    wait_for_image,
)
from packer_plugin_osc_chroot.resources.removal import Attempt
from packer_plugin_osc_chroot.resources.sharing import (
    parse_permissions,
    share_image,
    taken_early,
)
from packer_plugin_osc_chroot.resources.snapshot import delete_snapshot
from packer_plugin_osc_chroot.ui import Ui

log = logging.getLogger(__name__)

# Seconds for a restored OMI to become available, and for a snapshot to be let go by a deleted OMI.
_RESTORE_SECONDS = 240.0
_SNAPSHOT_SECONDS = 30.0


def deregister_former(
    cloud: Cloud,
    name: str,
    *,
    account_id: str,
    phases: Phases,
    token: CancelToken,
    ui: Ui,
) -> list[Json]:
    """Deregister the account's OMIs of exactly that name, with their coming back registered as undo.

    Returns what they were. Their snapshots stay.
    """
    former = [
        image
        for image in images_named(cloud, name, account_id, token=token)
        if image.get("AccountId") == account_id
    ]
    for image in former:
        _deregister(cloud, image, phases=phases, token=token, ui=ui)
    return former


def _deregister(cloud: Cloud, image: Json, *, phases: Phases, token: CancelToken, ui: Ui) -> None:
    image_id = str(image["ImageId"])
    ui.say(f'Deregistering the former OMI "{image.get("ImageName")}" ({image_id})...')
    attempt = Attempt(resource_id=image_id)
    draft = phases.draft(
        "deregistered OMI",
        lambda: bring_back(cloud, image, attempt, ui=ui),
        describe=lambda: _lost(image) if attempt.may_stand else "",
    )
    cloud.journal.deregistering(image)
    with draft, attempt.sending():
        delete_image(cloud, image_id, token=token)


def _lost(image: Json) -> str:
    snapshots = ", ".join(snapshots_in(image))
    return (
        f'the former OMI "{image.get("ImageName")}" ({image["ImageId"]}), deregistered;'
        f" its snapshots are there: {snapshots}"
    )


def bring_back(
    cloud: Cloud, image: Json, attempt: Attempt, *, ui: Ui, token: CancelToken | None = None
) -> None:
    """Register it again from its snapshots, as it was but for the id. Raises UndoError."""
    if not attempt.may_stand:
        return
    token = token or undo_token()
    name, image_id = image.get("ImageName"), str(image["ImageId"])
    ui.say(f'Registering the former OMI "{name}" again...')
    try:
        again = _register(cloud, image, token=token)
    except BuildError as error:
        raise UndoError(
            f'the former OMI "{name}" ({image_id}) is not registered again: {error.message}',
            left=(_lost(image),),
            hint="Register it from them: osc-cli api CreateImage",
        ) from error
    if again == image_id:
        ui.message(f"OMI {image_id} was not deregistered")
        return
    try:
        _give_back(cloud, image, again, token=token, ui=ui)
    except BuildError as error:
        # It is there, whatever it lacks: nobody is to register it once more.
        cloud.journal.returned(image_id, again)
        raise UndoError(
            f'the former OMI "{name}" is {again} now (it was {image_id}), and lacks tags or'
            f" permissions that it had: {error.message}",
            left=(_had(image, again),),
            hint="Give them to it: osc-cli api CreateTags, osc-cli api UpdateImage",
        ) from error
    cloud.journal.returned(image_id, again)
    ui.message(f'The former OMI "{name}" is {again} now (it was {image_id})')


def _had(image: Json, again: str) -> str:
    """What the OMI had that is now registered as `again`, in a user's words."""
    tags = ", ".join(f"{key}={value}" for key, value in as_map(image.get("Tags")).items())
    permissions = parse_permissions(image.get("PermissionsToLaunch"))
    accounts = [*permissions.account_ids, *(["everybody"] if permissions.everybody else [])]
    launched = ", ".join(accounts) or "nobody else"
    return f"OMI {again}, which had the tags {tags or 'none'}, and was permitted to {launched}"


def _register(cloud: Cloud, image: Json, *, token: CancelToken) -> str:
    image_id, account_id = str(image["ImageId"]), str(image.get("AccountId", ""))
    request = parse_request(image)
    root = str((request.root.get("Bsu") or {}).get("SnapshotId", ""))

    def send() -> str:
        return create_image(cloud, request.body(root), name_is_new=False, token=token)

    def find() -> str | None:
        return find_by_snapshot(
            cloud, request.name, account_id, root, token=token, other_than=image_id
        )

    try:
        return sent_once(send, find, token=token)
    except CloudError as error:
        # Where no answer told whether it had gone, its own name may be what is taken.
        if error.status == 409 and read_image(cloud, image_id, token=token) is not None:
            return image_id
        raise


def _give_back(cloud: Cloud, image: Json, again: str, *, token: CancelToken, ui: Ui) -> None:
    """Tags and permissions, which an image does not take with it."""
    tags = as_map(image.get("Tags"))
    permissions = parse_permissions(image.get("PermissionsToLaunch"))

    def give() -> None:
        if tags:
            create_tags(cloud, [again], tags, token=token)
        if permissions:
            # The template's options have nothing to do with it.
            share_image(cloud, again, permissions, asked_by="", token=token)

    if not taken_early(give):
        wait_for_image(cloud, again, timeout=_RESTORE_SECONDS, token=token, ui=ui)
        give()


def delete_former_snapshots(
    cloud: Cloud,
    former: Collection[Json],
    *,
    account_id: str,
    in_use: Collection[str],
    token: CancelToken,
    ui: Ui,
) -> None:
    """Delete what deregistered OMIs leave, unless something else uses it, the ids `in_use` included.

    The new OMI is there by now: what cannot be deleted is said, and no failure. A cancel leaves the
    rest.
    """
    limited = CancelToken(deadline=_SNAPSHOT_SECONDS, reason="the API did not allow it in time")
    gone = {str(image["ImageId"]) for image in former}
    wanted = [each for image in former for each in snapshots_in(image) if each not in in_use]
    if not wanted:
        return
    try:
        with following(token, limited):
            users = _users(cloud, wanted, gone, token=limited)
            own = _own(cloud, wanted, account_id, token=limited)
            for snapshot_id in dict.fromkeys(wanted):
                if snapshot_id in users:
                    ui.message(f"Snapshot {snapshot_id} stays: OMI {users[snapshot_id]} uses it")
                elif snapshot_id not in own:
                    ui.message(f"Snapshot {snapshot_id} stays: it is not this account's")
                else:
                    _delete_snapshot(cloud, snapshot_id, token=limited, ui=ui)
    except Exception as error:
        # Whatever it is: the build is complete.
        log.exception("deleting the snapshots of the former OMI")
        ui.error(f"Snapshots {', '.join(wanted)} of the former OMI may be left: {error}")


def _users(
    cloud: Cloud, snapshot_ids: list[str], gone: Collection[str], *, token: CancelToken
) -> Mapping[str, Any]:
    """Each snapshot that an OMI uses which is not `gone`, with that OMI's id."""
    filters = {"BlockDeviceMappingSnapshotIds": snapshot_ids}
    images = cloud.pages("ReadImages", "Images", token=token, Filters=filters)
    return {
        snapshot_id: image["ImageId"]
        for image in images
        if image["ImageId"] not in gone
        for snapshot_id in snapshots_in(image)
    }


def _own(cloud: Cloud, snapshot_ids: list[str], account_id: str, *, token: CancelToken) -> set[str]:
    filters = {"SnapshotIds": snapshot_ids}
    found = cloud.pages("ReadSnapshots", "Snapshots", token=token, Filters=filters)
    return {str(each["SnapshotId"]) for each in found if each.get("AccountId") == account_id}


def _delete_snapshot(cloud: Cloud, snapshot_id: str, *, token: CancelToken, ui: Ui) -> None:
    ui.say(f"Deleting snapshot {snapshot_id} of the former OMI...")
    try:
        delete_snapshot(cloud, snapshot_id, token=token)
    except BuildError as error:
        ui.error(f"Snapshot {snapshot_id} of the former OMI is left: {error}")
