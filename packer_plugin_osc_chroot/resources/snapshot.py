"""The new root snapshot: started once the filesystem is clean, waited for, a draft until kept."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.cloud.wait import insist, wait_for
from packer_plugin_osc_chroot.errors import CloudError
from packer_plugin_osc_chroot.phases import Phases
from packer_plugin_osc_chroot.resources.removal import Attempt, Removal, find_made
from packer_plugin_osc_chroot.ui import Ui

log = logging.getLogger(__name__)

_PENDING = ("in-queue", "pending")


def start_snapshot(
    cloud: Cloud, volume_id: str, *, description: str, phases: Phases, token: CancelToken, ui: Ui
) -> str:
    """Ask for the snapshot and register its undo; returns its id."""
    ui.say(f"Creating a snapshot of volume {volume_id}...")
    client_token = cloud.journal.client_token()
    attempt = Attempt()
    removal = snapshot_removal(cloud, client_token, ui=ui)
    # Registered before the call: an answer that gets lost must not leave a snapshot behind.
    draft = phases.draft(
        "snapshot",
        lambda: removal.run(attempt, ui=ui),
        describe=lambda: removal.describe(attempt),
    )
    with draft, attempt.sending():
        answer = cloud.change(
            "CreateSnapshot",
            token=token,
            VolumeId=volume_id,
            Description=description,
            ClientToken=client_token,
        )
        attempt.resource_id = str(answer["Snapshot"]["SnapshotId"])
    ui.message(f"Snapshot: {attempt.resource_id}")
    return attempt.resource_id


def snapshot_removal(cloud: Cloud, client_token: str, *, ui: Ui) -> Removal:
    """How a snapshot goes that was made with that ClientToken."""
    return Removal(
        kind="snapshot",
        action="DeleteSnapshot",
        parameter="SnapshotId",
        unnamed=f"with ClientToken {client_token}",
        find=lambda undo: find_made(cloud, "Snapshots", "SnapshotId", client_token, token=undo),
        delete=lambda key, undo: delete_snapshot(cloud, key, token=undo, tell=ui.message),
    )


def wait_for_snapshot(
    cloud: Cloud, snapshot_id: str, *, timeout: float, token: CancelToken, ui: Ui
) -> None:
    """Until it is completed: only then may anything write to the volume again (user guide).

    `timeout` in seconds.
    """
    wait_for(
        f"snapshot {snapshot_id}",
        lambda: read_snapshot(cloud, snapshot_id, token=token),
        target=("completed",),
        failed=("error", "deleting"),
        deadline=timeout,
        option="snapshot_timeout",
        token=token,
        ui=ui,
        pace=cloud.pace("snapshot"),
    )


def read_snapshot(
    cloud: Cloud, snapshot_id: str, *, token: CancelToken
) -> Mapping[str, Any] | None:
    """The snapshot as the API shows it now, or None."""
    return cloud.one("ReadSnapshots", "Snapshots", token=token, SnapshotIds=[snapshot_id])


def pending_snapshot(cloud: Cloud, volume_id: str, *, token: CancelToken) -> str:
    """What is pending of this volume, for the user; empty where nothing is.

    Until it has completed the API may refuse to unlink or delete the volume, and that may take hours.
    """
    filters = {"VolumeIds": [volume_id], "States": list(_PENDING)}
    try:
        return _pending(cloud.one("ReadSnapshots", "Snapshots", token=token, **filters))
    except CloudError as error:
        # Undoing has other calls to make, whether this one may be made or not.
        log.info("whether volume %s has a pending snapshot: %s", volume_id, error)
        return ""


def _pending(snapshot: Mapping[str, Any] | None) -> str:
    if snapshot is None or snapshot.get("State") not in _PENDING:
        return ""
    progress = snapshot.get("Progress")
    percent = f", {progress}%" if isinstance(progress, int) else ""
    return f"snapshot {snapshot['SnapshotId']} is {snapshot['State']}{percent}"


def delete_snapshot(
    cloud: Cloud,
    snapshot_id: str,
    *,
    token: CancelToken,
    tell: Callable[[str], None] = log.info,
) -> None:
    """Delete it as soon as the API lets us: not while it is pending, or an image uses it."""

    snapshot: Mapping[str, Any] | None = None

    def is_done() -> bool:
        nonlocal snapshot
        snapshot = read_snapshot(cloud, snapshot_id, token=token)
        return snapshot is None or snapshot.get("State") == "deleting"

    insist(
        lambda: cloud.change("DeleteSnapshot", token=token, SnapshotId=snapshot_id),
        is_done=is_done,
        token=token,
        held_up=lambda: _pending(snapshot),
        tell=tell,
    )
