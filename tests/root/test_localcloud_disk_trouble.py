"""Trouble on demand with real disks: stale links, and an unlinking that waits for its snapshot."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from test_localcloud_disks import Client, wait

from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.latency import Latency
from packer_plugin_osc_chroot.localcloud.trouble import Fault, Trouble

pytestmark = pytest.mark.root

# Each worker of pytest-xdist has a name of its own, that no other test of the project uses.
NAME = f"/dev/xvdy{chr(ord('a') + int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0')[2:]) % 8)}"


@pytest.fixture
def running() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def started(
    running: ExitStack, monkeypatch: pytest.MonkeyPatch, *, latency: Latency, trouble: Trouble
) -> Client:
    cloud = running.enter_context(LocalCloud(latency=latency, trouble=trouble))
    return Client(cloud, monkeypatch)


def mapped(client: Client) -> list[str]:
    """The device names that the VM is shown to have."""
    (vm,) = client.api("ReadVms")["Vms"]
    return [mapping["DeviceName"] for mapping in vm["BlockDeviceMappings"]]


def test_links_show_late(running: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    trouble = Trouble(stale_reads=1.0)
    client = started(running, monkeypatch, latency=Latency(), trouble=trouble)
    made = client.api("CreateVolume", SubregionName=client.cloud.subregion, Size=1)["Volume"]
    volume_id = str(made["VolumeId"])
    asked = {"Filters": {"VolumeIds": [volume_id]}}
    wait(lambda: bool(client.api("ReadVolumes", **asked)["Volumes"]))
    client.api("LinkVolume", VolumeId=volume_id, VmId=client.cloud.vm_id, DeviceName=NAME)
    wait(Path(NAME).exists)
    assert client.view(volume_id)["LinkedVolumes"] == []
    assert mapped(client) == ["/dev/sda1"]
    wait(lambda: client.view(volume_id)["State"] == "in-use")
    wait(lambda: mapped(client) == ["/dev/sda1", NAME])
    wait(lambda: client.view(volume_id)["LinkedVolumes"][0]["State"] == "attached")
    client.api("UnlinkVolume", VolumeId=volume_id)
    wait(lambda: not os.path.lexists(NAME))
    assert client.view(volume_id)["LinkedVolumes"][0]["State"] == "attached"
    assert mapped(client) == ["/dev/sda1", NAME]
    wait(lambda: client.view(volume_id)["State"] == "available")
    assert mapped(client) == ["/dev/sda1"]


def test_a_volume_may_need_its_snapshot_to_be_unlinked(
    running: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble = Trouble(unlink_needs_snapshot=True)
    client = started(running, monkeypatch, latency=Latency(snapshot=1.0), trouble=trouble)
    volume_id = client.volume(from_tiny=False)
    client.link(volume_id, NAME)
    client.api("CreateSnapshot", VolumeId=volume_id)
    assert client.status("UnlinkVolume", VolumeId=volume_id) == 409
    assert client.view(volume_id)["LinkedVolumes"][0]["State"] == "attached"
    wait(lambda: client.cloud.snapshots()[0].state == "completed")
    client.unlink(volume_id)
    assert client.cloud.defects == []


def test_a_link_is_made_though_the_answer_says_no(
    running: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble = Trouble(faults=[Fault(action="LinkVolume", kind="503", after=True)])
    client = started(running, monkeypatch, latency=Latency(), trouble=trouble)
    volume_id = client.volume(from_tiny=False)
    asked = {"VolumeId": volume_id, "VmId": client.cloud.vm_id, "DeviceName": NAME}
    assert client.status("LinkVolume", **asked) == 503
    wait(lambda: client.view(volume_id)["LinkedVolumes"][0]["State"] == "attached")
    assert client.status("LinkVolume", **asked) == 409
    client.unlink(volume_id)
