"""What earlier answers say of the next call: keys that no longer count, an endpoint that is gone, and
changes that were under way when their build was cancelled."""

import threading
import time
from typing import Any

import pytest
from test_cloud_client import Answer, connect, good, refusal, serving

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud import client, standing
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.errors import BuildError, Cancelled, CloudError
from packer_plugin_osc_chroot.resources.removal import Attempt
from packer_plugin_osc_chroot.resources.volume import volume_removal
from packer_plugin_osc_chroot.ui import RecordingUi

WRONG = refusal(401, kind="AccessDenied")
MADE = good(Volume={"VolumeId": "vol-1"})
HANGS: Answer = (0, b"", {})


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_RETRY_PAUSE", 0.01)


def call(cloud: Cloud, action: str, **body: Any) -> str:
    """What came of it: the message of its error, or nothing."""
    try:
        if action.startswith("Read"):
            cloud.read(action, token=CancelToken(), **body)
        else:
            cloud.change(action, token=CancelToken(), **body)
    except BuildError as error:
        return error.message
    return ""


def test_keys_that_are_revoked_amid_a_build_are_tried_once_and_once_more_to_be_sure() -> None:
    with serving(good(Vms=[]), MADE, WRONG) as server:
        cloud = connect(server.url)
        call(cloud, "ReadVms", Filters={"VmIds": ["i-1"]})
        call(cloud, "CreateVolume", ClientToken="t")
        # It may be this action alone that is not permitted.
        refused = call(cloud, "CreateSnapshot", ClientToken="t")
        later = [
            call(cloud, action)
            for action in ("ReadVolumes", "UnlinkVolume", "DeleteVolume", "DeleteSnapshot")
        ]
        asked = [(action, body) for action, body, _ in server.asked[3:]]
    assert "AccessDenied" in refused
    assert asked == [("ReadVms", {"Filters": {"VmIds": ["i-1"]}})]
    for message in later:
        assert "not sent, since these credentials are refused (ReadVms: AccessDenied" in message


def test_what_was_permitted_before_and_is_refused_now_says_all() -> None:
    with serving(good(Vms=[]), good(Volumes=[]), WRONG) as server:
        cloud = connect(server.url)
        for action in ("ReadVms", "ReadVolumes", "ReadVolumes", "DeleteVolume", "ReadVolumes"):
            call(cloud, action)
        assert [action for action, _, _ in server.asked[2:]] == ["ReadVolumes", "ReadVms"]
        with pytest.raises(CloudError, match="not sent") as caught:
            cloud.change("CreateVolume", token=CancelToken(), ClientToken="t")
    assert caught.value.status == 401 and not caught.value.maybe_done
    assert "this VM's clock" in caught.value.hint


def test_a_permission_that_is_missing_stops_nothing_else() -> None:
    answers = (good(Vms=[]), WRONG, good(Vms=[]), WRONG, good(Vms=[]), good(), good())
    with serving(*answers) as server:
        cloud = connect(server.url)
        call(cloud, "ReadVms")
        assert "AccessDenied" in call(cloud, "UpdateImage")
        assert "AccessDenied" in call(cloud, "DeleteSnapshot")
        assert call(cloud, "DeleteVolume") == call(cloud, "UnlinkVolume") == ""
        assert [action for action, _, _ in server.asked] == [
            *("ReadVms", "UpdateImage", "ReadVms", "DeleteSnapshot", "ReadVms"),
            *("DeleteVolume", "UnlinkVolume"),
        ]


def test_an_endpoint_that_is_gone_is_said_at_once_and_then_now_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "_RETRY_SECONDS", 1.0)
    monkeypatch.setattr(standing, "SILENT_SECONDS", 1.5)
    monkeypatch.setattr(client, "SILENT_SECONDS", 1.5)
    monkeypatch.setattr(standing, "_TELL_EVERY", 0.5)
    said: list[tuple[float, str]] = []
    with serving(good(Vms=[])) as server:
        begun = time.monotonic()
        cloud = connect(server.url, tell=lambda text: said.append((time.monotonic() - begun, text)))
        call(cloud, "ReadVms")
    cloud.close()
    begun = time.monotonic()
    ends = [call(cloud, "DeleteVolume", VolumeId=f"vol-{i}") for i in range(20)]
    # One call tries for a second, the next for the rest of what there is; the others not at all.
    assert 1.0 <= time.monotonic() - begun < 4.0
    assert "no answer from" in ends[0]
    assert "not sent, since nobody answers (DeleteVolume: no answer from" in ends[-1]
    assert said[0][0] < 0.5 and "trying again" in said[0][1]
    pauses = [after[0] - before[0] for before, after in zip(said, said[1:], strict=False)]
    assert pauses and min(pauses) >= 0.5


def test_an_endpoint_that_is_back_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 100.0
    error = CloudError("no answer", action="DeleteVolume")
    now = standing.Standing(lambda _: None, endpoint="x", clock=lambda: seconds)
    now.failed("DeleteVolume", {}, error)
    seconds += standing.SILENT_SECONDS + 1
    now.failed("DeleteVolume", {}, error)
    with pytest.raises(CloudError, match="not sent"):
        now.before("ReadVms")
    seconds += 31
    assert now.before("ReadVms") is None
    now.done("ReadVms", {})
    assert now.silent_seconds == 0


def test_one_lost_answer_is_nothing_to_talk_about() -> None:
    said: list[str] = []
    now = standing.Standing(said.append, endpoint="x")
    for _ in range(5):
        now.failed("ReadVms", {}, CloudError("no answer", action="ReadVms"))
        now.done("ReadVms", {})
    assert said == []


def test_a_cancel_leaves_a_change_that_hangs_and_its_undoing_waits_for_it() -> None:
    token, ui = CancelToken(), RecordingUi()
    attempt = Attempt()
    shown = good(Volumes=[{"VolumeId": "vol-1", "ClientToken": "t"}])
    with serving(HANGS, shown, good()) as server:
        cloud = connect(server.url)
        threading.Timer(0.2, token.cancel).start()
        begun = time.monotonic()
        with pytest.raises(Cancelled) as caught, attempt.sending():
            cloud.change("CreateVolume", token=token, ClientToken="t")
        assert time.monotonic() - begun < 1.0
        assert caught.value.maybe_done and attempt.may_stand
        # The volume is made only when the build has been cancelled for a while.
        threading.Timer(1.0, server.hold.set).start()
        volume_removal(cloud, "t", ui=ui).run(attempt, ui=ui)
        asked = [action for action, _, _ in server.asked]
    assert time.monotonic() - begun > 1.0
    assert asked[0] == "CreateVolume" and asked[-1] == "DeleteVolume"
    assert asked.index("DeleteVolume") > asked.index("ReadVolumes") > 0


def test_undoing_waits_for_it_no_longer_than_it_may() -> None:
    token = CancelToken()
    with serving(HANGS) as server:
        cloud = connect(server.url)
        threading.Timer(0.1, token.cancel).start()
        with pytest.raises(Cancelled):
            cloud.change("CreateVolume", token=token, ClientToken="t")
        begun = time.monotonic()
        with pytest.raises(Cancelled, match="undoing took too long"):
            cloud.read(
                "ReadVolumes", token=CancelToken(deadline=0.5, reason="undoing took too long")
            )
        assert time.monotonic() - begun < 1.5
        assert len(server.asked) == 1
