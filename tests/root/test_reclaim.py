"""Builds that were killed, and who undoes them: the next build, `reclaim`, or nobody."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import chaos_child
import pytest
from in_process import (
    OPTIONS,
    Provisioner,
    assert_nothing_left,
    build_on,
    live_snapshots,
    run,
)
from test_source_omi import region

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud import client, standing
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.cloud.credentials import find_credentials
from packer_plugin_osc_chroot.cloud.session import Sender
from packer_plugin_osc_chroot.errors import BuildError, CloudError
from packer_plugin_osc_chroot.journal.directory import STATE_VARIABLE
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.reclaim import command, undo
from packer_plugin_osc_chroot.ui import RecordingUi

pytestmark = pytest.mark.root


def child(
    cloud: LocalCloud, point: str, when: str, omi_name: str, **options: object
) -> "subprocess.CompletedProcess[str]":
    """A build in a process of its own, which is killed at that point."""
    environ = cloud.child_environment(os.environ) | {"CHAOS_OPTIONS": json.dumps(options)}
    argv = [sys.executable, chaos_child.__file__, point, when, omi_name]
    return subprocess.run(argv, env=environ, capture_output=True, text=True, check=False)


def killed(cloud: LocalCloud, point: str, **options: object) -> None:
    """A build that is killed right after something it does, such as "call LinkVolume"."""
    done = child(cloud, point, "after", "killed", **options)
    assert done.stdout.startswith(f"struck {point}"), done.stdout + done.stderr


def reclaim(cloud: LocalCloud, *arguments: str) -> int:
    return command.main(arguments, environ=cloud.environment())


def journals(cloud: LocalCloud) -> list[Path]:
    return [*Path(cloud.environment()[STATE_VARIABLE]).iterdir()]


def named(name: str) -> Config:
    return Config(**{**vars(OPTIONS), "omi_name": name})


@pytest.mark.parametrize("point", ["call CreateVolume", "command mount", "call CreateImage"])
def test_the_next_build_undoes_it_and_says_so(point: str) -> None:
    with LocalCloud() as cloud:
        killed(cloud, point)
        assert cloud.leftovers() or cloud.images()
        ui = RecordingUi()
        run(cloud, config=named("next"), ui=ui)
        said = ui.text.index('Undoing what the build of "killed" of ')
        assert said < ui.text.index("Creating a volume")
        assert_nothing_left(cloud)
        assert [image.name for image in cloud.images()] == ["next"]
        assert len(live_snapshots(cloud)) == 1
        assert journals(cloud) == []


def test_a_command_whose_pid_nobody_wrote_down_is_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A build may be killed in the moment between a command's start and its line in the journal."""
    with LocalCloud() as cloud:
        killed(cloud, "call LinkVolume")
        (journal,) = journals(cloud)
        mark = json.loads(journal.read_text().splitlines()[0])["mark"]
        left = subprocess.Popen(["sleep", "300"], env={"OSC_CHROOT_BUILD": mark})
        other = subprocess.Popen(["sleep", "300"], env={"OSC_CHROOT_BUILD": "of another"})
        try:
            assert reclaim(cloud) == 0
            assert left.wait(10) < 0 and other.poll() is None
        finally:
            for each in (left, other):
                each.kill()
                each.wait()
        assert f"Ending process {left.pid} " in capsys.readouterr().out
        assert_nothing_left(cloud)


def test_a_mount_that_comes_to_its_end_after_its_build_was_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The mount's process outlives the build, and reclaim may look too soon."""
    looks: list[str] = []
    unmount = undo._unmount

    def too_soon(*given: Any, **more: Any) -> None:
        looks.append("look")
        if len(looks) > 1:
            unmount(*given, **more)

    monkeypatch.setattr(undo, "_unmount", too_soon)
    with LocalCloud() as cloud:
        killed(cloud, "command mount")
        assert reclaim(cloud) == 0
        assert len(looks) == 2
        assert_nothing_left(cloud)
        assert journals(cloud) == []


def test_a_committed_omi_stays(capsys: pytest.CaptureFixture[str]) -> None:
    with LocalCloud() as cloud:
        killed(cloud, "journal keep")
        assert reclaim(cloud) == 0
        assert_nothing_left(cloud)
        assert [image.name for image in cloud.images()] == ["killed"]


@pytest.mark.parametrize("point", ["journal former", "call DeleteImage", "call CreateImage"])
def test_an_omi_that_made_room_comes_back(point: str, capsys: pytest.CaptureFixture[str]) -> None:
    with LocalCloud() as cloud:
        former = run(cloud, config=named("killed"))
        killed(cloud, point, force_deregister=True)
        assert reclaim(cloud) == 0
        assert_nothing_left(cloud)
        (image,) = cloud.images()
        assert image.name == "killed" and image.root_snapshot_id() == former.snapshot_ids[0]
        assert image.tags == {"made-by": former.region}
        assert len(live_snapshots(cloud)) == 1


def test_an_omi_that_made_room_stays_away_once_its_successor_is_complete(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with LocalCloud() as cloud:
        former = run(cloud, config=named("killed"))
        killed(cloud, "journal keep", force_deregister=True)
        assert reclaim(cloud) == 0
        (image,) = cloud.images()
        assert image.root_snapshot_id() != former.snapshot_ids[0]


@pytest.mark.parametrize("point", ["call CreateImage", "journal disk"])
def test_the_copy_of_a_foreign_omi_goes(
    tmp_path: Path, point: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with region(tmp_path, may_use_snapshot=False) as cloud:
        killed(cloud, point)
        assert reclaim(cloud) == 0
        assert_nothing_left(cloud)
        assert cloud.images() == [] and live_snapshots(cloud) == []


def test_an_endpoint_that_is_gone_amid_a_build(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That is said, undoing ends in time, and what is left is listed with what removes it."""
    gone = threading.Event()
    send = Sender.send

    def unanswered(sender: Sender, action: str, body: Mapping[str, Any]) -> Any:
        if gone.is_set():
            raise CloudError(f"{action}: no answer", action=action)
        return send(sender, action, body)

    monkeypatch.setattr(Sender, "send", unanswered)
    monkeypatch.setattr(client, "_RETRY_SECONDS", 1.0)
    monkeypatch.setattr(client, "_RETRY_PAUSE", 0.1)
    for module in (client, standing):
        monkeypatch.setattr(module, "SILENT_SECONDS", 2.0)
    ui = RecordingUi()
    with LocalCloud() as cloud:
        begun = time.monotonic()
        with pytest.raises(BuildError, match="no answer"):
            run(cloud, ui=ui, provisioner=Provisioner(look=lambda *given: gone.set()))
        assert time.monotonic() - begun < 20
        assert "no good answer for" in ui.text
        _, listed = ui.text.split("Still there, to be removed in this order:")
        assert [line.split()[0] for line in listed.splitlines()[1:]] == [
            *("snapshot", "link", "volume", "The")
        ]
        assert "packer-plugin-osc-chroot reclaim" in listed
        gone.clear()
        assert reclaim(cloud) == 0
        assert_nothing_left(cloud)


def test_a_living_build_is_not_touched(capsys: pytest.CaptureFixture[str]) -> None:
    with LocalCloud() as cloud:
        ends: list[int] = []
        run(cloud, provisioner=Provisioner(look=lambda *given: ends.append(reclaim(cloud))))
        assert ends == [0]
        assert_nothing_left(cloud)


def test_reclaim_first_looks_and_then_undoes(capsys: pytest.CaptureFixture[str]) -> None:
    with LocalCloud() as cloud:
        killed(cloud, "files place")
        left = cloud.leftovers()
        assert left
        assert reclaim(cloud, "--dry-run", "--json") == 0
        assert cloud.leftovers() == left
        (build,) = json.loads(capsys.readouterr().out)["builds"]
        assert build["omi_name"] == "killed" and not build["kept_by_on_error"]
        assert [each.split()[0] for each in build["found"]] == ["mount", "link", "volume"]
        assert reclaim(cloud) == 0
        assert "Nothing of it is left" in capsys.readouterr().out
        assert_nothing_left(cloud)
        assert reclaim(cloud) == 0
        assert capsys.readouterr().out == "There is nothing to reclaim.\n"


def test_what_an_abort_kept_is_removed_by_reclaim_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with LocalCloud() as cloud:
        # In a process of its own: what it keeps, it keeps until it ends, the lock of its disk too.
        done = child(
            cloud, "no point", "after", "kept", on_error="abort", post_mount_commands=["false"]
        )
        assert done.stdout.startswith("failed "), done.stdout + done.stderr
        assert "This command removes all of it: packer-plugin-osc-chroot reclaim" in done.stdout
        left = cloud.leftovers()
        assert left
        run(cloud, config=named("another"))
        assert cloud.leftovers() == left
        assert reclaim(cloud) == 0
        assert "(kept by -on-error):" in capsys.readouterr().out
        assert_nothing_left(cloud)


def test_a_command_that_goes_on_is_ended(capsys: pytest.CaptureFixture[str]) -> None:
    with LocalCloud() as cloud:
        command_line = f"sleep 1234.{os.getpid()}"
        find = ["pgrep", "--full", f"^{command_line}"]
        point = f"command /bin/sh -c {command_line}"
        done = child(cloud, point, "while", "x", pre_mount_commands=[command_line])
        assert done.stdout.startswith("struck"), done.stdout + done.stderr
        # The shell may have yet to become it.
        until = time.monotonic() + 10
        while subprocess.run(find, check=False).returncode:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert reclaim(cloud) == 0
        assert subprocess.run(find, check=False).returncode == 1
        assert_nothing_left(cloud)


def test_a_journal_of_another_vm_or_account_is_left_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with LocalCloud() as cloud:
        killed(cloud, "journal disk")
        left = cloud.leftovers()
        (journal,) = journals(cloud)
        text = journal.read_text()
        journal.write_text(text.replace(cloud.vm_id, "i-ffffffff"))
        ui = RecordingUi()
        run(cloud, config=named("next"), ui=ui)
        assert "on VM i-ffffffff: packer-plugin-osc-chroot reclaim tells more" in ui.text
        assert cloud.leftovers() == left
        account = json.loads(text.splitlines()[0])["account_id"]
        foreign = text.replace(cloud.vm_id, "i-ffffffff").replace(account, "999999999999")
        journal.write_text(foreign)
        assert reclaim(cloud) == 1
        assert "not of account 999999999999" in capsys.readouterr().err
        assert cloud.leftovers() == left
        journal.write_text(text)
        assert reclaim(cloud) == 0
        assert_nothing_left(cloud)


def test_after_a_reboot_mounts_are_not_looked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with LocalCloud() as cloud:
        killed(cloud, "journal disk")
        (journal,) = journals(cloud)
        boot = json.loads(journal.read_text().splitlines()[0])["boot_id"]
        journal.write_text(journal.read_text().replace(boot, "another"))
        assert reclaim(cloud) == 0
        assert_nothing_left(cloud)


def test_what_cannot_be_undone_is_tried_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with LocalCloud() as cloud:
        killed(cloud, "files place")
        (mount,) = [x.split()[1] for x in cloud.leftovers() if x.startswith("mount /mnt")][:1]
        # A swap file of the kernel's own: no process holds it, and nothing can be ended.
        swap = Path(mount) / "swap"
        swap.write_bytes(bytes(1 << 20))
        loop = subprocess.run(
            ["losetup", "--find", "--show", str(swap)], check=True, capture_output=True, text=True
        ).stdout.strip()
        try:
            ui = RecordingUi()
            run(cloud, config=named("next"), ui=ui)
            assert "cannot be unmounted" in ui.text
        finally:
            subprocess.run(["losetup", "--detach", loop], check=True)
        assert len(journals(cloud)) == 1
        run(cloud, config=named("after it"))
        assert_nothing_left(cloud)
        assert journals(cloud) == []


def test_orphans_are_named_and_removed_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    with LocalCloud() as cloud:
        result = run(cloud, config=named("stays"))
        killed(cloud, "call CreateSnapshot")
        (journal,) = journals(cloud)
        journal.unlink()
        # The VM was replaced: its links went with it. What is linked is nobody's orphan.
        assert reclaim(cloud, "--json", "--hours", "0") == 0
        found = json.loads(capsys.readouterr().out)["orphans"]
        assert [(each["kind"], each["removed"]) for each in found] == [("snapshot", False)]
        assert reclaim(cloud, "--orphans") == 0
        assert len(live_snapshots(cloud)) == 2, "too young"
        assert reclaim(cloud, "--orphans", "--hours", "0") == 0
        assert live_snapshots(cloud) == list(result.snapshot_ids)
        unlink_all(cloud)
        assert reclaim(cloud, "--orphans", "--hours", "0") == 0
        assert_nothing_left(cloud)
        assert [image.name for image in cloud.images()] == ["stays"]


def unlink_all(cloud: LocalCloud) -> None:
    environ = cloud.environment()
    token = CancelToken(deadline=20.0)
    client = Cloud(find_credentials(Config(), environ), region=environ["OSC_REGION"])
    for volume in client.pages("ReadVolumes", "Volumes", token=token):
        if [link["DeviceName"] for link in volume["LinkedVolumes"]] not in ([], ["/dev/sda1"]):
            client.change("UnlinkVolume", token=token, VolumeId=volume["VolumeId"])
            while not any("(available" in each for each in cloud.leftovers()):
                token.sleep(0.05)


def test_a_directory_that_others_may_write_to(tmp_path: Path) -> None:
    with LocalCloud() as cloud:
        planted = tmp_path / "planted"
        planted.mkdir()
        planted.chmod(0o777)
        environ = {**cloud.environment(), STATE_VARIABLE: str(planted)}
        with pytest.raises(BuildError, match="directory of journals"):
            build_on(environ)
        assert_nothing_left(cloud)


def test_no_journal_can_be_had(tmp_path: Path) -> None:
    with LocalCloud() as cloud:
        (tmp_path / "file").write_text("")
        environ = {**cloud.environment(), STATE_VARIABLE: str(tmp_path / "file" / "state")}
        ui = RecordingUi()
        build_on(environ, ui=ui)
        assert "warning: no journal in" in ui.text
        assert_nothing_left(cloud)
