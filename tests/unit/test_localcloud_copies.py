"""Copies of snapshots and OMIs, between accounts too; updates of volumes; the VM's state."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conformance import CONFORMANCE
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
from test_localcloud_catalogue import caller
from test_localcloud_hazards import image_state

from packer_plugin_osc_chroot.localcloud import files, saved
from packer_plugin_osc_chroot.localcloud.catalogue import AccountEntry, Catalogue, OmiEntry
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.disks import Disks
from packer_plugin_osc_chroot.localcloud.files import GIB
from packer_plugin_osc_chroot.localcloud.latency import Latency
from packer_plugin_osc_chroot.localcloud.quotas import Quotas
from packer_plugin_osc_chroot.localcloud.trouble import Fate, Trouble

VENDORS = "ami-11111111"
PRIVATE = "ami-22222222"
DATA = b"the vendor's data"


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    """Two accounts; the second has an OMI that the first may use, and one that it may not."""
    disk = tmp_path / "disk.raw"
    disk.write_bytes(DATA + bytes(4096 - len(DATA)))
    return Catalogue(
        accounts=[
            AccountEntry("mine", quotas=Quotas(snapshots=3)),
            AccountEntry("vendor", access_key="VENDOR", secret_key="SECRET"),
        ],
        omis=[
            OmiEntry(
                id=VENDORS,
                file=str(disk),
                name="vendors (1)",
                description="from the vendor",
                owner="vendor",
                shared_with=["mine"],
                date=datetime(2026, 1, 31, tzinfo=UTC),
                tags={"os": "debian"},
            ),
            OmiEntry(id=PRIVATE, file=str(disk), owner="vendor"),
        ],
    )


@pytest.fixture
def cloud(catalogue: Catalogue) -> Iterator[LocalCloud]:
    with LocalCloud(catalogue=catalogue) as running:
        yield running
        assert [str(defect) for defect in running.defects] == []


@pytest.fixture
def api(cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> Api:
    return client(cloud, monkeypatch)


def copied(api: Api, source: str = VENDORS, **parameters: Any) -> Any:
    asked = {"SourceImageId": source, "SourceRegionName": "eu-west-2", "ImageName": "mine now"}
    return api("CreateImage", **{**asked, **parameters})["Image"]


def root_snapshot(api: Api, image_id: str) -> str:
    (image,) = api("ReadImages", Filters={"ImageIds": [image_id]})["Images"]
    return str(image["BlockDeviceMappings"][0]["Bsu"]["SnapshotId"])


# OMIs


def test_a_copy_of_an_omi_is_the_callers_own(cloud: LocalCloud, api: Api) -> None:
    made = copied(api)
    image_id = made["ImageId"]
    assert made["State"] == "pending" and made["AccountAlias"] == "mine"
    assert (made["Description"], made["Tags"]) == ("from the vendor", [])
    assert made["PermissionsToLaunch"] == {"AccountIds": [], "GlobalPermission": False}
    until(lambda: image_state(api, image_id), "available")
    snapshot = snapshot_view(api, root_snapshot(api, image_id))
    assert snapshot["State"] == "completed" and snapshot["AccountAlias"] == "mine"
    assert snapshot["SnapshotId"] != root_snapshot(api, VENDORS)
    with open(cloud.root_image(image_id), "rb") as stream:
        assert stream.read(len(DATA)) == DATA
    # Both are the caller's to remove, one after the other.
    assert refused(api, "DeleteSnapshot", SnapshotId=snapshot["SnapshotId"])[0] == 409
    api("DeleteImage", ImageId=image_id)
    api("DeleteSnapshot", SnapshotId=snapshot["SnapshotId"])


def test_a_copy_takes_what_the_call_gives(api: Api) -> None:
    made = copied(api, Description="new", BootModes=["uefi"], ProductCodes=["0002"])
    assert (made["Description"], made["BootModes"]) == ("new", ["uefi"])
    assert made["ProductCodes"] == ["0002"]


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"SourceImageId": PRIVATE}, "5023"),
        ({"SourceRegionName": "us-east-2"}, "4047"),
        ({"SourceRegionName": ""}, "7000"),
        ({"ImageName": ""}, "7000"),
        ({"ImageName": "x"}, "4026"),
        ({"RootDeviceName": "/dev/sda1"}, "4046"),
        ({"BootModes": []}, "4047"),
        ({"ProductCodes": ["0001", "0001"]}, "4047"),
        ({"FileLocation": "https://example.com/manifest"}, "8000"),
        ({"VmId": "i-12345678"}, "8000"),
    ],
)
def test_what_cannot_be_copied(api: Api, parameters: dict[str, Any], code: str) -> None:
    asked = {"SourceImageId": VENDORS, "SourceRegionName": "eu-west-2", "ImageName": "mine now"}
    assert refused(api, "CreateImage", **{**asked, **parameters})[1] == code
    assert len(api("ReadImages")["Images"]) == 1


def test_a_copy_counts_for_the_quota_of_snapshots(api: Api) -> None:
    for name in ("one", "two", "three"):
        copied(api, ImageName=name)
    assert refused(
        api,
        "CreateImage",
        SourceImageId=VENDORS,
        SourceRegionName="eu-west-2",
        ImageName="four",
    )[1] == "10026"  # fmt: skip


def test_an_omi_is_shared_and_taken_back(cloud: LocalCloud, api: Api) -> None:
    vendor = caller(cloud, keys=("VENDOR", "SECRET"))
    mine = api("ReadAccounts")["Accounts"][0]["AccountId"]
    only_mine = {"AccountIds": [mine]}
    assert api("ReadImages", Filters={"ImageIds": [PRIVATE]})["Images"] == []

    def update(**change: Any) -> Any:
        return vendor.api("UpdateImage", ImageId=PRIVATE, PermissionsToLaunch=change)

    update(Additions=only_mine)
    shared = {"PermissionsToLaunchAccountIds": [mine], "ImageIds": [PRIVATE]}
    (found,) = api("ReadImages", Filters=shared)["Images"]
    assert found["PermissionsToLaunch"]["AccountIds"] == [mine]
    copied(api, source=PRIVATE)
    assert refused(api, "UpdateImage", ImageId=PRIVATE, Description="mine")[2] == "AccessDenied"
    update(Removals=only_mine)
    assert api("ReadImages", Filters={"ImageIds": [PRIVATE]})["Images"] == []
    update(Additions={"GlobalPermission": True})
    public = {"PermissionsToLaunchGlobalPermission": True}
    assert [i["ImageId"] for i in api("ReadImages", Filters=public)["Images"]] == [PRIVATE]
    with pytest.raises(Exception, match="code = 4047"):
        update(Additions={"AccountIds": ["me"]})


def test_a_copy_takes_its_time_and_is_on_the_critical_path(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalCloud(catalogue=catalogue, latency=Latency(copy=0.4)) as cloud:
        api = client(cloud, monkeypatch)
        image_id = copied(api)["ImageId"]
        source = root_snapshot(api, image_id)
        assert snapshot_view(api, source)["State"] in ("in-queue", "pending")
        asked = {"SubregionName": cloud.subregion, "SnapshotId": source}
        assert refused(api, "CreateVolume", **asked)[2] == "InvalidState"
        until(lambda: image_state(api, image_id), "available")
        assert snapshot_view(api, source)["State"] == "completed"
        volume_id = api("CreateVolume", **asked)["Volume"]["VolumeId"]
        until(lambda: api("ReadVolumes", Filters={"VolumeIds": [volume_id]})["Volumes"][0]["State"],
              "available")  # fmt: skip
        snapshot_id = new_snapshot(api, volume_id)
        made = api(
            "CreateImage",
            ImageName="made",
            RootDeviceName="/dev/sda1",
            BlockDeviceMappings=mapping(snapshot_id),
        )["Image"]["ImageId"]
        until(lambda: image_state(api, made), "available")
        steps = cloud.critical_path(made)
        assert [step.what for step in steps] == [
            "copy of the source OMI",
            "volume",
            "snapshot",
            "OMI",
        ]
        assert 0.4 <= steps[0].seconds < 3


def test_a_copy_that_fails(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    trouble = Trouble(
        fates=[
            Fate(action="CreateImage", end="error"),
            Fate(action="CreateSnapshot", end="error"),
        ]
    )
    with LocalCloud(catalogue=catalogue, trouble=trouble) as cloud:
        api = client(cloud, monkeypatch)
        image_id = copied(api)["ImageId"]
        until(lambda: image_state(api, image_id), "failed")
        asked = {"SourceSnapshotId": root_snapshot(api, VENDORS), "SourceRegionName": "eu-west-2"}
        made = api("CreateSnapshot", **asked)["Snapshot"]["SnapshotId"]
        until(lambda: snapshot_view(api, made)["State"], "error")


# Snapshots


def test_a_copy_of_a_snapshot(cloud: LocalCloud, api: Api) -> None:
    source = root_snapshot(api, VENDORS)
    asked = {
        "SourceSnapshotId": source,
        "SourceRegionName": "eu-west-2",
        "Description": "mine now",
        "ClientToken": "once",
    }
    made = api("CreateSnapshot", **asked)["Snapshot"]
    assert api("CreateSnapshot", **asked)["Snapshot"]["SnapshotId"] == made["SnapshotId"]
    assert (made["State"], made["Description"]) == ("in-queue", "mine now")
    assert made["AccountAlias"] == "mine"
    until(lambda: snapshot_view(api, made["SnapshotId"])["State"], "completed")
    assert cloud.snapshot_file(made["SnapshotId"]).read_bytes().startswith(DATA)
    private = {"SourceSnapshotId": "snap-00000000", "SourceRegionName": "eu-west-2"}
    assert refused(api, "CreateSnapshot", **private)[1] == "5054"
    for name in ("SourceRegionName", "SourceSnapshotId"):
        rest = {key: value for key, value in asked.items() if key != name}
        assert refused(api, "CreateSnapshot", **{**rest, "ClientToken": name})[1] == "7000"
    both = {**asked, "ClientToken": "both", "VolumeId": "vol-12345678"}
    assert refused(api, "CreateSnapshot", **both)[1] == "4046"
    assert refused(api, "CreateSnapshot", FileLocation="https://example.com")[1] == "8000"
    assert refused(api, "CreateSnapshot")[1] == "7000"


def test_a_snapshot_is_shared(cloud: LocalCloud, api: Api) -> None:
    vendor = caller(cloud, keys=("VENDOR", "SECRET"))
    snapshot_id = new_snapshot(api, new_volume(api, cloud))
    seen = {"Filters": {"SnapshotIds": [snapshot_id]}}
    assert vendor.api("ReadSnapshots", **seen)["Snapshots"] == []
    everybody = {"Additions": {"GlobalPermission": True}}
    api("UpdateSnapshot", SnapshotId=snapshot_id, PermissionsToCreateVolume=everybody)
    assert len(vendor.api("ReadSnapshots", **seen)["Snapshots"]) == 1
    vendor.api("CreateVolume", SubregionName=cloud.subregion, SnapshotId=snapshot_id)
    vendor.api("CreateSnapshot", SourceSnapshotId=snapshot_id, SourceRegionName="eu-west-2")
    with pytest.raises(Exception, match="code_type = AccessDenied"):
        vendor.api("UpdateSnapshot", SnapshotId=snapshot_id, PermissionsToCreateVolume=everybody)
    nobody = {"Removals": {"GlobalPermission": True}}
    api("UpdateSnapshot", SnapshotId=snapshot_id, PermissionsToCreateVolume=nobody)
    assert vendor.api("ReadSnapshots", **seen)["Snapshots"] == []


# Volumes, and the VM


def test_a_volume_grows(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalCloud(catalogue=catalogue, latency=Latency(update_volume=0.3)) as cloud:
        api = client(cloud, monkeypatch)
        volume_id = new_volume(api, cloud)
        shown = api("UpdateVolume", VolumeId=volume_id, Size=3, VolumeType="io1", Iops=200)[
            "Volume"
        ]
        assert (shown["Size"], shown["VolumeType"], shown["State"]) == (1, "standard", "available")
        task_id = shown["TaskId"]
        assert refused(api, "UpdateVolume", VolumeId=volume_id, Size=4)[2] == "InvalidState"
        assert refused(api, "DeleteVolume", VolumeId=volume_id)[2] == "InvalidState"

        def task() -> Any:
            wanted = {"Filters": {"TaskIds": [task_id], "VolumeIds": [volume_id]}}
            return api("ReadVolumeUpdateTasks", **wanted)["VolumeUpdateTasks"][0]

        assert task()["State"] in ("pending", "active")
        until(lambda: task()["State"], "completed")
        assert task()["VolumeUpdate"] == {
            "Origin": {"Iops": 100, "Size": 1, "VolumeType": "standard"},
            "Target": {"Iops": 200, "Size": 3, "VolumeType": "io1"},
        }
        (after,) = api("ReadVolumes", Filters={"VolumeIds": [volume_id]})["Volumes"]
        assert (after["Size"], after["VolumeType"], after["Iops"]) == (3, "io1", 200)
        assert "TaskId" not in after
        assert cloud.volume_file(volume_id).stat().st_size == 3 * GIB
        assert refused(api, "UpdateVolume", VolumeId=volume_id, Size=2)[1] == "4078"
        assert refused(api, "UpdateVolume", VolumeId=volume_id)[1] == "7000"
        assert refused(api, "UpdateVolume", VolumeId=volume_id, VolumeType="x")[0] == 400
        api("UpdateVolume", VolumeId=volume_id, Size=4)
        newest = {"VolumeIds": [volume_id]}
        until(
            lambda: api("ReadVolumeUpdateTasks", Filters=newest)["VolumeUpdateTasks"][-1]["State"],
            "completed",
        )
        api("DeleteVolume", VolumeId=volume_id)


def test_an_update_that_fails(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    trouble = Trouble(fates=[Fate(action="UpdateVolume", end="error")])
    with LocalCloud(catalogue=catalogue, trouble=trouble) as cloud:
        api = client(cloud, monkeypatch)
        volume_id = new_volume(api, cloud)
        api("UpdateVolume", VolumeId=volume_id, Size=2)
        until(lambda: api("ReadVolumeUpdateTasks")["VolumeUpdateTasks"][0]["State"], "failed")
        (after,) = api("ReadVolumes", Filters={"VolumeIds": [volume_id]})["Volumes"]
        assert after["Size"] == 1


def test_the_state_of_the_vm(cloud: LocalCloud, api: Api) -> None:
    shown = {
        "MaintenanceEvents": [],
        "SubregionName": cloud.subregion,
        "VmId": cloud.vm_id,
        "VmState": "running",
    }
    assert api("ReadVmsState", AllVms=True)["VmStates"] == [shown]
    assert api("ReadVmsState", Filters={"VmStates": ["stopped"]})["VmStates"] == []
    assert api("ReadVmsState", Filters={"MaintenanceEventCodes": ["*"]})["VmStates"] == []
    vendor = caller(cloud, keys=("VENDOR", "SECRET"))
    assert vendor.api("ReadVmsState")["VmStates"] == []


def test_regions_are_read_without_a_key(cloud: LocalCloud, api: Api) -> None:
    (region,) = api("ReadRegions")["Regions"]
    assert region["RegionName"] == "eu-west-2"
    (subregion,) = api("ReadSubregions", Filters={"SubregionNames": [cloud.subregion]})[
        "Subregions"
    ]
    assert (subregion["State"], subregion["RegionName"]) == ("available", "eu-west-2")


# In a Region that is kept


def test_what_is_on_its_way_goes_on_in_the_next_process(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "region"
    slow = Latency(update_volume=30, copy=30)
    with LocalCloud(catalogue=catalogue, state=directory, latency=slow) as cloud:
        api = client(cloud, monkeypatch)
        volume_id = new_volume(api, cloud)
        task_id = api("UpdateVolume", VolumeId=volume_id, Size=2)["Volume"]["TaskId"]
        image_id = copied(api)["ImageId"]
    with LocalCloud(state=directory) as cloud:
        api = client(cloud, monkeypatch)
        task = {"Filters": {"TaskIds": [task_id]}}
        until(
            lambda: api("ReadVolumeUpdateTasks", **task)["VolumeUpdateTasks"][0]["State"],
            "completed",
        )
        assert cloud.volume_file(volume_id).stat().st_size == 2 * GIB
        until(lambda: image_state(api, image_id), "available")
        with open(cloud.root_image(image_id), "rb") as stream:
            assert stream.read(len(DATA)) == DATA
        assert cloud.defects == []


def test_what_cannot_be_had_back_is_told(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "region"
    # Source images stay where they are, whatever the filesystem can do.
    monkeypatch.setattr(files, "try_clone", lambda *_: False)
    with LocalCloud(catalogue=catalogue, state=directory) as cloud:
        api = client(cloud, monkeypatch)
        volume_id = new_volume(api, cloud)
        cloud.volume_file(volume_id).unlink()
        disk = cloud.root_image(VENDORS)
        disk.unlink()
    said: list[str] = []
    with LocalCloud(state=directory, tell=said.append) as cloud:
        (volume,) = client(cloud, monkeypatch)("ReadVolumes", Filters={"VolumeIds": [volume_id]})[
            "Volumes"
        ]
        assert volume["State"] == "error"
    *snapshots, last = said
    assert (
        last == f"not brought back: volume {volume_id}: its data is missing, it is in state error"
    )
    # Both OMIs are made of it.
    assert [f"{disk} is missing" in line for line in snapshots] == [True, True]


def test_an_omi_without_its_data_is_not_exported(cloud: LocalCloud, api: Api) -> None:
    image = copied(api)
    until(lambda: image_state(api, image["ImageId"]), "available")
    cloud.root_image(image["ImageId"]).unlink()
    with pytest.raises(LookupError, match=f"{image['ImageId']} is not there: it is available"):
        cloud.root_image(image["ImageId"])


def test_a_change_that_cannot_be_saved_is_a_defect(
    catalogue: Catalogue,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    directory = tmp_path / "region"
    with LocalCloud(catalogue=catalogue, state=directory, latency=Latency(volume=0.2)) as cloud:
        api = client(cloud, monkeypatch)
        volume_id = api("CreateVolume", SubregionName=cloud.subregion, Size=1)["Volume"]["VolumeId"]
        with monkeypatch.context() as full:
            full.setattr(saved, "write", lambda *_: os.write(-1, b""))
            volumes = {"Filters": {"VolumeIds": [volume_id]}}
            until(lambda: api("ReadVolumes", **volumes)["Volumes"][0]["State"], "available")
            until(lambda: str(len(cloud.defects)), "1")
    (defect,) = cloud.defects
    assert "what changed could not be saved: [Errno 9]" in str(defect)
    # Of which every test would hear.
    request.config.stash[CONFORMANCE].problems.clear()


def test_a_snapshot_that_a_volume_is_being_made_from_can_be_deleted(
    cloud: LocalCloud, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot_id = new_snapshot(api, new_volume(api, cloud))
    create_volume = Disks.create_volume

    def late(*args: Any, **kwargs: Any) -> None:
        time.sleep(0.3)
        create_volume(*args, **kwargs)

    monkeypatch.setattr(Disks, "create_volume", late)
    asked = {"SubregionName": cloud.subregion, "SnapshotId": snapshot_id}
    volume_id = api("CreateVolume", **asked)["Volume"]["VolumeId"]
    api("DeleteSnapshot", SnapshotId=snapshot_id)
    volumes = {"Filters": {"VolumeIds": [volume_id]}}
    until(lambda: api("ReadVolumes", **volumes)["Volumes"][0]["State"], "available")
    snapshots = {"Filters": {"SnapshotIds": [snapshot_id]}}
    until(lambda: str(len(api("ReadSnapshots", **snapshots)["Snapshots"])), "0")
