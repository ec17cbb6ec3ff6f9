"""What the next build does for one that was killed with a copy of a foreign OMI, or with the former
OMI of its name already deregistered."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from in_process import client, live_snapshots

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.cloud.wait import wait_for
from packer_plugin_osc_chroot.errors import CloudError, UndoError
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.journal.effects import snapshots_in
from packer_plugin_osc_chroot.journal.journal import Journal
from packer_plugin_osc_chroot.journal.story import Story, read_story
from packer_plugin_osc_chroot.localcloud.catalogue import AccountEntry, Catalogue, OmiEntry
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.reclaim.next_build import undo_dead_builds
from packer_plugin_osc_chroot.reclaim.undo import undo_story
from packer_plugin_osc_chroot.resources import former_image, source_volume
from packer_plugin_osc_chroot.resources.former_image import bring_back
from packer_plugin_osc_chroot.resources.image import delete_image, parse_source, read_image
from packer_plugin_osc_chroot.resources.removal import Attempt
from packer_plugin_osc_chroot.resources.snapshot import delete_snapshot
from packer_plugin_osc_chroot.resources.source_volume import copied_image
from packer_plugin_osc_chroot.ui import RecordingUi

FOREIGN = "ami-00000001"
NAME = "the name of both"


@pytest.fixture
def region(tmp_path: Path) -> Iterator[LocalCloud]:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(4096))
    omi = OmiEntry(id=FOREIGN, file=str(disk), owner="vendor", public=True)
    accounts = [AccountEntry("mine"), AccountEntry("vendor")]
    with LocalCloud(catalogue=Catalogue(accounts=accounts, omis=[omi])) as cloud:
        yield cloud
        assert cloud.defects == []


class Killed:
    """A build of which only the journal is left."""

    def __init__(self, region: LocalCloud, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700)
        self.cloud: Cloud = client(region)
        self.cloud.journal = Journal(directory)
        self.token = CancelToken()
        account = self.cloud.read("ReadAccounts", token=self.token)["Accounts"][0]["AccountId"]
        self.cloud.journal.begin(
            vm_id=region.vm_id,
            region=self.cloud.region,
            endpoint=self.cloud.endpoint,
            account_id=account,
            omi_name=NAME,
        )

    def snapshot(self) -> str:
        """A completed one, of a volume that is gone again."""
        made = self.cloud.change(
            "CreateVolume",
            token=self.token,
            SubregionName="eu-west-2a",
            Size=1,
            ClientToken=str(uuid.uuid4()),
        )
        volume_id = made["Volume"]["VolumeId"]
        self.wait("Volumes", "ReadVolumes", "VolumeIds", volume_id, "available")
        made = self.cloud.change(
            "CreateSnapshot", token=self.token, VolumeId=volume_id, ClientToken=str(uuid.uuid4())
        )
        snapshot_id = str(made["Snapshot"]["SnapshotId"])
        self.wait("Snapshots", "ReadSnapshots", "SnapshotIds", snapshot_id, "completed")
        self.cloud.change("DeleteVolume", token=self.token, VolumeId=volume_id)
        return snapshot_id

    def image(self, snapshot_id: str) -> str:
        bsu = {"SnapshotId": snapshot_id}
        made = self.cloud.change(
            "CreateImage",
            token=self.token,
            ImageName=NAME,
            Description="kept",
            RootDeviceName="/dev/sda1",
            BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Bsu": bsu}],
        )
        return str(made["Image"]["ImageId"])

    def wait(self, key: str, action: str, name: str, wanted: str, state: str) -> None:
        wait_for(
            wanted,
            lambda: self.cloud.one(action, key, token=self.token, **{name: [wanted]}),
            target=(state,),
            deadline=10.0,
            token=self.token,
            ui=RecordingUi(),
        )

    def story(self) -> Story:
        (file,) = self.directory.glob("*.journal")
        found = read_story(file.read_bytes())
        assert found is not None
        return found

    def undo(self) -> None:
        failures = undo_story(
            self.story(), self.cloud, host=Host(None), ui=RecordingUi(), token=CancelToken()
        )
        assert failures == []


def test_the_copy_of_a_foreign_omi_goes_with_its_snapshots(
    region: LocalCloud, tmp_path: Path
) -> None:
    build = Killed(region, tmp_path / "journal")
    shown = read_image(build.cloud, FOREIGN, token=build.token)
    assert shown is not None
    copied = copied_image(
        build.cloud, parse_source(shown), timeout=10.0, token=build.token, ui=RecordingUi()
    )
    with copied:
        assert len(region.images()) == len(region.snapshots()) == 1
        # How long a copy took says nothing of a new OMI: of that nothing is known.
        assert build.cloud.pace("OMI").may_end_within(0.0)
        assert not build.cloud.pace("copy of an OMI").may_end_within(0.0)
        build.undo()
        assert region.images() == [] and live_snapshots(region) == []


def test_a_cancel_ends_the_removal_of_a_copy_s_snapshots_too(
    region: LocalCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = Killed(region, tmp_path / "journal")
    copy = build.image(build.snapshot())
    interrupted = CancelToken(reason="interrupted")

    def delete_and_cancel(cloud: Cloud, key: str, *, token: CancelToken) -> None:
        delete_image(cloud, key, token=token)
        interrupted.cancel()

    monkeypatch.setattr(source_volume, "delete_image", delete_and_cancel)
    attempt = Attempt(resource_id=copy, may_stand=True)
    with pytest.raises(UndoError, match="^snapshot .* is left behind: interrupted"):
        source_volume.remove_copy(
            build.cloud, FOREIGN, NAME, attempt, ui=RecordingUi(), token=interrupted
        )
    assert region.images() == [] and len(live_snapshots(region)) == 1


def test_a_copy_that_cannot_go_is_named_with_each_of_its_snapshots(
    region: LocalCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = Killed(region, tmp_path / "journal")
    copy, disk = build.image(build.snapshot()), build.snapshot()

    def refuse(cloud: Cloud, key: str, *, token: CancelToken, tell: Any = None) -> None:
        raise CloudError("refused", action="DeleteX", status=403)

    def two_snapshots(image: Any) -> list[str]:
        return [*snapshots_in(image), disk]

    monkeypatch.setattr(source_volume, "delete_image", refuse)
    monkeypatch.setattr(source_volume, "delete_snapshot", refuse)
    monkeypatch.setattr(source_volume, "snapshots_in", two_snapshots)
    attempt = Attempt(resource_id=copy, may_stand=True)
    with pytest.raises(UndoError) as caught:
        source_volume.remove_copy(build.cloud, FOREIGN, NAME, attempt, ui=RecordingUi())
    failures = (caught.value, *caught.value.not_undone)
    left = [each for error in failures if isinstance(error, UndoError) for each in error.left]
    assert [each.split()[-1] for each in left] == [copy, *live_snapshots(region)]


@pytest.mark.parametrize("is_registered", [False, True])
def test_the_former_omi_comes_back(region: LocalCloud, tmp_path: Path, is_registered: bool) -> None:
    """Killed before its successor was registered, or before the build could say that it is done."""
    before = Killed(region, tmp_path / "before")
    former_id = before.image(before.snapshot())
    former = read_image(before.cloud, former_id, token=before.token)
    assert former is not None

    build = Killed(region, tmp_path / "journal")
    new = build.snapshot()
    build.cloud.journal.deregistering(former)
    delete_image(build.cloud, former_id, token=build.token)
    if is_registered:
        build.image(new)
    build.undo()
    assert_former_is_back(region, former)
    # Once more, as where something else could not be undone: it is there already.
    build.undo()
    assert_former_is_back(region, former)


def test_an_omi_that_the_api_shows_without_permissions_comes_back(
    region: LocalCloud, tmp_path: Path
) -> None:
    build = Killed(region, tmp_path / "journal")
    shown = read_image(build.cloud, build.image(build.snapshot()), token=build.token)
    assert shown is not None
    former = {key: value for key, value in shown.items() if key != "PermissionsToLaunch"}
    delete_image(build.cloud, former["ImageId"], token=build.token)
    deregistered = Attempt(resource_id=former["ImageId"], may_stand=True)
    bring_back(build.cloud, former, deregistered, ui=RecordingUi())
    assert_former_is_back(region, former)


def assert_former_is_back(region: LocalCloud, former: Any) -> None:
    (image,) = region.images()
    assert image.name == NAME and image.description == "kept"
    assert image.mappings == former["BlockDeviceMappings"]
    assert live_snapshots(region) == image.snapshot_ids()


def test_once_a_build_is_done_nothing_comes_back(region: LocalCloud, tmp_path: Path) -> None:
    build = Killed(region, tmp_path / "journal")
    snapshot_id = build.snapshot()
    build.cloud.journal.deregistering({"ImageId": "ami-12345678", "ImageName": NAME})
    build.cloud.journal.keep(snapshot_id, build.image(snapshot_id))
    assert build.story().former == []
    build.undo()
    assert len(region.images()) == 1


def test_what_comes_back_in_a_live_build_is_not_taken_back(
    region: LocalCloud, tmp_path: Path
) -> None:
    before = Killed(region, tmp_path / "before")
    former = read_image(before.cloud, before.image(before.snapshot()), token=before.token)
    assert former is not None
    build = Killed(region, tmp_path / "journal")
    delete_snapshot(build.cloud, build.snapshot(), token=build.token)
    build.cloud.journal.deregistering(former)
    delete_image(build.cloud, former["ImageId"], token=build.token)
    deregistered = Attempt(resource_id=former["ImageId"], may_stand=True)
    bring_back(build.cloud, former, deregistered, ui=RecordingUi())
    assert build.story().of("CreateImage") == []
    build.undo()
    assert_former_is_back(region, former)


class Struck(BaseException):
    """A SIGKILL."""


def test_a_build_that_is_killed_while_it_brings_one_back_does_not_lose_it(
    region: LocalCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Killed(region, tmp_path / "before")
    former = read_image(before.cloud, before.image(before.snapshot()), token=before.token)
    assert former is not None
    dead = Killed(region, tmp_path / "journal")
    delete_snapshot(dead.cloud, dead.snapshot(), token=dead.token)
    dead.cloud.journal.deregistering(former)
    delete_image(dead.cloud, former["ImageId"], token=dead.token)
    die(dead.cloud.journal)
    (file,) = dead.directory.iterdir()
    # The older one comes first, also of two within a second.
    file.rename(file.with_name("0.journal"))

    def strike(*given: Any, **named: Any) -> None:
        raise Struck

    with monkeypatch.context() as patch:
        patch.setattr(former_image, "_give_back", strike)
        with pytest.raises(Struck):
            undo_dead(region, dead)
    assert_former_is_back(region, former)
    undo_dead(region, dead)
    assert_former_is_back(region, former)
    assert [*dead.directory.iterdir()] == []


def undo_dead(region: LocalCloud, dead: Killed) -> None:
    """A build that gets no further than that."""
    cloud = client(region)
    cloud.journal = Journal(dead.directory)
    cloud.journal.begin(vm_id=region.vm_id, region=cloud.region, endpoint=cloud.endpoint)
    try:
        undo_dead_builds(
            cloud, vm_id=region.vm_id, host=Host(None), ui=RecordingUi(), token=CancelToken()
        )
    finally:
        assert cloud.journal.directory == dead.directory
        die(cloud.journal)


def die(journal: Journal) -> None:
    for descriptor in (journal._file, journal._folder):
        if descriptor >= 0:
            os.close(descriptor)
