"""The volume is unlinked once nothing has its disk any more, and not before."""

import os
import threading

import pytest
from in_process import assert_nothing_left, run

from packer_plugin_osc_chroot import cancel
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.ui import RecordingUi

pytestmark = pytest.mark.root


class ClaimingUi(RecordingUi):
    """Claims the disk when everything on it has been unmounted, as a filesystem that still writes."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = ""
        self.claim = -1

    def message(self, text: str) -> None:
        super().message(text)
        if text.startswith("Disk: "):
            self.disk = text.split()[1]

    def say(self, text: str) -> None:
        super().say(text)
        if text.startswith("Creating a snapshot"):
            self.claim = os.open(self.disk, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
            self.claimed()

    def claimed(self) -> None:
        """For a test to say what follows."""


def unlinked(cloud: LocalCloud) -> bool:
    return any(call.action == "UnlinkVolume" for call in cloud.record)


def test_waits_for_a_disk_that_is_still_in_use() -> None:
    unlinked_early: list[bool] = []
    with LocalCloud() as cloud:

        class ReleasingUi(ClaimingUi):
            def claimed(self) -> None:
                threading.Timer(1.5, self.release).start()

            def release(self) -> None:
                unlinked_early.append(unlinked(cloud))
                os.close(self.claim)

        run(cloud, ui=ReleasingUi())
        assert unlinked_early == [False]
        assert unlinked(cloud)
        assert_nothing_left(cloud)


def test_a_disk_that_stays_in_use_stays_linked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancel, "UNDO_SECONDS", 1.0)
    ui = ClaimingUi()
    with LocalCloud() as cloud:
        try:
            run(cloud, ui=ui)
            assert not unlinked(cloud)
        finally:
            os.close(ui.claim)
    assert f"{ui.disk} is still in use after 1 s" in ui.text
    assert "left: link of volume" in ui.text
