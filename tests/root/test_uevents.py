"""A disk that comes is noticed by the kernel's own word, and by looking where there is none."""

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import Cancelled
from packer_plugin_osc_chroot.host import uevents
from packer_plugin_osc_chroot.host.uevents import disk_sign

pytestmark = pytest.mark.root


class Appearing:
    """A loop device that is made after a while, and what of it is seen."""

    def __init__(self, image: Path) -> None:
        self._image = image
        self.device = ""

    def make(self) -> None:
        argv = ["losetup", "--find", "--show", str(self._image)]
        self.device = subprocess.run(
            argv, check=True, capture_output=True, text=True
        ).stdout.strip()

    def is_there(self) -> bool:
        for shown in Path("/sys/block").glob("loop*/loop/backing_file"):
            with suppress(OSError):
                if shown.read_text().strip() == str(self._image):
                    return True
        return False


@pytest.fixture
def appearing(tmp_path: Path) -> Iterator[Appearing]:
    image = tmp_path / "disk"
    with open(image, "wb") as file:
        file.truncate(1 << 20)
    found = Appearing(image)
    later = threading.Timer(0.5, found.make)
    later.start()
    try:
        yield found
    finally:
        later.join()
        subprocess.run(["losetup", "--detach", found.device], check=True)


def test_a_disk_is_noticed_by_the_kernels_word(
    appearing: Appearing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uevents, "_LOOK_EVERY", 60.0)
    begun = time.monotonic()
    with disk_sign(appearing.is_there) as sign:
        assert sign(30.0, CancelToken())
    # It would have been for half a minute.
    assert time.monotonic() - begun < 10


def test_a_disk_is_noticed_without_the_kernels_word(
    appearing: Appearing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uevents, "_kernel_events", lambda: None)
    begun = time.monotonic()
    with disk_sign(appearing.is_there) as sign:
        assert sign(30.0, CancelToken())
    assert time.monotonic() - begun < 10


def test_waiting_for_a_disk_has_an_end() -> None:
    with disk_sign(lambda: False) as sign:
        assert not sign(0.2, CancelToken())


def test_waiting_for_a_disk_is_cancelled() -> None:
    token = CancelToken()
    threading.Timer(0.2, token.cancel).start()
    begun = time.monotonic()
    with disk_sign(lambda: False) as sign, pytest.raises(Cancelled):
        sign(30.0, token)
    assert time.monotonic() - begun < 2
