"""force_deregister: the OMI of the same name goes just before its successor is registered, and comes
back where that fails; force_delete_snapshot: its snapshots go when nothing uses them any more."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from in_process import (
    OPTIONS,
    SOURCE,
    Provisioner,
    assert_nothing_left,
    client,
    live_snapshots,
    run,
    sent,
    two_accounts,
)

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, Cancelled
from packer_plugin_osc_chroot.localcloud.catalogue import OmiEntry
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.record import RecordedCall
from packer_plugin_osc_chroot.localcloud.trouble import Fate, Fault, FaultKind, Trouble
from packer_plugin_osc_chroot.options.blocks import BlockDevice
from packer_plugin_osc_chroot.options.config import Packer
from packer_plugin_osc_chroot.resources import former_image
from packer_plugin_osc_chroot.ui import RecordingUi

pytestmark = pytest.mark.root

FORCE = dataclasses.replace(OPTIONS, force_deregister=True)
DELETE = dataclasses.replace(FORCE, force_delete_snapshot=True)
# What a former OMI has that must come back with it.
FORMER = dataclasses.replace(
    OPTIONS,
    omi_account_ids=("123456789012",),
    omi_boot_modes=("legacy", "uefi"),
    omi_product_codes=("0001", "0008"),
    omi_block_device_mappings=(
        BlockDevice(device_name="/dev/sdf", volume_size=7, volume_type="gp2"),
    ),
)


def shown(cloud: LocalCloud) -> dict[str, Any]:
    """The one OMI that callers made, without what a new registration changes."""
    (image,) = cloud.images()
    view = image.view()
    return {key: view[key] for key in view if key not in ("ImageId", "CreationDate")}


@pytest.mark.parametrize("config", [FORCE, dataclasses.replace(OPTIONS, packer=Packer(force=True))])
def test_the_former_omi_goes_once_its_successor_s_snapshot_is_complete(config: Any) -> None:
    with LocalCloud() as cloud:
        former = run(cloud)
        result = run(cloud, config=config)
        assert [image.image_id for image in cloud.images()] == [result.image_id]
        # Its snapshots are kept, and nothing else.
        assert live_snapshots(cloud) == [*former.snapshot_ids, *result.snapshot_ids]
        assert len(cloud.leftovers()) == 1 and former.snapshot_ids[0] in cloud.leftovers()[0]
        assert cloud.defects == []
        deleted, created = (
            max(i for i, call in enumerate(cloud.record) if is_call(call, action))
            for action in ("DeleteImage", "CreateImage")
        )
        assert completed(cloud, result.snapshot_ids[0]) < deleted < created


def is_call(call: RecordedCall, action: str) -> bool:
    return call.action == action and not call.parameters.get("DryRun")


def completed(cloud: LocalCloud, snapshot_id: str) -> int:
    """The number of the first call that showed the snapshot as completed."""
    return next(
        i
        for i, call in enumerate(cloud.record)
        for shown in call.answer.get("Snapshots", ())
        if shown["SnapshotId"] == snapshot_id and shown["State"] == "completed"
    )


def test_nothing_of_that_name_is_nothing_to_replace() -> None:
    with LocalCloud() as cloud:
        run(cloud, config=DELETE)
        assert sent(cloud, "DeleteImage") == [] and len(cloud.images()) == 1


def test_only_this_account_s_omi_of_exactly_that_name(tmp_path: Path) -> None:
    entries = (
        OmiEntry(id=SOURCE, file=""),
        # Another account's of that name, and our own of names that a filter would find for it.
        OmiEntry(id="ami-00000002", file="", name="packer", owner="vendor", public=True),
        OmiEntry(id="ami-00000003", file="", name="packer two"),
        OmiEntry(id="ami-00000004", file="", name="Packer"),
        OmiEntry(id="ami-00000005", file="", name="packer"),
    )
    with LocalCloud(catalogue=two_accounts(tmp_path, *entries)) as cloud:
        run(cloud, config=dataclasses.replace(DELETE, omi_name="packer"))
        assert sent(cloud, "DeleteImage") == [{"ImageId": "ami-00000005"}]


def test_the_account_s_id_must_be_known() -> None:
    with LocalCloud(trouble=Trouble(forbidden=["ReadAccounts"])) as cloud:
        run(cloud)
        with pytest.raises(BuildError, match="force_deregister: whether the OMI.*ReadAccounts"):
            run(cloud, config=FORCE)
        assert len(cloud.images()) == 1


def test_a_build_that_fails_before_its_snapshot_leaves_the_former_omi_alone() -> None:
    with LocalCloud() as cloud:
        former = run(cloud)
        with pytest.raises(BuildError, match="the script failed"):
            run(cloud, config=DELETE, provisioner=Provisioner(fails=True))
        assert [image.image_id for image in cloud.images()] == [former.image_id]
        assert sent(cloud, "DeleteImage") == []


@pytest.mark.parametrize(
    "trouble",
    [
        # The successor is registered, and fails; the third CreateImage is that of the former one.
        Trouble(fates=[Fate(action="CreateImage", end="error", nth=2)]),
        # It is refused: its additional volume has a snapshot that does not exist.
        Trouble(),
    ],
)
def test_the_former_omi_comes_back_where_registering_its_successor_fails(trouble: Trouble) -> None:
    config = DELETE
    if not trouble.fates:
        wrong = BlockDevice(device_name="xvdg", snapshot_id="snap-ffffffff")
        config = dataclasses.replace(DELETE, omi_block_device_mappings=(wrong,))
    ui = RecordingUi()
    with LocalCloud(trouble=trouble) as cloud:
        former = run(cloud, config=FORMER)
        before = shown(cloud)
        with pytest.raises(BuildError, match="CreateImage|is in state failed"):
            run(cloud, config=config, ui=ui)
        assert len(sent(cloud, "DeleteImage")) >= 1
        assert shown(cloud) == before
        assert before["Tags"] and before["PermissionsToLaunch"]["AccountIds"]
        assert live_snapshots(cloud) == list(former.snapshot_ids)
        (image,) = cloud.images()
        assert f"is {image.image_id} now (it was {former.image_id})" in ui.text
        assert_nothing_left(cloud)


def test_the_former_omi_comes_back_where_the_build_is_cancelled_meanwhile() -> None:
    token = CancelToken()

    class CancellingUi(RecordingUi):
        def say(self, text: str) -> None:
            super().say(text)
            if text.startswith("Registering OMI"):
                token.cancel()

    with LocalCloud() as cloud:
        run(cloud, config=FORMER)
        before = shown(cloud)
        with pytest.raises(BuildError):
            run(cloud, config=DELETE, token=token, ui=CancellingUi())
        assert shown(cloud) == before
        assert_nothing_left(cloud)


@pytest.mark.parametrize("kind", ["503", "reset"])
@pytest.mark.parametrize("action", ["DeleteImage", "CreateImage"])
def test_lost_answers(action: str, kind: FaultKind) -> None:
    nth = 1 if action == "DeleteImage" else 2
    fault = Fault(action=action, kind=kind, nth=nth, after=True)
    with LocalCloud(trouble=Trouble(faults=[fault])) as cloud:
        run(cloud)
        result = run(cloud, config=DELETE)
        assert [image.image_id for image in cloud.images()] == [result.image_id]
        assert live_snapshots(cloud) == list(result.snapshot_ids)
        assert_nothing_left(cloud)


def test_a_former_omi_that_comes_back_without_its_tags_says_so() -> None:
    wrong = BlockDevice(device_name="xvdg", snapshot_id="snap-ffffffff")
    untagged = dataclasses.replace(DELETE, tags=None, snapshot_tags=None, root_volume_tags=None)
    config = dataclasses.replace(untagged, omi_block_device_mappings=(wrong,))
    ui = RecordingUi()
    with LocalCloud() as cloud:
        former = run(cloud, config=dataclasses.replace(FORMER, tags={"Name": "web"}))
        cloud.set_trouble(Trouble(forbidden=["CreateTags"]))
        with pytest.raises(BuildError, match="CreateImage"):
            run(cloud, config=config, ui=ui)
        (image,) = cloud.images()
        assert f"is {image.image_id} now (it was {former.image_id}), and lacks tags or" in ui.text
        assert f"left: OMI {image.image_id}, which had the tags Name=web" in ui.text
        assert "is not registered again" not in ui.text


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("x"), Cancelled()])
def test_nothing_about_former_snapshots_ends_a_complete_build(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    ui = RecordingUi()
    with LocalCloud() as cloud:
        former = run(cloud)

        def fail(*given: Any, **named: Any) -> None:
            raise error

        monkeypatch.setattr(former_image, "_own", fail)
        result = run(cloud, config=DELETE, ui=ui)
        assert [image.image_id for image in cloud.images()] == [result.image_id]
        assert any(kind == "error" and "former OMI" in text for kind, text in ui.said)
        assert live_snapshots(cloud) == [*former.snapshot_ids, *result.snapshot_ids]


def test_a_cancel_leaves_former_snapshots_and_the_complete_omi() -> None:
    token = CancelToken()

    class CancellingUi(RecordingUi):
        def say(self, text: str) -> None:
            super().say(text)
            if text.startswith("Deleting snapshot"):
                token.cancel()

    ui = CancellingUi()
    with LocalCloud() as cloud:
        former = run(cloud)
        result = run(cloud, config=DELETE, token=token, ui=ui)
        assert [image.image_id for image in cloud.images()] == [result.image_id]
        assert live_snapshots(cloud) == [*former.snapshot_ids, *result.snapshot_ids]
        assert f"Snapshot {former.snapshot_ids[0]} of the former OMI is left" in ui.text


def test_a_name_that_is_taken_while_the_build_runs() -> None:
    class TakingUi(RecordingUi):
        def say(self, text: str) -> None:
            super().say(text)
            if text.startswith("Registering OMI"):
                api = client(cloud)
                api.change(
                    "CreateImage",
                    token=CancelToken(),
                    ImageName=OPTIONS.omi_name,
                    SourceImageId=SOURCE,
                    SourceRegionName=api.region,
                )
                api.close()

    with LocalCloud() as cloud:
        with pytest.raises(BuildError, match="^omi_name: another OMI took the name") as caught:
            run(cloud, ui=TakingUi())
        assert "{{timestamp}}" in caught.value.hint and "force_deregister" in caught.value.hint


def test_a_former_omi_that_cannot_be_deregistered_stays() -> None:
    trouble = Trouble(forbidden=["DeleteImage"])
    with LocalCloud(trouble=trouble) as cloud:
        former = run(cloud)
        with pytest.raises(BuildError, match="may not call DeleteImage"):
            run(cloud, config=FORCE)
        assert [image.image_id for image in cloud.images()] == [former.image_id]


def test_stale_reads() -> None:
    with LocalCloud(trouble=Trouble(stale_reads=1.5)) as cloud:
        run(cloud)
        result = run(cloud, config=DELETE)
        assert [image.image_id for image in cloud.images()] == [result.image_id]
        assert live_snapshots(cloud) == list(result.snapshot_ids)


def test_snapshots_that_something_uses_stay() -> None:
    ui = RecordingUi()
    with LocalCloud() as cloud:
        former = run(cloud)
        api, token = client(cloud), CancelToken()
        (snapshot_id,) = former.snapshot_ids
        answer = api.change(
            "CreateImage",
            token=token,
            ImageName="another of the same snapshot",
            RootDeviceName="/dev/sda1",
            BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Bsu": {"SnapshotId": snapshot_id}}],
        )
        api.close()
        result = run(cloud, config=DELETE, ui=ui)
        assert live_snapshots(cloud) == [snapshot_id, *result.snapshot_ids]
        user = answer["Image"]["ImageId"]
        assert f"Snapshot {snapshot_id} stays: OMI {user} uses it" in ui.text
        assert sent(cloud, "DeleteSnapshot") == []


def test_snapshots_that_the_new_omi_uses_stay() -> None:
    """The former OMI is the source, and its other volume carries over."""
    with LocalCloud() as cloud:
        (data,) = run(cloud, config=dataclasses.replace(OPTIONS, omi_name="data")).snapshot_ids
        other = BlockDevice(device_name="xvdg", snapshot_id=data)
        former = run(cloud, config=dataclasses.replace(FORMER, omi_block_device_mappings=(other,)))
        config = dataclasses.replace(DELETE, source_omi=former.image_id)
        result = run(cloud, config=config)
        assert live_snapshots(cloud) == [data, *result.snapshot_ids]
