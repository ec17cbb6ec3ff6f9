"""Builds in a Region in its bad days: lost answers, throttling, stale reads, refusals."""

import pytest
from in_process import OPTIONS, assert_nothing_left, live_snapshots, run

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud import client
from packer_plugin_osc_chroot.errors import BuildError, Cancelled
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


@pytest.mark.parametrize("flag", ["unlink_needs_snapshot", "delete_needs_snapshot"])
def test_refused_while_the_snapshot_is_pending(flag: str) -> None:
    trouble = Trouble(**{flag: True})  # type: ignore[arg-type]
    with LocalCloud(latency=Latency(snapshot=2.0), trouble=trouble) as cloud:
        run(cloud)
        assert_made_once(cloud)


@pytest.mark.parametrize("flag", ["unlink_needs_snapshot", "delete_needs_snapshot"])
def test_cancelled_while_the_snapshot_is_pending(flag: str) -> None:
    token = CancelToken()

    class CancellingUi(RecordingUi):
        def message(self, text: str) -> None:
            super().message(text)
            if text.startswith("Snapshot: "):
                token.cancel()

    trouble = Trouble(**{flag: True})  # type: ignore[arg-type]
    with LocalCloud(latency=Latency(snapshot=60.0), trouble=trouble) as cloud:
        with pytest.raises(Cancelled):
            run(cloud, ui=CancellingUi(), token=token)
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
