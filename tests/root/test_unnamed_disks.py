"""Whole builds on a VM whose disks carry no name that tells whose they are."""

import dataclasses
import fcntl
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from in_process import OPTIONS, Provisioner, assert_nothing_left, mounted, run

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.context import Communicator
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.host import disk_search, link_lock
from packer_plugin_osc_chroot.host.disk import Disk
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.resources import link
from packer_plugin_osc_chroot.ui import RecordingUi

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The localcloud's disks have their names: nobody looks at them."""
    monkeypatch.setattr(disk_search, "certain_paths", lambda *args, **kwargs: [])
    monkeypatch.setattr(disk_search, "_NAMED_SECONDS", 0.3)


def test_one_build_takes_what_appeared() -> None:
    with LocalCloud() as cloud:
        run(cloud)
        assert_nothing_left(cloud)
        links = [
            call
            for call in cloud.record
            if call.action == "LinkVolume" and not call.parameters.get("DryRun")
        ]
        assert len(links) == 1


def test_builds_at_once_never_take_each_others_disk(tmp_path: Path) -> None:
    names = ["one", "two", "three"]
    ready = threading.Barrier(len(names))
    failures: list[BaseException] = []
    uis = {name: RecordingUi() for name in names}

    def build(name: str) -> None:
        def mark(communicator: Communicator, data: Mapping[str, str]) -> None:
            communicator.files.upload("/whose", [name.encode()], mode=0o644, token=CancelToken())

        ready.wait()
        try:
            config = dataclasses.replace(OPTIONS, omi_name=f"build {name}")
            run(cloud, config=config, ui=uis[name], provisioner=Provisioner(look=mark))
        except BaseException as error:
            failures.append(error)

    with LocalCloud() as cloud:
        run_all([threading.Thread(target=build, args=[name]) for name in names])
        assert failures == []
        assert_nothing_left(cloud)
        for image in cloud.images():
            exported = tmp_path / "exported.raw"
            cloud.export(image.image_id, exported)
            at = tmp_path / "mnt"
            at.mkdir(exist_ok=True)
            with mounted(exported, at):
                assert image.name == f"build {(at / 'whose').read_text()}"
            exported.unlink()
    assert any("linking again, with no other build beside" in ui.text for ui in uis.values())


def run_all(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_disk_that_another_build_has_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever said that it was ours. Its link is undone though the other's disk is in use."""
    tmp_path.chmod(0o1777)
    monkeypatch.setattr(link_lock, "_DIRECTORIES", (tmp_path,))
    config = dataclasses.replace(OPTIONS, pre_mount_commands=("mkfs.ext4 -F {{.Device}}",))
    ui = RecordingUi()
    with LocalCloud() as cloud, ExitStack() as others:
        for minor in range(256):
            lock = (tmp_path / f"packer-plugin-osc-chroot-disk-7:{minor}.lock").open("w")
            fcntl.flock(others.enter_context(lock), fcntl.LOCK_EX)
        with pytest.raises(BuildError, match="is the disk of another build on this VM"):
            run(cloud, config=config, ui=ui)
        assert_nothing_left(cloud)
    assert "mkfs" not in ui.text


def test_disk_that_something_else_uses_is_not_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """As what mounts new disks by itself, or a build in a container of its own."""
    find = disk_search.find_disk
    ui = RecordingUi()

    def taken(*args: Any, **kwargs: Any) -> Disk:
        disk = find(*args, **kwargs)
        claim = os.open(disk.path, os.O_RDONLY | os.O_EXCL)
        threading.Timer(4.0, os.close, [claim]).start()
        return disk

    monkeypatch.setattr(link, "find_disk", taken)
    config = dataclasses.replace(OPTIONS, pre_mount_commands=("wipefs -a {{.Device}}",))
    with LocalCloud() as cloud:
        with pytest.raises(BuildError, match="/dev/xvdb or its disk is claimed already, by"):
            run(cloud, config=config, ui=ui)
        assert_nothing_left(cloud)
    assert "wipefs" not in ui.text
