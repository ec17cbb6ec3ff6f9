"""Builds from OMIs that filters find, and from other accounts' OMIs: used, or copied and removed."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from in_process import (
    OPTIONS,
    SOURCE,
    VENDOR,
    Provisioner,
    assert_nothing_left,
    client,
    live_snapshots,
    run,
    sent,
    two_accounts,
)

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.context import Communicator
from packer_plugin_osc_chroot.errors import BuildError, Cancelled
from packer_plugin_osc_chroot.localcloud.catalogue import OmiEntry
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.trouble import Fate, Fault, Trouble
from packer_plugin_osc_chroot.options.blocks import OmiFilter
from packer_plugin_osc_chroot.ui import RecordingUi

pytestmark = pytest.mark.root


@contextmanager
def region(
    tmp_path: Path, *, may_use_snapshot: bool, trouble: Trouble | None = None
) -> Iterator[LocalCloud]:
    """The source OMI is a vendor's."""
    omi = OmiEntry(
        id=SOURCE,
        file="",
        name="of the vendor",
        owner="vendor",
        shared_with=["mine"],
        tags={"os": "tiny"},
    )
    with LocalCloud(catalogue=two_accounts(tmp_path, omi), trouble=trouble) as cloud:
        if not may_use_snapshot:
            take_permission(cloud)
        yield cloud
        assert_nothing_left(cloud)


def take_permission(cloud: LocalCloud) -> None:
    """Who may launch the OMI may not use its snapshot any more."""
    api, token = client(cloud, **VENDOR), CancelToken()
    (snapshot,) = api.read("ReadSnapshots", token=token)["Snapshots"]
    api.change(
        "UpdateSnapshot",
        token=token,
        SnapshotId=snapshot["SnapshotId"],
        PermissionsToCreateVolume={
            "Removals": {"AccountIds": snapshot["PermissionsToCreateVolume"]["AccountIds"]}
        },
    )
    api.close()


def copies(cloud: LocalCloud) -> list[str]:
    """The OMIs that are there beside the build's."""
    return [image.name for image in cloud.images() if image.name != OPTIONS.omi_name]


def test_source_omi_filter(tmp_path: Path) -> None:
    chosen = OmiFilter(filters={"image-name": "of the *", "tag:os": "tiny"}, owners=("vendor",))
    config = dataclasses.replace(OPTIONS, source_omi="", source_omi_filter=chosen)
    with region(tmp_path, may_use_snapshot=True) as cloud:
        assert run(cloud, config=config).source_image_id == SOURCE
        asked = [body["Filters"] for body in sent(cloud, "ReadImages")]
        assert {
            "States": ["available"],
            "ImageNames": ["of the *"],
            "Tags": ["os=tiny"],
            "AccountAliases": ["vendor"],
        } in asked


def test_a_foreign_omi_is_used_where_its_snapshot_may_be(tmp_path: Path) -> None:
    with region(tmp_path, may_use_snapshot=True) as cloud:
        run(cloud)
        assert len(cloud.images()) == 1 and len(sent(cloud, "CreateImage")) == 1


def test_a_foreign_omi_is_copied_where_its_snapshot_may_not_be_used(tmp_path: Path) -> None:
    provisioner, ui = Provisioner(), RecordingUi()
    with region(tmp_path, may_use_snapshot=False) as cloud:
        result = run(cloud, provisioner=provisioner, ui=ui)
        copy, made = sent(cloud, "CreateImage")
        assert (copy["SourceImageId"], copy["SourceRegionName"]) == (SOURCE, result.region)
        assert "SourceImageId" not in made
        assert copies(cloud) == []
        assert live_snapshots(cloud) == list(result.snapshot_ids)
        # What templates see is the vendor's own.
        assert result.source_image_id == provisioner.data["SourceOMI"] == SOURCE
        assert provisioner.data["SourceOMIName"] == "of the vendor"
        assert provisioner.data["SourceOMITags"] == '{"os": "tiny"}'
        assert cloud.images()[0].description == f"from {SOURCE}"
        assert f"{SOURCE} is copied first" in ui.text


@pytest.mark.parametrize("cancels", [False, True])
def test_the_copy_goes_when_the_build_fails_or_is_cancelled(tmp_path: Path, cancels: bool) -> None:
    token = CancelToken()

    def look(communicator: Communicator, data: Mapping[str, str]) -> None:
        if cancels:
            token.cancel()

    with region(tmp_path, may_use_snapshot=False) as cloud:
        with pytest.raises(Cancelled if cancels else BuildError):
            run(cloud, token=token, provisioner=Provisioner(fails=not cancels, look=look))
        assert cloud.images() == [] and live_snapshots(cloud) == []


def test_a_copy_that_fails_goes(tmp_path: Path) -> None:
    trouble = Trouble(fates=[Fate(action="CreateImage", end="error")])
    with region(tmp_path, may_use_snapshot=False, trouble=trouble) as cloud:
        with pytest.raises(BuildError, match="is in state failed, expected available"):
            run(cloud)
        assert cloud.images() == [] and live_snapshots(cloud) == []


@pytest.mark.parametrize("kind", ["503", "reset"])
def test_one_copy_is_made_where_its_answer_is_lost(tmp_path: Path, kind: str) -> None:
    fault = Fault(action="CreateImage", kind=kind, after=True)  # type: ignore[arg-type]
    with region(tmp_path, may_use_snapshot=False, trouble=Trouble(faults=[fault])) as cloud:
        result = run(cloud)
        assert len([body for body in sent(cloud, "CreateImage") if "SourceImageId" in body]) == 1
        assert copies(cloud) == [] and live_snapshots(cloud) == list(result.snapshot_ids)
