"""The volume that is built on: created, and deleted whatever state it is in."""

import dataclasses
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.cloud.tags import create_tags
from packer_plugin_osc_chroot.cloud.wait import insist, wait_for
from packer_plugin_osc_chroot.errors import BuildError, UndoError
from packer_plugin_osc_chroot.phases import undo_token
from packer_plugin_osc_chroot.ui import Ui

_CREATE_SECONDS = 900.0


@dataclasses.dataclass(frozen=True)
class VolumeRequest:
    """What CreateVolume is asked for. `size` in GiB; `iops` only with io1."""

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
            "SnapshotId": self.snapshot_id,
        }
        if self.iops:
            body["Iops"] = self.iops
        return body

    def describe(self) -> str:
        return f"{self.size} GiB, {self.type}, from snapshot {self.snapshot_id}"


@contextmanager
def created_volume(
    cloud: Cloud, request: VolumeRequest, *, token: CancelToken, ui: Ui
) -> Iterator[str]:
    """A volume that is ready to be linked, as its id; deleted at the end.

    The ClientToken makes the creation idempotent, and finds the volume again where no answer told
    its id.
    """
    ui.say(f"Creating a volume ({request.describe()})...")
    client_token = str(uuid.uuid4())
    volume_id = ""
    try:
        answer = cloud.change(
            "CreateVolume", token=token, ClientToken=client_token, **request.body()
        )
        volume_id = str(answer["Volume"]["VolumeId"])
        ui.message(f"Volume: {volume_id}")
        if request.tags:
            create_tags(cloud, [volume_id], request.tags, token=token)
        wait_for(
            f"volume {volume_id}",
            lambda: read_volume(cloud, volume_id, token=token),
            target=("available",),
            failed=("error", "deleting"),
            deadline=_CREATE_SECONDS,
            token=token,
            ui=ui,
        )
        yield volume_id
    finally:
        undo = undo_token()
        try:
            volume_id = volume_id or _find_by_client_token(cloud, client_token, token=undo)
            if volume_id:
                ui.say(f"Deleting volume {volume_id}...")
                delete_volume(cloud, volume_id, token=undo)
        except BuildError as error:
            what = f"volume {volume_id}" if volume_id else f"volume with ClientToken {client_token}"
            raise UndoError(
                f"{what} is left behind: {error.message}",
                left=(what,),
                hint=f"Delete it: osc-cli api DeleteVolume --VolumeId {volume_id or '…'}",
            ) from error


def read_volume(cloud: Cloud, volume_id: str, *, token: CancelToken) -> Mapping[str, Any] | None:
    """The volume as the API shows it now, or None."""
    answer = cloud.read("ReadVolumes", token=token, Filters={"VolumeIds": [volume_id]})
    volumes = answer.get("Volumes") or []
    return volumes[0] if volumes else None


def delete_volume(cloud: Cloud, volume_id: str, *, token: CancelToken) -> None:
    """Delete it as soon as the API lets us: not while it is being created, linked or snapshotted."""

    def is_done() -> bool:
        volume = read_volume(cloud, volume_id, token=token)
        return volume is None or volume.get("State") == "deleting"

    insist(
        lambda: cloud.change("DeleteVolume", token=token, VolumeId=volume_id),
        is_done=is_done,
        token=token,
    )


def _find_by_client_token(cloud: Cloud, client_token: str, *, token: CancelToken) -> str:
    answer = cloud.read("ReadVolumes", token=token, Filters={"ClientTokens": [client_token]})
    volumes = answer.get("Volumes") or []
    return str(volumes[0]["VolumeId"]) if volumes else ""
