"""What `assumptions.py` says beyond what the tests of each action show. Whoever changes it there finds
here what was relied on."""

from collections.abc import Iterator
from typing import Any

import pytest
from test_localcloud_api import (
    Api,
    client,
    mapping,
    new_snapshot,
    new_volume,
    refused,
    snapshot_view,
    until,
)

from packer_plugin_osc_chroot.localcloud import assumptions
from packer_plugin_osc_chroot.localcloud.catalogue import AccountEntry, Catalogue
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.images import TINY_IMAGE_ID
from packer_plugin_osc_chroot.localcloud.latency import Latency
from packer_plugin_osc_chroot.localcloud.quotas import Quotas


@pytest.fixture
def cloud() -> Iterator[LocalCloud]:
    with LocalCloud() as running:
        yield running
        assert running.defects == []


@pytest.fixture
def api(cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> Api:
    return client(cloud, monkeypatch)


def new_image(api: Api, snapshot_id: str, **parameters: Any) -> Any:
    asked = {
        "ImageName": "made",
        "RootDeviceName": "/dev/sda1",
        "BlockDeviceMappings": mapping(snapshot_id),
        **parameters,
    }
    return api("CreateImage", **asked)["Image"]


def test_a_snapshot_on_its_way_holds_up_its_use_and_not_its_volume(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with LocalCloud(latency=Latency(snapshot=1.0)) as cloud:
        api = client(cloud, monkeypatch)
        volume_id = new_volume(api, cloud)
        snapshot_id = api("CreateSnapshot", VolumeId=volume_id)["Snapshot"]["SnapshotId"]
        states = [snapshot_view(api, snapshot_id)["State"]]
        until(lambda: str(snapshot_view(api, snapshot_id)["State"]), "pending")
        asked = {"SubregionName": cloud.subregion, "SnapshotId": snapshot_id}
        assert refused(api, "CreateVolume", **asked)[0] == 409
        image = {"ImageName": "made", "RootDeviceName": "/dev/sda1"}
        root = mapping(snapshot_id)
        assert refused(api, "CreateImage", **image, BlockDeviceMappings=root)[0] == 409
        api("DeleteVolume", VolumeId=volume_id)
        until(lambda: str(snapshot_view(api, snapshot_id)["State"]), "completed")
        assert states == ["in-queue"]
        assert cloud.defects == []


def test_a_quota_counts_what_is_being_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    # The VM's own volume counts.
    mine = AccountEntry("mine", quotas=Quotas(volumes=2))
    latency = Latency(delete_volume=1.0)
    with LocalCloud(catalogue=Catalogue(accounts=[mine]), latency=latency) as cloud:
        api = client(cloud, monkeypatch)
        api("DeleteVolume", VolumeId=new_volume(api, cloud))
        asked = {"SubregionName": cloud.subregion, "Size": 1}
        assert refused(api, "CreateVolume", **asked)[1] == "10018"


def test_volumes_without_provisioned_iops_show_a_figure(cloud: LocalCloud, api: Api) -> None:
    for volume_type in assumptions.VOLUME_TYPES[:2]:
        new_volume(api, cloud, VolumeType=volume_type)
    shown = [each["Iops"] for each in api("ReadVolumes")["Volumes"]]
    assert shown == [assumptions.DEFAULT_IOPS] * 3


def test_an_omi_needs_a_name_and_may_be_i386(cloud: LocalCloud, api: Api) -> None:
    snapshot_id = new_snapshot(api, new_volume(api, cloud))
    asked = {"RootDeviceName": "/dev/sda1", "BlockDeviceMappings": mapping(snapshot_id)}
    assert refused(api, "CreateImage", **asked)[1:] == ("7000", "MissingParameter")
    assert new_image(api, snapshot_id, Architecture="i386")["Architecture"] == "i386"


@pytest.mark.parametrize("name", ["ephemeral", "disk0", ""])
def test_virtual_devices_are_called_ephemeral(cloud: LocalCloud, api: Api, name: str) -> None:
    snapshot_id = new_snapshot(api, new_volume(api, cloud))

    def mapped(virtual: str) -> list[dict[str, Any]]:
        return [*mapping(snapshot_id), {"DeviceName": "/dev/sdb", "VirtualDeviceName": virtual}]

    asked = {"ImageName": "made", "RootDeviceName": "/dev/sda1"}
    assert refused(api, "CreateImage", **asked, BlockDeviceMappings=mapped(name))[0] == 400
    new_image(api, snapshot_id, BlockDeviceMappings=mapped("ephemeral0"))


def test_values_twice_are_refused(cloud: LocalCloud, api: Api) -> None:
    snapshot_id = new_snapshot(api, new_volume(api, cloud))
    asked = {
        "ImageName": "made",
        "RootDeviceName": "/dev/sda1",
        "BlockDeviceMappings": mapping(snapshot_id),
    }
    twice: list[dict[str, Any]] = [
        {"BootModes": []},
        {"BootModes": ["uefi", "uefi"]},
        {"ProductCodes": ["0001", "0001"]},
    ]
    for values in twice:
        assert refused(api, "CreateImage", **asked, **values)[0] == 400
    assert new_image(api, snapshot_id, BootModes=["uefi"])["BootModes"] == ["uefi"]


@pytest.mark.parametrize("account_id", ["12345678901", "1234567890123", "12345678901a"])
def test_account_ids_have_twelve_digits(api: Api, account_id: str) -> None:
    def share(account: str) -> dict[str, Any]:
        change = {"Additions": {"AccountIds": [account]}}
        return {"ImageId": TINY_IMAGE_ID, "PermissionsToLaunch": change}

    assert refused(api, "UpdateImage", **share(account_id))[0] == 400
    # Whether it exists is not looked at.
    api("UpdateImage", **share("000000000000"))


def test_a_tag_written_again_gets_the_new_value(cloud: LocalCloud, api: Api) -> None:
    volume_id = new_volume(api, cloud)
    for value in ("old", "new"):
        api("CreateTags", ResourceIds=[volume_id], Tags=[{"Key": "stage", "Value": value}])
    assert [tag["Value"] for tag in api("ReadTags")["Tags"]] == ["new"]
    for tag in ({"Key": "", "Value": "x"}, {"Key": "long", "Value": "v" * 256}):
        assert refused(api, "CreateTags", ResourceIds=[volume_id], Tags=[tag])[0] == 400


def test_the_vm_always_runs(cloud: LocalCloud, api: Api) -> None:
    (vm,) = api("ReadVms")["Vms"]
    assert vm["State"] == assumptions.VM_STATE
    assert {each["SubregionName"] for each in api("ReadSubregions")["Subregions"]} == set(
        assumptions.SUBREGION_NAMES
    )
