"""From each kind of wait, a cancel is noticed within a second: then undoing begins."""

import dataclasses
import threading
import time

import pytest
from in_process import OPTIONS, assert_nothing_left, live_snapshots, run

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import Cancelled
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.latency import Latency
from packer_plugin_osc_chroot.localcloud.trouble import Fault, Trouble
from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.ui import RecordingUi

pytestmark = pytest.mark.root

MOST_SECONDS = 1.0
SLOW = dataclasses.replace(OPTIONS, post_mount_commands=("trap '' TERM; sleep 30",))
REFUSED = [Fault(action="CreateSnapshot", kind="503", count=1000)]
HANGS = [Fault(action="CreateVolume", kind="slow", seconds=3.0)]
HANGS_WHEN_DONE = [Fault(action="CreateSnapshot", kind="slow", seconds=3.0, after=True)]
LOST = [Fault(action="ReadSnapshots", kind="500", nth=1, count=4)]

# What is waited for: the Region, the build, and what is said when the wait has begun.
WAITS: dict[str, tuple[LocalCloud, Config, str]] = {
    "a volume": (LocalCloud(latency=Latency(volume=3.0)), OPTIONS, "Volume: "),
    "a link": (LocalCloud(latency=Latency(link=3.0)), OPTIONS, "Linking the volume"),
    "a command": (LocalCloud(), SLOW, "Running on this VM: trap"),
    "a snapshot": (LocalCloud(latency=Latency(snapshot=30.0)), OPTIONS, "Snapshot: "),
    "an OMI": (LocalCloud(latency=Latency(image=30.0)), OPTIONS, "OMI: "),
    "a call that is refused": (
        LocalCloud(trouble=Trouble(faults=REFUSED)),
        OPTIONS,
        "Creating a snapshot",
    ),
    "a creation that is not answered": (
        LocalCloud(trouble=Trouble(faults=HANGS)),
        OPTIONS,
        "Creating a volume",
    ),
    "a creation that is done and not answered": (
        LocalCloud(trouble=Trouble(faults=HANGS_WHEN_DONE)),
        OPTIONS,
        "Creating a snapshot",
    ),
    "a read that fails": (
        LocalCloud(latency=Latency(snapshot=3.0), trouble=Trouble(faults=LOST)),
        OPTIONS,
        "Snapshot: ",
    ),
}


class WatchedUi(RecordingUi):
    """Cancels shortly after a text was heard, and notes when undoing begins."""

    def __init__(self, text: str, token: CancelToken) -> None:
        super().__init__()
        self._text = text
        self._token = token
        self._waiting = True
        self.cancelled_at = self.undone_at = 0.0

    def say(self, text: str) -> None:
        super().say(text)
        self._hear(text)

    def message(self, text: str) -> None:
        super().message(text)
        self._hear(text)

    def _hear(self, text: str) -> None:
        if self._waiting and text.startswith(self._text):
            self._waiting = False
            threading.Timer(0.7, self._cancel).start()
        elif self.cancelled_at and not self.undone_at:
            self.undone_at = time.monotonic()

    def _cancel(self) -> None:
        self.cancelled_at = time.monotonic()
        self._token.cancel()


@pytest.mark.parametrize("what", WAITS)
def test_a_cancel_is_noticed(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    region, config, text = WAITS[what]
    token = CancelToken()
    ui = WatchedUi(text, token)
    with region as cloud:
        with pytest.raises(Cancelled):
            run(cloud, config=config, ui=ui, token=token)
        assert_nothing_left(cloud)
        assert cloud.images() == [] and live_snapshots(cloud) == []
    seconds = ui.undone_at - ui.cancelled_at
    with capsys.disabled():
        print(f"\ncancelled from waiting for {what}: undoing began after {seconds:.2f} s")
    assert 0 <= seconds < MOST_SECONDS, ui.text
