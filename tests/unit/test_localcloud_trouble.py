"""Trouble on demand: stale reads, refusals, spoilt answers, missing permissions. Needs no root."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import requests
from osc_sdk_python.call import Call

from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.images import TINY_IMAGE_ID
from packer_plugin_osc_chroot.localcloud.latency import Latency
from packer_plugin_osc_chroot.localcloud.trouble import Fault, FaultKind, Trouble

Api = Callable[..., Any]
Troubled = Callable[..., tuple[LocalCloud, Api]]
GOOD_DAY = Latency()


@pytest.fixture
def troubled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Troubled]:
    """Starts a Region with the given trouble, and a client of it that tries each call once."""
    with ExitStack() as running:

        def start(*, latency: Latency = GOOD_DAY, **trouble: Any) -> tuple[LocalCloud, Api]:
            cloud = LocalCloud(latency=latency, trouble=Trouble(**trouble))
            running.callback(lambda: check_defects(cloud))
            running.enter_context(cloud)
            for name, value in cloud.environment().items():
                monkeypatch.setenv(name, value)
            call = Call(max_retries=0)
            return cloud, lambda action, **parameters: call.api(action, **parameters)

        yield start


def check_defects(cloud: LocalCloud) -> None:
    assert [str(defect) for defect in cloud.defects] == []


def refused(api: Api, action: str, **parameters: Any) -> tuple[int, str, str]:
    """Status, code and type of the one error."""
    with pytest.raises(requests.HTTPError) as caught:
        api(action, **parameters)
    response = caught.value.response
    assert response is not None
    (error,) = response.json()["Errors"]
    return response.status_code, error["Code"], error["Type"]


def wait(condition: Callable[[], bool]) -> float:
    """The seconds until `condition` holds."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < 10
        time.sleep(0.01)
    return time.monotonic() - started


def new_volume(api: Api, cloud: LocalCloud) -> str:
    made = api("CreateVolume", SubregionName=cloud.subregion, Size=1)["Volume"]
    volume_id = str(made["VolumeId"])
    wait(lambda: states(api, volume_id) == ["available"])
    return volume_id


def states(api: Api, volume_id: str) -> list[str]:
    found = api("ReadVolumes", Filters={"VolumeIds": [volume_id]})["Volumes"]
    return [volume["State"] for volume in found]


def volumes(cloud: LocalCloud) -> list[str]:
    return [text for text in cloud.leftovers() if text.startswith("volume")]


# Stale reads


def test_new_and_deleted_resources_show_late(troubled: Troubled) -> None:
    cloud, api = troubled(stale_reads=1.0)
    images = {"ImageIds": [TINY_IMAGE_ID]}
    assert len(api("ReadImages", Filters=images)["Images"]) == 1
    volume_id = api("CreateVolume", SubregionName=cloud.subregion, Size=1)["Volume"]["VolumeId"]
    assert states(api, volume_id) == []
    assert wait(lambda: states(api, volume_id) == ["available"]) > 0.3
    api("DeleteVolume", VolumeId=volume_id)
    wait(lambda: volumes(cloud) == [])
    assert states(api, volume_id) == ["available"]
    assert wait(lambda: states(api, volume_id) == []) > 0.3


def test_changes_in_place_show_late(troubled: Troubled) -> None:
    cloud, api = troubled(stale_reads=1.0)
    api("CreateTags", ResourceIds=[cloud.vm_id], Tags=[{"Key": "Name", "Value": "web"}])
    change = {"Additions": {"GlobalPermission": True}}
    api("UpdateImage", ImageId=TINY_IMAGE_ID, Description="new", PermissionsToLaunch=change)

    def image() -> Any:
        (found,) = api("ReadImages", Filters={"ImageIds": [TINY_IMAGE_ID]})["Images"]
        return found

    assert api("ReadTags")["Tags"] == []
    assert api("ReadVms")["Vms"][0]["Tags"] == []
    assert image()["Description"] != "new"
    assert image()["PermissionsToLaunch"]["GlobalPermission"] is False
    wait(lambda: len(api("ReadTags")["Tags"]) == 1)
    wait(lambda: bool(image()["PermissionsToLaunch"]["GlobalPermission"]))
    assert image()["Description"] == "new"


def test_old_states_show(troubled: Troubled) -> None:
    cloud, api = troubled(stale_reads=1.0, latency=Latency(snapshot=1.0))
    made = api("CreateSnapshot", VolumeId=new_volume(api, cloud))["Snapshot"]
    snapshot_id = made["SnapshotId"]

    def state() -> list[str]:
        found = api("ReadSnapshots", Filters={"SnapshotIds": [snapshot_id]})["Snapshots"]
        return [snapshot["State"] for snapshot in found]

    wait(lambda: cloud.snapshots()[0].state == "completed")
    assert state() != ["completed"]
    wait(lambda: state() == ["pending"])
    wait(lambda: state() == ["completed"])


# Refusals


def test_a_volume_may_need_its_snapshot_to_be_deleted(troubled: Troubled) -> None:
    cloud, api = troubled(delete_needs_snapshot=True, latency=Latency(snapshot=0.4))
    volume_id = new_volume(api, cloud)
    api("CreateSnapshot", VolumeId=volume_id)
    assert refused(api, "DeleteVolume", VolumeId=volume_id) == (409, "6007", "InvalidState")
    wait(lambda: cloud.snapshots()[0].state == "completed")
    api("DeleteVolume", VolumeId=volume_id)


@pytest.mark.parametrize("name", ["/dev/xvdf", "/dev/sdf"])
def test_taken_names(troubled: Troubled, name: str) -> None:
    cloud, api = troubled(taken_names=[name])
    asked = {"VolumeId": new_volume(api, cloud), "VmId": cloud.vm_id}
    for device in ("/dev/xvdf", "/dev/sdf"):
        refusal = refused(api, "LinkVolume", DeviceName=device, **asked)
        assert refusal == (409, "9004", "ResourceConflict")
    mappings = api("ReadVms")["Vms"][0]["BlockDeviceMappings"]
    assert [mapping["DeviceName"] for mapping in mappings] == ["/dev/sda1"]


def test_missing_permission(troubled: Troubled) -> None:
    cloud, api = troubled(forbidden=["CreateVolume"])
    denied = (401, "1", "AccessDenied")
    asked = {"SubregionName": cloud.subregion, "Size": 1}
    assert refused(api, "CreateVolume", **asked) == denied
    assert refused(api, "CreateVolume", DryRun=True, **asked) == denied
    assert api("ReadVolumes")["Volumes"]
    assert volumes(cloud) == []


# Spoilt answers


@pytest.mark.parametrize(
    ("kind", "refusal"),
    [
        ("503", (503, "6", "ErrorOperationThrottledWholePlatform")),
        ("429", (429, "24", "ErrorOperationThrottledPerAccount")),
        ("429-call", (429, "25", "ErrorOperationThrottledPerCall")),
        ("500", (500, "2000", "InternalError")),
    ],
)
@pytest.mark.parametrize("after", [False, True])
def test_errors(
    troubled: Troubled, kind: FaultKind, refusal: tuple[int, str, str], after: bool
) -> None:
    cloud, api = troubled(faults=[Fault(action="CreateVolume", kind=kind, after=after)])
    asked = {"SubregionName": cloud.subregion, "Size": 1}
    assert refused(api, "CreateVolume", **asked) == refusal
    assert len(volumes(cloud)) == after
    api("CreateVolume", **asked)
    assert len(volumes(cloud)) == after + 1
    assert [call.status for call in cloud.record] == [refusal[0], 200]


@pytest.mark.parametrize("after", [False, True])
def test_reset(troubled: Troubled, after: bool) -> None:
    cloud, api = troubled(faults=[Fault(action="CreateVolume", kind="reset", after=after)])
    asked = {"SubregionName": cloud.subregion, "Size": 1}
    with pytest.raises(requests.ConnectionError, match="reset"):
        api("CreateVolume", **asked)
    assert len(volumes(cloud)) == after
    api("CreateVolume", **asked)
    assert [(call.status, bool(call.answer)) for call in cloud.record] == [(0, False), (200, True)]


@pytest.mark.parametrize("after", [False, True])
def test_garbage(troubled: Troubled, after: bool) -> None:
    cloud, api = troubled(faults=[Fault(action="CreateVolume", kind="garbage", after=after)])
    with pytest.raises(requests.JSONDecodeError):
        api("CreateVolume", SubregionName=cloud.subregion, Size=1)
    assert len(volumes(cloud)) == after
    assert [(call.status, call.answer) for call in cloud.record] == [(200, {})]


@pytest.mark.wrong_requests
def test_which_calls_are_spoilt(troubled: Troubled) -> None:
    cloud, api = troubled(
        faults=[
            Fault(action="ReadVolumes", kind="503", nth=2, count=2),
            Fault(action="ReadImages", kind="500", nth=0),
        ]
    )
    for action in ("ReadVolumes", "ReadImages"):
        for _ in range(5):
            # Neither of these counts.
            api(action, DryRun=True)
            assert refused(api, action, Filters=1)[0] == 400
            try:
                api(action)
            except requests.HTTPError:
                pass
    seen = {
        action: [
            call.status for call in cloud.record if (call.action, call.parameters) == (action, {})
        ]
        for action in ("ReadVolumes", "ReadImages")
    }
    assert seen == {"ReadVolumes": [200, 503, 503, 200, 200], "ReadImages": [500] * 5}


def test_an_answer_is_spoilt_where_the_action_was_refused(troubled: Troubled) -> None:
    _, api = troubled(faults=[Fault(action="DeleteVolume", kind="500", after=True)])
    assert refused(api, "DeleteVolume", VolumeId="vol-00000000")[0] == 500
    assert refused(api, "DeleteVolume", VolumeId="vol-00000000")[0] == 400


# Trouble that cannot be


def test_wrong_trouble() -> None:
    unknown: Any = "502"
    with pytest.raises(ValueError, match="502.*garbage"):
        Fault(action="ReadVms", kind=unknown)
    with pytest.raises(ValueError, match="count 0"):
        Fault(action="ReadVms", kind="500", count=0)
    with pytest.raises(ValueError, match="stale_reads is -1"):
        Trouble(stale_reads=-1)
    for trouble in (
        Trouble(forbidden=["ReadVm"]),
        Trouble(faults=[Fault(action="ReadVm", kind="500")]),
    ):
        with pytest.raises(ValueError, match="ReadVm:"), LocalCloud(trouble=trouble):
            pass
