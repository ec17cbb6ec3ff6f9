"""The Region's API through osc-sdk-python: resources without disks, errors, record. Needs no root."""

import json
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from conformance import CONFORMANCE
from osc_sdk_python.call import Call

from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.images import TINY_IMAGE_ID
from packer_plugin_osc_chroot.localcloud.latency import Latency
from packer_plugin_osc_chroot.localcloud.server import ACTIONS

Api = Callable[..., Any]


@pytest.fixture
def cloud() -> Iterator[LocalCloud]:
    with LocalCloud() as running:
        yield running
        assert [str(defect) for defect in running.defects] == []


@pytest.fixture
def api(cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> Api:
    return client(cloud, monkeypatch)


def client(cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> Api:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    call = Call(max_retries=0)
    return lambda action, **parameters: call.api(action, **parameters)


def until(read: Callable[[], str], wanted: str) -> None:
    deadline = time.monotonic() + 10
    while (state := read()) != wanted:
        assert time.monotonic() < deadline, f"still {state}"
        time.sleep(0.01)


def refused(api: Api, action: str, **parameters: Any) -> tuple[int, str, str]:
    """Status, code and type of the one error; checks the shape of the answer."""
    with pytest.raises(requests.HTTPError) as caught:
        api(action, **parameters)
    response = caught.value.response
    assert response is not None
    answer = response.json()
    assert set(answer) == {"Errors", "ResponseContext"}
    (error,) = answer["Errors"]
    assert set(error) == {"Code", "Type", "Details"}
    assert re.fullmatch(r"[0-9a-f-]{36}", answer["ResponseContext"]["RequestId"])
    return response.status_code, error["Code"], error["Type"]


def new_volume(api: Api, cloud: LocalCloud, **parameters: Any) -> str:
    asked = {"SubregionName": cloud.subregion, "Size": 1, **parameters}
    volume_id = str(api("CreateVolume", **asked)["Volume"]["VolumeId"])
    until(lambda: volume_state(api, volume_id), "available")
    return volume_id


def volume_state(api: Api, volume_id: str) -> str:
    (volume,) = api("ReadVolumes", Filters={"VolumeIds": [volume_id]})["Volumes"]
    return str(volume["State"])


def new_snapshot(api: Api, volume_id: str, **parameters: Any) -> str:
    made = api("CreateSnapshot", VolumeId=volume_id, **parameters)["Snapshot"]
    assert made["State"] == "in-queue"
    snapshot_id = str(made["SnapshotId"])
    until(lambda: snapshot_view(api, snapshot_id)["State"], "completed")
    return snapshot_id


def snapshot_view(api: Api, snapshot_id: str) -> Any:
    (snapshot,) = api("ReadSnapshots", Filters={"SnapshotIds": [snapshot_id]})["Snapshots"]
    return snapshot


def mapping(snapshot_id: str, **bsu: Any) -> list[dict[str, Any]]:
    return [{"DeviceName": "/dev/sda1", "Bsu": {"SnapshotId": snapshot_id, **bsu}}]


def test_who_and_where(cloud: LocalCloud, api: Api) -> None:
    (vm,) = api("ReadVms", Filters={"VmIds": [cloud.vm_id]})["Vms"]
    assert vm["Placement"]["SubregionName"] == cloud.subregion
    assert [m["DeviceName"] for m in vm["BlockDeviceMappings"]] == ["/dev/sda1"]
    assert api("ReadVms", Filters={"VmIds": ["i-00000000"]})["Vms"] == []
    assert len(api("ReadAccounts")["Accounts"]) == 1
    assert {s["SubregionName"] for s in api("ReadSubregions")["Subregions"]} >= {cloud.subregion}

    def metadata(name: str) -> str:
        return requests.get(f"{cloud.url}/latest/meta-data/{name}", timeout=5).text

    assert metadata("instance-id") == cloud.vm_id
    assert metadata("placement/availability-zone") == cloud.subregion


def test_signatures(cloud: LocalCloud, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{cloud.url}/api/v1"
    assert requests.post(f"{url}/ReadRegions", json={}, timeout=5).status_code == 200
    assert requests.post(f"{url}/ReadVms", json={}, timeout=5).status_code == 401
    monkeypatch.setenv("OSC_SECRET_KEY", "wrong")
    wrong = Call(max_retries=0)
    assert refused(wrong.api, "ReadVms") == (401, "1", "AccessDenied")
    assert api("ReadVms")


def test_life_of_an_image(cloud: LocalCloud, api: Api) -> None:
    volume_id = new_volume(api, cloud, Size=2)
    snapshot_id = new_snapshot(api, volume_id, Description="the root")
    view = snapshot_view(api, snapshot_id)
    assert (view["Progress"], view["VolumeSize"], view["VolumeId"]) == (100, 2, volume_id)
    made = api(
        "CreateImage",
        ImageName="web (1)",
        RootDeviceName="/dev/sda1",
        BlockDeviceMappings=mapping(snapshot_id, VolumeType="gp2"),
    )["Image"]
    image_id = made["ImageId"]
    until(lambda: api("ReadImages", Filters={"ImageIds": [image_id]})["Images"][0]["State"],
          "available")  # fmt: skip
    assert made["BlockDeviceMappings"][0]["Bsu"]["VolumeSize"] == 2
    assert [image.image_id for image in cloud.images()] == [image_id]
    assert refused(api, "DeleteSnapshot", SnapshotId=snapshot_id)[0::2] == (409, "ResourceConflict")
    assert refused(
        api,
        "CreateImage",
        ImageName="web (1)",
        RootDeviceName="/dev/sda1",
        BlockDeviceMappings=mapping(snapshot_id),
    )[0::2] == (409, "ResourceConflict")  # fmt: skip
    assert cloud.leftovers() == [f"volume {volume_id} (available)"]
    api("DeleteVolume", VolumeId=volume_id)
    assert cloud.leftovers() == []
    api("DeleteImage", ImageId=image_id)
    assert cloud.leftovers() == [f"snapshot {snapshot_id} (completed) belongs to no OMI"]
    api("DeleteSnapshot", SnapshotId=snapshot_id)
    until(lambda: str(len(api("ReadSnapshots")["Snapshots"])), "1")


def test_data_goes_from_omi_to_volume_to_omi(cloud: LocalCloud, api: Api) -> None:
    (source,) = api("ReadImages", Filters={"ImageIds": [TINY_IMAGE_ID]})["Images"]
    root = source["BlockDeviceMappings"][0]["Bsu"]["SnapshotId"]
    volume_id = new_volume(api, cloud, SnapshotId=root, Size=3)
    file = cloud.volume_file(volume_id)
    assert file.stat().st_size == 3 * 1024**3
    with open(file, "r+b") as stream:
        stream.seek(2 * 1024**3)
        stream.write(b"new")
    snapshot_id = new_snapshot(api, volume_id)
    with open(cloud.snapshot_file(snapshot_id), "rb") as stream:
        with open(cloud.root_image(TINY_IMAGE_ID), "rb") as original:
            assert stream.read(512) == original.read(512)
        stream.seek(2 * 1024**3)
        assert stream.read(3) == b"new"


@pytest.mark.wrong_requests
def test_bad_requests(cloud: LocalCloud, api: Api) -> None:
    assert refused(api, "CreateVolume", Size=1) == (400, "7000", "MissingParameter")
    subregion = cloud.subregion
    assert refused(api, "CreateVolume", SubregionName=subregion, Foo=1) == (
        400,
        "3001",
        "InvalidParameter",
    )
    assert refused(api, "CreateVolume", SubregionName=subregion, Size="1") == (
        400,
        "4108",
        "InvalidParameterValue",
    )
    assert refused(api, "NoSuchThing")[2] == "InvalidResource"
    assert refused(api, "CreateVms", ImageId="ami-1")[2] == "OperationNotSupported"


def test_bodies_that_cannot_be_read(cloud: LocalCloud) -> None:
    url = f"{cloud.url}/api/v1/ReadRegions"
    for body in (b"{", b"[]", b"\xff", b"x" * 2_000_000):
        response = requests.post(url, data=body, timeout=5)
        assert response.status_code == 400
        assert response.json()["Errors"][0]["Type"] == "InvalidParameterValue"
    host, port = cloud.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /api/v1/ReadRegions HTTP/1.1\r\nHost: x\r\n")
        connection.sendall(b"Content-Length: 100\r\n\r\n{")


def test_an_answer_that_does_not_conform_is_a_defect(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    async def wrong(region: object, account: object, parameters: object) -> Any:
        return {"Vms": [{"VmId": 5}]}

    monkeypatch.setitem(ACTIONS, "ReadVms", wrong)
    with LocalCloud(source_omis={}) as cloud:
        api = client(cloud, monkeypatch)
        assert refused(api, "ReadVms")[0] == 500
        (defect,) = cloud.defects
    assert "the answer to ReadVms does not conform: Vms.0.VmId" in str(defect)
    # Of which every test would hear.
    seen = request.config.stash[CONFORMANCE].problems
    assert seen == [str(defect)]
    seen.clear()


def test_rules_of_volumes(cloud: LocalCloud, api: Api) -> None:
    subregion = cloud.subregion

    def create(**parameters: Any) -> tuple[int, str, str]:
        return refused(api, "CreateVolume", **{"SubregionName": subregion, **parameters})

    assert create()[2] == "MissingParameter"
    assert create(Size=0)[1] == "4078"
    assert create(Size=14902)[1] == "4078"
    assert create(Size=1, SubregionName="eu-west-2z")[1] == "5009"
    assert create(Size=1, SnapshotId="snap-00000000")[1] == "5054"
    assert create(Size=1, VolumeType="ssd")[2] == "InvalidParameterValue"
    assert create(Size=1, Iops=100)[1] == "4029"
    assert create(Size=1, VolumeType="io1", Iops=301)[1] == "4029"
    big = new_snapshot(api, new_volume(api, cloud, Size=2))
    assert create(Size=1, SnapshotId=big)[1] == "4078"
    root_volume = api("ReadVms")["Vms"][0]["BlockDeviceMappings"][0]["Bsu"]["VolumeId"]
    assert refused(api, "DeleteVolume", VolumeId=root_volume)[1:] == ("6007", "InvalidState")
    assert refused(api, "UnlinkVolume", VolumeId=root_volume)[2] == "InvalidState"
    assert refused(api, "DeleteVolume", VolumeId="vol-00000000")[1:] == ("5064", "InvalidResource")


def test_rules_of_images(cloud: LocalCloud, api: Api) -> None:
    snapshot_id = new_snapshot(api, new_volume(api, cloud))

    def create(**parameters: Any) -> str:
        asked = {
            "ImageName": "good name",
            "RootDeviceName": "/dev/sda1",
            "BlockDeviceMappings": mapping(snapshot_id),
            **parameters,
        }
        return refused(api, "CreateImage", **asked)[1]

    assert create(ImageName="x") == "4026"
    assert create(ImageName="a[b]c") == "4026"
    assert create(ImageName="a" * 129) == "4026"
    assert create(RootDeviceName="/dev/xvda") == "4057"
    assert create(BlockDeviceMappings=[]) == "7000"
    assert create(BlockDeviceMappings=mapping("snap-00000000")) == "5054"
    other = [{"DeviceName": "/dev/sdb", "Bsu": {"VolumeSize": 1}}]
    assert create(BlockDeviceMappings=other) == "4057"
    assert create(BlockDeviceMappings=mapping(snapshot_id) + [*other, *other]) == "4011"
    assert create(BlockDeviceMappings=mapping(snapshot_id, VolumeSize=0)) == "4078"
    for bsu, code in (
        ({"Iops": 100}, "4029"),
        ({"VolumeType": "io1"}, "7000"),
        ({"VolumeType": "io1", "Iops": 301}, "4029"),
        ({"VolumeType": "io1", "Iops": 0}, "4029"),
    ):
        assert create(BlockDeviceMappings=mapping(snapshot_id, **bsu)) == code
    assert create(Architecture="arm64")[0] == "4"
    assert cloud.images() == []


@pytest.mark.wrong_requests
def test_dry_run_changes_nothing(cloud: LocalCloud, api: Api) -> None:
    answer = api("CreateVolume", SubregionName=cloud.subregion, Size=1, DryRun=True)
    assert set(answer) == {"ResponseContext"}
    assert refused(api, "CreateVolume", Size=1, DryRun=True)[2] == "MissingParameter"
    assert cloud.leftovers() == []


def test_client_token(cloud: LocalCloud, api: Api) -> None:
    asked = {"SubregionName": cloud.subregion, "Size": 1, "ClientToken": "once"}
    first = api("CreateVolume", **asked)["Volume"]["VolumeId"]
    assert api("CreateVolume", **asked)["Volume"]["VolumeId"] == first
    assert refused(api, "CreateVolume", **{**asked, "Size": 2})[1] == "4091"
    until(lambda: volume_state(api, first), "available")
    assert len(api("ReadVolumes", Filters={"ClientTokens": ["once"]})["Volumes"]) == 1
    snapshot = new_snapshot(api, first, ClientToken="once")
    again = api("CreateSnapshot", VolumeId=first, ClientToken="once")["Snapshot"]
    assert again["SnapshotId"] == snapshot
    api("DeleteVolume", VolumeId=first)
    until(lambda: str(len(api("ReadVolumes")["Volumes"])), "1")
    assert api("CreateVolume", **asked)["Volume"]["VolumeId"] != first


def test_tags(cloud: LocalCloud, api: Api) -> None:
    volume_id = new_volume(api, cloud)
    tags = [{"Key": "Name", "Value": "web"}, {"Key": "build", "Value": "1"}]
    api("CreateTags", ResourceIds=[volume_id, cloud.vm_id], Tags=tags)
    found = api("ReadTags", Filters={"ResourceTypes": ["volume"], "Keys": ["N*"]})["Tags"]
    assert [(t["ResourceId"], t["Value"]) for t in found] == [(volume_id, "web")]
    assert len(api("ReadVolumes", Filters={"Tags": ["build=1"]})["Volumes"]) == 1
    api("DeleteTags", ResourceIds=[volume_id], Tags=[{"Key": "build", "Value": "2"}])
    assert len(api("ReadVolumes", Filters={"TagKeys": ["build"]})["Volumes"]) == 1
    api("DeleteTags", ResourceIds=[volume_id], Tags=[{"Key": "build", "Value": ""}])
    assert api("ReadVolumes", Filters={"TagKeys": ["build"]})["Volumes"] == []
    missing = refused(api, "CreateTags", ResourceIds=["vol-00000000"], Tags=tags)
    assert missing[2] == "InvalidResource"
    too_long = [{"Key": "k" * 256, "Value": ""}]
    assert refused(api, "CreateTags", ResourceIds=[volume_id], Tags=too_long)[1] == "4069"


def test_permissions_and_updates(cloud: LocalCloud, api: Api) -> None:
    snapshot_id = new_snapshot(api, new_volume(api, cloud))
    change = {"Additions": {"AccountIds": ["123456789012"], "GlobalPermission": True}}
    shared = api("UpdateSnapshot", SnapshotId=snapshot_id, PermissionsToCreateVolume=change)
    assert shared["Snapshot"]["PermissionsToCreateVolume"] == {
        "AccountIds": ["123456789012"],
        "GlobalPermission": True,
    }
    removed = api(
        "UpdateImage",
        ImageId=TINY_IMAGE_ID,
        Description="new",
        PermissionsToLaunch={"Removals": {"GlobalPermission": True}},
    )["Image"]
    assert removed["Description"] == "new"
    assert removed["PermissionsToLaunch"]["GlobalPermission"] is False
    both: dict[str, Any] = {"Additions": {}, "Removals": {}}
    asked = {"SnapshotId": snapshot_id, "PermissionsToCreateVolume": both}
    assert refused(api, "UpdateSnapshot", **asked)[2] == "InvalidParameterValue"


def test_states_take_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    latency = Latency(call=0.01, volume=0.3, snapshot=0.5, image=0.2)
    with LocalCloud(latency=latency) as cloud:
        api = client(cloud, monkeypatch)
        asked = {"SubregionName": cloud.subregion, "Size": 1}
        started = time.monotonic()
        volume_id = api("CreateVolume", **asked)["Volume"]["VolumeId"]
        assert volume_state(api, volume_id) == "creating"
        assert refused(api, "DeleteVolume", VolumeId=volume_id)[2] == "InvalidState"
        assert refused(api, "CreateSnapshot", VolumeId=volume_id)[2] == "InvalidState"
        until(lambda: volume_state(api, volume_id), "available")
        assert 0.3 <= time.monotonic() - started < 3
        snapshot_id = api("CreateSnapshot", VolumeId=volume_id)["Snapshot"]["SnapshotId"]
        seen = []
        while (view := snapshot_view(api, snapshot_id))["State"] != "completed":
            seen.append((view["State"], view["Progress"]))
        assert {state for state, _ in seen} == {"in-queue", "pending"}
        assert [progress for _, progress in seen] == sorted(progress for _, progress in seen)
        assert 0 < max(progress for _, progress in seen) < 100
        api("DeleteVolume", VolumeId=volume_id)
    assert cloud.defects == []


def test_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "calls.jsonl"
    with LocalCloud(record=file, source_omis={}) as cloud:
        api = client(cloud, monkeypatch)
        api("ReadVolumes", ResultsPerPage=5)
        refused(api, "DeleteVolume", VolumeId="vol-00000000")
        secret = cloud.environment()["OSC_SECRET_KEY"]
    first, second = [json.loads(line) for line in file.read_text().splitlines()]
    assert first["action"] == "ReadVolumes"
    assert first["parameters"] == {"ResultsPerPage": 5}
    assert (first["status"], second["status"]) == (200, 400)
    assert first["answer"]["Volumes"][0]["State"] == "in-use"
    assert 0 <= first["duration"] < 1
    assert secret not in file.read_text()
    assert [call.action for call in cloud.record] == ["ReadVolumes", "DeleteVolume"]


def test_parameters_of_what_is_not_simulated_are_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "calls.jsonl"
    with LocalCloud(record=file, source_omis={}) as cloud:
        api = client(cloud, monkeypatch)
        for password in ("hunter2", ["hunter2"]):
            found = refused(api, "CheckAuthentication", Login="me", Password=password)
            assert found[2] == "OperationNotSupported"
    assert "hunter2" not in file.read_text()


def test_child_environment(cloud: LocalCloud) -> None:
    base = {
        "PATH": "/bin",
        "OSC_PROFILE": "mine",
        "OSC_ACCESS_KEY": "real",
        "OUTSCALE_OAPI_URL": "https://api.eu-west-2.outscale.com",
        "OSC_CHROOT_PYTHON": "/usr/bin/python3",
        "NO_PROXY": "example.com",
    }
    found = cloud.child_environment(base)
    assert found["OSC_ACCESS_KEY"] == cloud.environment()["OSC_ACCESS_KEY"]
    assert found["OSC_CHROOT_PYTHON"] == "/usr/bin/python3"
    assert found["NO_PROXY"] == "example.com,127.0.0.1"
    assert not {"OSC_PROFILE", "OUTSCALE_OAPI_URL"} & set(found)


def test_commands_do_not_see_the_bundle_s_libraries(
    cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = {"LD_LIBRARY_PATH": "/bundle", "LD_LIBRARY_PATH_ORIG": "/mine"}
    assert cloud.child_environment(base)["LD_LIBRARY_PATH"] == "/bundle"
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert cloud.child_environment(base)["LD_LIBRARY_PATH"] == "/mine"
    assert "LD_LIBRARY_PATH" not in cloud.child_environment({"LD_LIBRARY_PATH": "/bundle"})


def test_nothing_is_left_behind(cloud: LocalCloud, api: Api) -> None:
    volume_id = new_volume(api, cloud)
    file = cloud.volume_file(volume_id)
    assert file.exists()
    cloud.__exit__(None, None, None)
    assert not file.parent.parent.exists()
    assert cloud.leftovers() == [f"volume {volume_id} (available)"]
