"""Trouble that counts and times: rates, refusals, fates, slow answers; trouble files; latencies."""

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from osc_sdk_python.call import Call
from test_localcloud_trouble import Api, new_volume, refused, states, troubled, wait

from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.critical_path import describe
from packer_plugin_osc_chroot.localcloud.errors import ApiError
from packer_plugin_osc_chroot.localcloud.hazards import Hazards
from packer_plugin_osc_chroot.localcloud.images import TINY_IMAGE_ID
from packer_plugin_osc_chroot.localcloud.latency import Latency
from packer_plugin_osc_chroot.localcloud.toml_file import FileError
from packer_plugin_osc_chroot.localcloud.trouble import (
    Fate,
    Fault,
    Rate,
    Refusal,
    Trouble,
    load_trouble,
)

__all__ = ["troubled"]
Troubled = Callable[..., tuple[LocalCloud, Api]]


def snapshot_state(api: Api, snapshot_id: str) -> str:
    (snapshot,) = api("ReadSnapshots", Filters={"SnapshotIds": [snapshot_id]})["Snapshots"]
    return str(snapshot["State"])


def new_snapshot(api: Api, volume_id: str) -> str:
    return str(api("CreateSnapshot", VolumeId=volume_id)["Snapshot"]["SnapshotId"])


def new_image(api: Api, snapshot_id: str, name: str = "made") -> str:
    root = {"DeviceName": "/dev/sda1", "Bsu": {"SnapshotId": snapshot_id}}
    made = api(
        "CreateImage", ImageName=name, RootDeviceName="/dev/sda1", BlockDeviceMappings=[root]
    )
    return str(made["Image"]["ImageId"])


def image_state(api: Api, image_id: str) -> str:
    (image,) = api("ReadImages", Filters={"ImageIds": [image_id]})["Images"]
    return str(image["State"])


# Rates


@pytest.mark.parametrize(
    ("per", "status", "code"), [("platform", 503, "6"), ("account", 429, "24"), ("call", 429, "25")]
)
def test_too_many_calls_are_throttled(troubled: Troubled, per: Any, status: int, code: str) -> None:
    _, api = troubled(rates=[Rate(per=per, calls_per_second=1, burst=2)])
    api("ReadVms")
    api("ReadVms")
    assert refused(api, "ReadVms")[:2] == (status, code)
    if per == "call":
        api("ReadVolumes")
    else:
        refused(api, "ReadVolumes")


def test_a_rate_lets_through_what_it_says() -> None:
    now = 0.0
    hazards = Hazards(
        Trouble(rates=[Rate(per="account", calls_per_second=10, burst=3)]), clock=lambda: now
    )

    def passed(calls: int, account: str = "a") -> int:
        count = 0
        for _ in range(calls):
            try:
                hazards.throttle("ReadVms", account)
            except ApiError:
                continue
            count += 1
        return count

    assert passed(5) == 3
    assert passed(5, account="b") == 3
    now = 0.25
    assert passed(5) == 2
    now = 100.0
    assert passed(5) == 3


def test_a_rate_of_one_action_leaves_the_others() -> None:
    rate = Rate(per="platform", calls_per_second=1, action="CreateVolume")
    hazards = Hazards(Trouble(rates=[rate]), clock=lambda: 0.0)
    hazards.throttle("CreateVolume", "a")
    with pytest.raises(ApiError):
        hazards.throttle("CreateVolume", "b")
    for _ in range(5):
        hazards.throttle("ReadVolumes", "a")


# Refusals, faults of all actions, slow answers


def test_a_delete_is_refused_for_a_while(troubled: Troubled) -> None:
    cloud, api = troubled(refusals=[Refusal(action="DeleteVolume", seconds=0.3)])
    volume_id = new_volume(api, cloud)
    assert refused(api, "DeleteVolume", VolumeId=volume_id)[0] == 409
    time.sleep(0.35)
    api("DeleteVolume", VolumeId=volume_id)


def test_a_fault_of_any_action_counts_all(troubled: Troubled) -> None:
    _, api = troubled(faults=[Fault(action="*", kind="503", nth=2)])
    api("ReadVms")
    assert refused(api, "ReadVolumes")[0] == 503
    api("ReadVolumes")


@pytest.mark.parametrize("after", [False, True])
def test_a_slow_answer(troubled: Troubled, after: bool) -> None:
    fault = Fault(action="CreateVolume", kind="slow", seconds=0.4, after=after)
    cloud, api = troubled(faults=[fault])
    began = time.monotonic()
    volume_id = new_volume(api, cloud)
    assert time.monotonic() - began >= 0.4
    assert states(api, volume_id) == ["available"]
    (made,) = [call for call in cloud.record if call.action == "CreateVolume"]
    (volume,) = api("ReadVolumes", Filters={"VolumeIds": [volume_id]})["Volumes"]
    waited = datetime.fromisoformat(volume["CreationDate"]) - datetime.fromisoformat(made.time)
    assert (waited.total_seconds() >= 0.4) == (not after)
    assert made.duration >= 0.4


# Fates


def test_a_volume_that_ends_in_error(troubled: Troubled) -> None:
    cloud, api = troubled(fates=[Fate(action="CreateVolume", end="error")])
    made = api("CreateVolume", SubregionName=cloud.subregion, Size=1)["Volume"]["VolumeId"]
    wait(lambda: states(api, made) == ["error"])
    new_volume(api, cloud)


def test_a_volume_that_is_never_there(troubled: Troubled) -> None:
    cloud, api = troubled(fates=[Fate(action="CreateVolume", end="never")])
    made = api("CreateVolume", SubregionName=cloud.subregion, Size=1)["Volume"]["VolumeId"]
    new_volume(api, cloud)
    assert states(api, made) == ["creating"]


@pytest.mark.parametrize(("end", "state"), [("error", "error"), ("never", "pending")])
def test_the_fate_of_a_snapshot(troubled: Troubled, end: Any, state: str) -> None:
    cloud, api = troubled(fates=[Fate(action="CreateSnapshot", end=end, nth=2)])
    volume_id = new_volume(api, cloud)
    good, bad = new_snapshot(api, volume_id), new_snapshot(api, volume_id)
    wait(lambda: snapshot_state(api, good) == "completed")
    wait(lambda: snapshot_state(api, bad) == state)
    time.sleep(0.1)
    assert snapshot_state(api, bad) == state


@pytest.mark.parametrize(("end", "state"), [("error", "failed"), ("never", "pending")])
def test_the_fate_of_an_omi(troubled: Troubled, end: Any, state: str) -> None:
    cloud, api = troubled(fates=[Fate(action="CreateImage", end=end)])
    snapshot_id = new_snapshot(api, new_volume(api, cloud))
    wait(lambda: snapshot_state(api, snapshot_id) == "completed")
    image_id = new_image(api, snapshot_id)
    wait(lambda: image_state(api, image_id) == state)
    good = new_image(api, snapshot_id, name="good")
    wait(lambda: image_state(api, good) == "available")


def test_a_delete_that_never_ends(troubled: Troubled) -> None:
    fates = [Fate(action=action, end="never") for action in ("DeleteVolume", "DeleteSnapshot")]
    cloud, api = troubled(fates=fates)
    volume_id = new_volume(api, cloud)
    snapshot_id = new_snapshot(api, volume_id)
    wait(lambda: snapshot_state(api, snapshot_id) == "completed")
    api("DeleteSnapshot", SnapshotId=snapshot_id)
    api("DeleteVolume", VolumeId=volume_id)
    time.sleep(0.1)
    assert states(api, volume_id) == ["deleting"]
    assert snapshot_state(api, snapshot_id) == "deleting"


def test_a_pending_snapshot_that_cannot_be_deleted(troubled: Troubled) -> None:
    cloud, api = troubled(delete_snapshot_needs_completed=True, latency=Latency(snapshot=0.4))
    snapshot_id = new_snapshot(api, new_volume(api, cloud))
    assert refused(api, "DeleteSnapshot", SnapshotId=snapshot_id)[0] == 409
    wait(lambda: snapshot_state(api, snapshot_id) == "completed")
    api("DeleteSnapshot", SnapshotId=snapshot_id)


# While it runs


def test_trouble_changes_while_it_runs(troubled: Troubled) -> None:
    cloud, api = troubled()
    api("ReadVms")
    cloud.set_trouble(Trouble(faults=[Fault(action="ReadVms", kind="500")]))
    assert refused(api, "ReadVms")[0] == 500
    cloud.set_trouble(Trouble())
    api("ReadVms")
    with pytest.raises(ValueError, match="ReadNothing"):
        cloud.set_trouble(Trouble(forbidden=["ReadNothing"]))


def test_reads_become_stale_and_fresh_again(troubled: Troubled) -> None:
    cloud, api = troubled()
    cloud.set_trouble(Trouble(stale_reads=0.3))
    made = api("CreateVolume", SubregionName=cloud.subregion, Size=1)["Volume"]["VolumeId"]
    assert states(api, made) == []
    assert wait(lambda: states(api, made) != []) > 0.1
    cloud.set_trouble(Trouble())
    time.sleep(0.1)
    made = api("CreateVolume", SubregionName=cloud.subregion, Size=1)["Volume"]["VolumeId"]
    assert states(api, made) != []


def test_a_file_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "trouble.toml"
    file.write_text("")
    told: list[str] = []
    with LocalCloud(trouble=file, tell=told.append) as cloud:
        for name, value in cloud.environment().items():
            monkeypatch.setenv(name, value)
        api = Call(max_retries=0).api
        api("ReadVms")
        file.write_text('[[faults]]\naction = "ReadVms"\nkind = "500"\nnth = 0\n')
        wait(lambda: told == [f"{file}: read again"])
        assert refused(api, "ReadVms")[0] == 500
        file.write_text("stale = 3")
        wait(lambda: len(told) == 2)
        assert told[1].endswith("the trouble stays as it was")
        assert refused(api, "ReadVms")[0] == 500
        file.unlink()
        wait(lambda: len(told) == 3)
        file.write_text("")
        wait(lambda: len(told) == 4)
        api("ReadVms")


# Files

ALL = """
stale_reads = 1.5
unlink_needs_snapshot = true
delete_needs_snapshot = true
delete_snapshot_needs_completed = true
taken_names = ["/dev/xvdf"]
forbidden = ["DeleteImage"]

[[faults]]
action = "CreateVolume"
kind = "reset"
nth = 2
count = 3
after = true

[[fates]]
action = "LinkVolume"
end = "no-disk"

[[rates]]
per = "account"
calls_per_second = 5
burst = 10

[[refusals]]
action = "DeleteVolume"
seconds = 20
"""
ACTIONS = {"CreateVolume", "LinkVolume", "DeleteVolume", "DeleteImage"}


def test_a_file_names_all_kinds(tmp_path: Path) -> None:
    file = tmp_path / "trouble.toml"
    file.write_text(ALL)
    assert load_trouble(file, actions=ACTIONS) == Trouble(
        stale_reads=1.5,
        unlink_needs_snapshot=True,
        delete_needs_snapshot=True,
        delete_snapshot_needs_completed=True,
        taken_names=("/dev/xvdf",),
        forbidden=("DeleteImage",),
        faults=(Fault(action="CreateVolume", kind="reset", nth=2, count=3, after=True),),
        fates=(Fate(action="LinkVolume", end="no-disk"),),
        rates=(Rate(per="account", calls_per_second=5, burst=10),),
        refusals=(Refusal(action="DeleteVolume", seconds=20),),
    )


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            '"reset"',
            '"broken"',
            'faults[0].kind: expected one of "503", "429", "429-call", "500", "reset"',
        ),
        ('"reset"', '"slow"', "seconds goes with kind slow"),
        ("nth = 2", "nth = -1", "nth must be 0 or more"),
        ("nth = 2", "number = 2", "there is no number here"),
        ('"no-disk"', '"error"', "the end of LinkVolume is 'error': it must be one of never"),
        ('action = "LinkVolume"', 'action = "ReadVms"', "a fate's action is 'ReadVms'"),
        ("calls_per_second = 5", "calls_per_second = 0", "must be more than 0"),
        (
            'per = "account"',
            'per = "user"',
            'rates[0].per: expected one of "platform", "account", "call", found "user"',
        ),
        ("seconds = 20", "seconds = 0", "must be more than 0"),
        ("stale_reads = 1.5", "stale_reads = -1", "stale_reads is -1: expected 0 to 86400"),
        ("stale_reads = 1.5", "stale_reads = nan", "stale_reads: expected a finite number, found"),
        (
            "seconds = 20",
            "seconds = inf",
            "refusals[0].seconds: expected a finite number, found inf",
        ),
        ("seconds = 20", "seconds = 1e300", "is 1e+300: expected 0 to 86400 seconds"),
        ("seconds = 20", f"seconds = {'9' * 400}", "refusals[0].seconds: expected a finite number"),
        ("seconds = 20", f"seconds = {'9' * 5000}", "a number too long"),
        ('["/dev/xvdf"]', '"a"', 'taken_names: expected a list in brackets, found "a"'),
        ('["/dev/xvdf"]', '["xvdf"]', "taken_names has 'xvdf': expected names such as /dev/xvdf"),
        ("[[fates]]", "[fates]", "fates: expected tables, each below a [[NAME]], found a table"),
        ('["/dev/xvdf"]', "[" * 2000, "values too deep"),
        ("= true", "= True", "is not TOML: Invalid value (at line "),
        (
            "seconds = 20",
            "seconds",
            "is not TOML: Expected '=' after a key in a key/value pair (at line",
        ),
        ('"DeleteImage"', '"DeleteImages"', "trouble with DeleteImages: the API has no such"),
        ('"DeleteVolume"', '"Delete"', "trouble with Delete: the API has no such action"),
    ],
)
def test_a_file_that_is_wrong_is_said_in_a_line(
    tmp_path: Path, before: str, after: str, said: str
) -> None:
    assert before in ALL
    file = tmp_path / "trouble.toml"
    file.write_text(ALL.replace(before, after, 1))
    with pytest.raises(FileError) as caught:
        load_trouble(file, actions=ACTIONS)
    text = str(caught.value)
    assert said in text and text.startswith(f"{file}: ") and "\n" not in text


# The critical path


def test_the_critical_path_of_an_omi(troubled: Troubled) -> None:
    latency = Latency(call=0.02, volume=0.1, snapshot=0.2, image=0.05)
    cloud, api = troubled(latency=latency)
    volume_id = new_volume(api, cloud)
    snapshot_id = new_snapshot(api, volume_id)
    wait(lambda: snapshot_state(api, snapshot_id) == "completed")
    image_id = new_image(api, snapshot_id)
    wait(lambda: image_state(api, image_id) == "available")
    steps = cloud.critical_path(image_id)
    assert [step.what for step in steps] == ["volume", "snapshot", "OMI"]
    for step, least in zip(steps, (0.12, 0.22, 0.07), strict=True):
        assert least <= step.seconds < least + 3
    assert describe(steps).startswith(f"{sum(step.seconds for step in steps):.1f}")
    assert cloud.critical_path(TINY_IMAGE_ID) == []
