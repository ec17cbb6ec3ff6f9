"""The new root snapshot: started once the filesystem is clean, waited for, a draft until kept."""

import uuid
from collections.abc import Mapping
from typing import Any

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.cloud.wait import insist, wait_for
from packer_plugin_osc_chroot.errors import BuildError, UndoError
from packer_plugin_osc_chroot.phases import Phases, undo_token
from packer_plugin_osc_chroot.ui import Ui

_SNAPSHOT_SECONDS = 4 * 3600.0


def start_snapshot(
    cloud: Cloud, volume_id: str, *, description: str, phases: Phases, token: CancelToken, ui: Ui
) -> str:
    """Ask for the snapshot and register its undo; returns its id."""
    ui.say(f"Creating a snapshot of volume {volume_id}...")
    client_token = str(uuid.uuid4())
    made: list[str] = []

    def undo() -> None:
        token = undo_token()
        snapshot_id = made[0] if made else ""
        try:
            snapshot_id = snapshot_id or _find_by_client_token(cloud, client_token, token=token)
            if snapshot_id:
                ui.say(f"Deleting snapshot {snapshot_id}...")
                delete_snapshot(cloud, snapshot_id, token=token)
        except BuildError as error:
            what = f"snapshot {snapshot_id or f'with ClientToken {client_token}'}"
            raise UndoError(
                f"{what} is left behind: {error.message}",
                left=(what,),
                hint=f"Delete it: osc-cli api DeleteSnapshot --SnapshotId {snapshot_id or '…'}",
            ) from error

    # Before the call: an answer that gets lost must not leave a snapshot behind.
    phases.draft("snapshot", undo)
    answer = cloud.change(
        "CreateSnapshot",
        token=token,
        VolumeId=volume_id,
        Description=description,
        ClientToken=client_token,
    )
    made.append(str(answer["Snapshot"]["SnapshotId"]))
    ui.message(f"Snapshot: {made[0]}")
    return made[0]


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
    answer = cloud.read("ReadSnapshots", token=token, Filters={"SnapshotIds": [snapshot_id]})
    snapshots = answer.get("Snapshots") or []
    return snapshots[0] if snapshots else None


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


def _find_by_client_token(cloud: Cloud, client_token: str, *, token: CancelToken) -> str:
    answer = cloud.read("ReadSnapshots", token=token, Filters={"ClientTokens": [client_token]})
    snapshots = answer.get("Snapshots") or []
    return str(snapshots[0]["SnapshotId"]) if snapshots else ""
