"""Links that end while they are being made, on a machine that refuses the disk. Needs no root."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conformance import CONFORMANCE
from osc_sdk_python.call import Call

from packer_plugin_osc_chroot.localcloud.attacher import Attachment, NameTaken
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.latency import Latency


class Refusing:
    """An Attacher that takes its time and then fails. `taken` are the slots that are reserved."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.released: list[str] = []
        self.asked = threading.Event()
        self.may_fail = threading.Event()

    def reserve(self, slot: str) -> None:
        if slot in self.taken:
            raise NameTaken(slot)
        self.taken.add(slot)

    def release(self, slot: str) -> None:
        self.released.append(slot)
        self.taken.remove(slot)

    def attach(self, file: Path, *, slot: str) -> Attachment:
        self.asked.set()
        assert self.may_fail.wait(30)
        raise OSError(16, "no free loop device could be had")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("forced", [False, True])
def test_a_slot_is_given_back_once(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, forced: bool
) -> None:
    attacher = Refusing()
    with LocalCloud(source_omis={}, attacher=attacher, latency=Latency(unlink=0.2)) as cloud:
        for name, value in cloud.environment().items():
            monkeypatch.setenv(name, value)
        call = Call(max_retries=0)
        made = call.api("CreateVolume", SubregionName=cloud.subregion, Size=1)["Volume"]
        volume_id = made["VolumeId"]

        def shown() -> tuple[str, int]:
            (found,) = call.api("ReadVolumes", Filters={"VolumeIds": [volume_id]})["Volumes"]
            return found["State"], len(found["LinkedVolumes"])

        until(lambda: shown() == ("available", 0))
        link = {"VolumeId": volume_id, "VmId": cloud.vm_id, "DeviceName": "/dev/xvdf"}
        call.api("LinkVolume", **link)
        assert attacher.asked.wait(30)
        if forced:
            call.api("UnlinkVolume", VolumeId=volume_id, ForceUnlink=True)
        attacher.may_fail.set()
        until(lambda: bool(cloud.defects))
        if forced:
            # It is on its way off until that has come to its end.
            assert shown() == ("in-use", 1)
        until(lambda: shown() == ("available", 0))
        assert attacher.released == ["xvdf"] and attacher.taken == set()
        (defect,) = cloud.defects
        assert "no free loop device could be had" in str(defect)
    # Of which every test would hear.
    request.config.stash[CONFORMANCE].problems.clear()
