"""Whole builds on a VM whose disks carry no name that tells whose they are."""

import dataclasses
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from in_process import OPTIONS, Provisioner, assert_nothing_left, mounted, run

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.context import Communicator
from packer_plugin_osc_chroot.host import disk_search
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
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
