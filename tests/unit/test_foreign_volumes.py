"""Other volumes of a foreign OMI whose snapshots may not be used: said before anything is made."""

from pathlib import Path
from typing import Any

import pytest
from in_process import client, sent

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.localcloud.catalogue import AccountEntry, Catalogue, OmiEntry
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.resources.image import parse_source, read_image
from packer_plugin_osc_chroot.resources.source_volume import Timeouts, source_volume
from packer_plugin_osc_chroot.resources.volume import VolumeRequest
from packer_plugin_osc_chroot.ui import RecordingUi

VENDOR = {"OSC_ACCESS_KEY": "VENDOR", "OSC_SECRET_KEY": "SECRET"}


def make_foreign(cloud: LocalCloud, mine: str) -> str:
    """A vendor's OMI with another volume; `mine` may launch it, and not use its snapshots."""
    api, token = client(cloud, **VENDOR), CancelToken()
    (snapshot,) = api.read("ReadSnapshots", token=token)["Snapshots"]
    bsu = {"SnapshotId": snapshot["SnapshotId"]}
    made = api.change(
        "CreateImage",
        token=token,
        ImageName="with data",
        RootDeviceName="/dev/sda1",
        BlockDeviceMappings=[
            {"DeviceName": "/dev/sda1", "Bsu": bsu},
            {"DeviceName": "/dev/sdf", "Bsu": bsu},
        ],
    )
    image_id = str(made["Image"]["ImageId"])
    permissions = {"Additions": {"AccountIds": [mine]}}
    api.change("UpdateImage", token=token, ImageId=image_id, PermissionsToLaunch=permissions)
    api.close()
    return image_id


def enter(cloud: LocalCloud, api: Cloud, image: Any, *, carries: bool) -> str:
    source = parse_source(image)
    request = VolumeRequest(cloud.subregion, source.snapshot_id, 1, "gp2")
    volume = source_volume(
        api,
        request,
        source,
        carried=[source.snapshot_id] if carries else [],
        timeouts=Timeouts(volume=10.0, image=10.0),
        token=CancelToken(),
        ui=RecordingUi(),
    )
    with volume as found:
        return found.copy_id


def test_they_are_named_and_nothing_is_copied(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(4096))
    vendor = AccountEntry("vendor", access_key="VENDOR", secret_key="SECRET")
    omi = OmiEntry(id="ami-00000001", file=str(disk), owner="vendor")
    accounts = [AccountEntry("mine", id="111111111111"), vendor]
    with LocalCloud(catalogue=Catalogue(accounts=accounts, omis=[omi])) as cloud:
        api, image_id = client(cloud), make_foreign(cloud, "111111111111")
        image = read_image(api, image_id, token=CancelToken())
        with pytest.raises(BuildError, match="snapshots of its other volumes .*no_device = true"):
            enter(cloud, api, image, carries=True)
        assert len(sent(cloud, "CreateImage")) == 1
        assert enter(cloud, api, image, carries=False)
        api.close()
