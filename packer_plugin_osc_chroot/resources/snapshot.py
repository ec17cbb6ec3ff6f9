"""The new root snapshot: started once the filesystem is clean, waited for, a draft until kept."""

import uuid
from collections.abc import Mapping
from typing import Any

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.cloud.wait import insist, wait_for
from packer_plugin_osc_chroot.phases import Phases
from packer_plugin_osc_chroot.resources.removal import Attempt, Removal
from packer_plugin_osc_chroot.ui import Ui

_SNAPSHOT_SECONDS = 4 * 3600.0


def start_snapshot(
    cloud: Cloud, volume_id: str, *, description: str, phases: Phases, token: CancelToken, ui: Ui
) -> str:
    """Ask for the snapshot and register its undo; returns its id."""
    ui.say(f"Creating a snapshot of volume {volume_id}...")
    client_token = str(uuid.uuid4())
    attempt = Attempt()

    removal = Removal(
        kind="snapshot",
        action="DeleteSnapshot",
        parameter="SnapshotId",
        unnamed=f"with ClientToken {client_token}",
        find=lambda undo: _find_by_client_token(cloud, client_token, token=undo),
        delete=lambda key, undo: delete_snapshot(cloud, key, token=undo),
    )
    # Registered before the call: an answer that gets lost must not leave a snapshot behind.
    with phases.draft("snapshot", lambda: removal.run(attempt, ui=ui)), attempt.sending():
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


def wait_for_snapshot(cloud: Cloud, snapshot_id: str, *, token: CancelToken, ui: Ui) -> None:
    """Until it is completed: only then may anything write to the volume again (user guide)."""
    wait_for(
        f"snapshot {snapshot_id}",
        lambda: read_snapshot(cloud, snapshot_id, token=token),
        target=("completed",),
        failed=("error", "deleting"),
        deadline=_SNAPSHOT_SECONDS,
        token=token,
        ui=ui,
    )


def read_snapshot(
    cloud: Cloud, snapshot_id: str, *, token: CancelToken
) -> Mapping[str, Any] | None:
    """The snapshot as the API shows it now, or None."""
    return cloud.one("ReadSnapshots", "Snapshots", token=token, SnapshotIds=[snapshot_id])


def delete_snapshot(cloud: Cloud, snapshot_id: str, *, token: CancelToken) -> None:
    """Delete it as soon as the API lets us: not while it is pending, or an image uses it."""

    def is_done() -> bool:
        snapshot = read_snapshot(cloud, snapshot_id, token=token)
        return snapshot is None or snapshot.get("State") == "deleting"

    insist(
        lambda: cloud.change("DeleteSnapshot", token=token, SnapshotId=snapshot_id),
        is_done=is_done,
        token=token,
    )


def _find_by_client_token(cloud: Cloud, client_token: str, *, token: CancelToken) -> str | None:
    snapshot = cloud.one("ReadSnapshots", "Snapshots", token=token, ClientTokens=[client_token])
    return str(snapshot["SnapshotId"]) if snapshot else None
