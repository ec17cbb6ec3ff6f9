"""The volume that is built on: created, and deleted whatever state it is in."""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.cloud.tags import create_tags
from packer_plugin_osc_chroot.cloud.wait import insist, wait_for
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.resources.removal import Attempt, Removal, find_made
from packer_plugin_osc_chroot.resources.snapshot import pending_snapshot
from packer_plugin_osc_chroot.ui import Ui
from packer_plugin_osc_chroot.undoing import undoing

log = logging.getLogger(__name__)

# A volume is deleted after its link has gone. Where one is shown for longer, it was not undone, and
# no patience helps.
_LINKED_SECONDS = 8.0


@dataclasses.dataclass(frozen=True)
class VolumeRequest:
    """What CreateVolume is asked for. `size` in GiB; `iops` only with io1.

    Without `snapshot_id` the volume is empty.
    """

    subregion: str
    snapshot_id: str
    size: int
    type: str
    iops: int = 0
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "SubregionName": self.subregion,
            "Size": self.size,
            "VolumeType": self.type,
        }
        if self.snapshot_id:
            body["SnapshotId"] = self.snapshot_id
        if self.iops:
            body["Iops"] = self.iops
        return body

    def describe(self) -> str:
        origin = f"from snapshot {self.snapshot_id}" if self.snapshot_id else "empty"
        return f"{self.size} GiB, {self.type}, {origin}"


@contextmanager
def created_volume(
    cloud: Cloud, request: VolumeRequest, *, timeout: float, token: CancelToken, ui: Ui
) -> Iterator[str]:
    """A volume that is ready to be linked, as its id; deleted at the end. `timeout` in seconds.

    The ClientToken makes the creation idempotent, and finds the volume again where no answer told
    its id.
    """
    ui.say(f"Creating a volume ({request.describe()})...")
    client_token = cloud.journal.client_token()
    attempt = Attempt()
    removal = volume_removal(cloud, client_token, ui=ui)
    with undoing(lambda: removal.run(attempt, ui=ui)):
        with attempt.sending():
            answer = cloud.change(
                "CreateVolume", token=token, ClientToken=client_token, **request.body()
            )
        pace = cloud.pace("volume")
        volume_id = attempt.resource_id = str(answer["Volume"]["VolumeId"])
        ui.message(f"Volume: {volume_id}")
        if request.tags:
            create_tags(cloud, [volume_id], request.tags, token=token)
        wait_for(
            f"volume {volume_id}",
            lambda: read_volume(cloud, volume_id, token=token),
            target=("available",),
            failed=("error", "deleting"),
            deadline=timeout,
            option="volume_timeout",
            token=token,
            ui=ui,
            pace=pace,
        )
        yield volume_id


def volume_removal(cloud: Cloud, client_token: str, *, ui: Ui) -> Removal:
    """How a volume goes that was made with that ClientToken."""
    return Removal(
        kind="volume",
        action="DeleteVolume",
        parameter="VolumeId",
        unnamed=f"with ClientToken {client_token}",
        find=lambda undo: find_made(cloud, "Volumes", "VolumeId", client_token, token=undo),
        delete=lambda key, undo: delete_volume(cloud, key, token=undo, tell=ui.message),
    )


def read_volume(cloud: Cloud, volume_id: str, *, token: CancelToken) -> Mapping[str, Any] | None:
    """The volume as the API shows it now, or None."""
    return cloud.one("ReadVolumes", "Volumes", token=token, VolumeIds=[volume_id])


def delete_volume(
    cloud: Cloud,
    volume_id: str,
    *,
    token: CancelToken,
    tell: Callable[[str], None] = log.info,
) -> None:
    """Delete it as soon as the API lets us: not while it is being created, linked or snapshotted."""

    begun = time.monotonic()

    def is_done() -> bool:
        volume = read_volume(cloud, volume_id, token=token)
        if volume is None or volume.get("State") == "deleting":
            return True
        links = [link for link in volume.get("LinkedVolumes") or () if _is_firm(link)]
        if links and time.monotonic() - begun > _LINKED_SECONDS:
            raise BuildError(f"it is still linked to {links[0].get('VmId')}")
        return False

    insist(
        lambda: cloud.change("DeleteVolume", token=token, VolumeId=volume_id),
        is_done=is_done,
        token=token,
        held_up=lambda: pending_snapshot(cloud, volume_id, token=token),
        tell=tell,
    )


def _is_firm(link: Mapping[str, Any]) -> bool:
    return link.get("State") == "attached"
