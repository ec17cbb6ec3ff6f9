"""Builds in a Region in its bad days: lost answers, throttling, stale reads, refusals."""

from typing import Any

import pytest
from in_process import OPTIONS, assert_nothing_left, live_snapshots, run

from packer_plugin_osc_chroot import cancel
from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud import client, wait
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.errors import BuildError, Cancelled, CloudError
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.latency import Latency
from packer_plugin_osc_chroot.localcloud.trouble import Fault, FaultKind, Trouble
from packer_plugin_osc_chroot.ui import RecordingUi

pytestmark = pytest.mark.root

MAKING = ("CreateVolume", "LinkVolume", "CreateSnapshot", "CreateImage")
CHANGING = (*MAKING, "UnlinkVolume", "DeleteVolume", "CreateTags")
READING = ("ReadVms", "ReadImages", "ReadVolumes", "ReadSnapshots", "ReadAccounts")
# A throttled whole platform, and a connection that breaks: nobody knows whether it was done.
UNKNOWN: tuple[FaultKind, ...] = ("503", "reset")


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_RETRY_PAUSE", 0.1)


class CancellingUi(RecordingUi):
    """Cancels the build as soon as its snapshot has been asked for."""

    def __init__(self, token: CancelToken) -> None:
        super().__init__()
        self._token = token

    def message(self, text: str) -> None:
        super().message(text)
        if text.startswith("Snapshot: "):
            self._token.cancel()


def assert_made_once(cloud: LocalCloud) -> None:
    assert_nothing_left(cloud)
    assert len(cloud.images()) == 1
    assert len(live_snapshots(cloud)) == 1


@pytest.mark.parametrize("kind", UNKNOWN)
@pytest.mark.parametrize("action", CHANGING)
def test_done_but_the_answer_is_lost(action: str, kind: FaultKind) -> None:
    trouble = Trouble(faults=[Fault(action=action, kind=kind, after=True)])
    with LocalCloud(trouble=trouble) as cloud:
        run(cloud)
        assert_made_once(cloud)


@pytest.mark.parametrize("action", (*CHANGING, *READING))
def test_not_done_and_worth_another_try(action: str) -> None:
    kinds: tuple[FaultKind, ...] = ("503", "429", "429-call", "500", "reset", "garbage")
    faults = [Fault(action=action, kind=kind, nth=i + 1) for i, kind in enumerate(kinds)]
    if action in ("LinkVolume", "CreateImage"):
        # Without a ClientToken each unknown end is looked after for some seconds.
        faults = faults[:3]
    with LocalCloud(trouble=Trouble(faults=faults)) as cloud:
        run(cloud)
        assert_made_once(cloud)


def test_stale_reads() -> None:
    with LocalCloud(trouble=Trouble(stale_reads=1.5)) as cloud:
        run(cloud)
        assert_made_once(cloud)


@pytest.mark.parametrize("action", MAKING)
def test_a_lost_answer_and_stale_reads(action: str) -> None:
    faults = [Fault(action=action, kind="503", after=True)]
    with LocalCloud(trouble=Trouble(stale_reads=1.0, faults=faults)) as cloud:
        run(cloud)
        assert_made_once(cloud)


@pytest.mark.parametrize("action", ["CreateVolume", "CreateSnapshot"])
def test_done_with_its_answer_lost_and_then_refused(
    monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    monkeypatch.setattr(client, "_RETRY_SECONDS", 1.0)
    faults = [
        Fault(action=action, kind="503", after=True),
        Fault(action=action, kind="429", nth=2, count=1000),
    ]
    with LocalCloud(trouble=Trouble(faults=faults)) as cloud:
        with pytest.raises(CloudError) as caught:
            run(cloud)
        assert caught.value.status == 429
        assert_nothing_left(cloud)
        assert live_snapshots(cloud) == []


def test_linked_with_the_answer_lost_and_then_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads that are older than anybody waits for: the second try is refused, the link stands."""
    monkeypatch.setattr(wait, "SETTLE_SECONDS", 0.3)
    faults = [Fault(action="LinkVolume", kind="503", after=True)]
    with LocalCloud(trouble=Trouble(stale_reads=2.0, faults=faults)) as cloud:
        with pytest.raises(CloudError) as caught:
            run(cloud)
        assert 400 <= caught.value.status < 500
        assert_nothing_left(cloud)


@pytest.mark.parametrize("flag", ["unlink_needs_snapshot", "delete_needs_snapshot"])
def test_refused_while_the_snapshot_is_pending(flag: str) -> None:
    trouble = Trouble(**{flag: True})  # type: ignore[arg-type]
    with LocalCloud(latency=Latency(snapshot=2.0), trouble=trouble) as cloud:
        run(cloud)
        assert_made_once(cloud)


def test_a_snapshot_takes_longer_than_undoing_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancel, "UNDO_SECONDS", 3.0)
    trouble = Trouble(unlink_needs_snapshot=True)
    with LocalCloud(latency=Latency(snapshot=7.0), trouble=trouble) as cloud:
        ui = RecordingUi()
        run(cloud, ui=ui)
        assert "Could not undo" not in ui.text
        assert_made_once(cloud)


def test_cancelled_while_the_snapshot_may_not_even_be_deleted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cancel, "UNDO_SECONDS", 3.0)
    monkeypatch.setattr(wait, "_REPORT_EVERY", 2.0)
    change = Cloud.change

    def refusing(self: Cloud, action: str, *, token: CancelToken, **body: Any) -> Any:
        if action == "DeleteSnapshot":
            snapshot = self.one(
                "ReadSnapshots", "Snapshots", token=token, SnapshotIds=[body["SnapshotId"]]
            )
            if snapshot and snapshot["State"] in ("in-queue", "pending"):
                raise CloudError("it is pending", action=action, status=409)
        return change(self, action, token=token, **body)

    monkeypatch.setattr(Cloud, "change", refusing)
    token = CancelToken()
    ui = CancellingUi(token)
    trouble = Trouble(unlink_needs_snapshot=True, delete_needs_snapshot=True)
    with LocalCloud(latency=Latency(snapshot=7.0), trouble=trouble) as cloud:
        with pytest.raises(Cancelled):
            run(cloud, ui=ui, token=token)
        assert "DeleteSnapshot is refused while snapshot snap-" in ui.text
        assert "Could not undo" not in ui.text
        assert_nothing_left(cloud)
        assert live_snapshots(cloud) == []


@pytest.mark.parametrize("flag", ["unlink_needs_snapshot", "delete_needs_snapshot"])
def test_cancelled_while_the_snapshot_is_pending(flag: str) -> None:
    token = CancelToken()
    trouble = Trouble(**{flag: True})  # type: ignore[arg-type]
    with LocalCloud(latency=Latency(snapshot=60.0), trouble=trouble) as cloud:
        with pytest.raises(Cancelled):
            run(cloud, ui=CancellingUi(token), token=token)
        assert_nothing_left(cloud)
        assert cloud.images() == [] and live_snapshots(cloud) == []


def test_names_that_are_taken_though_nothing_shows_it() -> None:
    taken = [f"/dev/xvd{letter}" for letter in "bcdefg"]
    with LocalCloud(trouble=Trouble(taken_names=taken)) as cloud:
        run(cloud)
        assert_made_once(cloud)


@pytest.mark.parametrize("action", ["CreateVolume", "CreateSnapshot", "CreateImage"])
def test_a_missing_permission_is_said_before_anything_is_made(action: str) -> None:
    with LocalCloud(trouble=Trouble(forbidden=[action])) as cloud:
        with pytest.raises(BuildError, match=f"may not call {action}"):
            run(cloud)
        made = [
            call
            for call in cloud.record
            if call.action in CHANGING and not call.parameters.get("DryRun")
        ]
        assert made == []


def test_credentials_that_may_not_ask_for_the_account() -> None:
    with LocalCloud(trouble=Trouble(forbidden=["ReadAccounts"])) as cloud:
        run(cloud, config=OPTIONS)
        assert_made_once(cloud)
