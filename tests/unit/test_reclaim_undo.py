"""Undoing a dead build: what its journal cannot tell from what is others'."""

import os
from typing import Any

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.journal.story import About, Effect, Story
from packer_plugin_osc_chroot.reclaim.undo import undo_story
from packer_plugin_osc_chroot.ui import RecordingUi


class Untouchable:
    """An API that nobody may call."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was called")


ABOUT = About(
    vm_id="i-1",
    region="r",
    endpoint="e",
    account_id="a",
    omi_name="n",
    boot_id="another",
    pid=os.getpid(),
    at=0,
)


def test_what_nothing_identifies_is_not_looked_for() -> None:
    effects = [Effect("CreateSnapshot", {}), Effect("CreateVolume", {"VolumeId": "vol-1"})]
    left = undo_story(
        Story(ABOUT, effects),
        Untouchable(),  # type: ignore[arg-type]
        host=Host(),
        ui=RecordingUi(),
        token=CancelToken(),
    )
    assert left == []
