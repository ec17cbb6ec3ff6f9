"""Trouble on demand with real disks: links that are stale or stuck, disks and names not there."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from test_localcloud_disks import Client, wait

from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.latency import Latency
from packer_plugin_osc_chroot.localcloud.trouble import Fate, Fault, Trouble

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


def linked(client: Client, volume_id: str) -> str:
    """The state of the volume's link, empty where it has none."""
    states = [link["State"] for link in client.view(volume_id)["LinkedVolumes"]]
    return str(states[0]) if states else ""


def test_a_link_that_never_attaches(running: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    trouble = Trouble(fates=[Fate(action="LinkVolume", end="never")])
    client = started(running, monkeypatch, latency=Latency(), trouble=trouble)
    volume_id = client.volume()
    asked = {"VolumeId": volume_id, "VmId": client.cloud.vm_id, "DeviceName": NAME}
    assert client.status("LinkVolume", **asked) == 200
    time.sleep(0.2)
    assert linked(client, volume_id) == "attaching" and not os.path.lexists(NAME)
    assert client.status("UnlinkVolume", VolumeId=volume_id) == 409
    client.api("UnlinkVolume", VolumeId=volume_id, ForceUnlink=True)
    wait(lambda: client.view(volume_id)["State"] == "available")
    client.link(volume_id, NAME)
    client.unlink(volume_id)


def test_an_unlink_that_never_ends(running: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    trouble = Trouble(fates=[Fate(action="UnlinkVolume", end="never")])
    client = started(running, monkeypatch, latency=Latency(), trouble=trouble)
    volume_id = client.volume()
    client.link(volume_id, NAME)
    client.api("UnlinkVolume", VolumeId=volume_id)
    time.sleep(0.2)
    assert linked(client, volume_id) == "detaching" and os.path.lexists(NAME)
    assert client.status("DeleteVolume", VolumeId=volume_id) == 409
    client.api("UnlinkVolume", VolumeId=volume_id, ForceUnlink=True)
    wait(lambda: client.view(volume_id)["State"] == "available")
    assert not os.path.lexists(NAME)


def test_a_region_ends_though_its_links_are_stuck(
    running: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble = Trouble(fates=[Fate(action="UnlinkVolume", end="never")])
    with LocalCloud(trouble=trouble) as cloud:
        client = Client(cloud, monkeypatch)
        volume_id = client.volume()
        client.link(volume_id, NAME)
        client.api("UnlinkVolume", VolumeId=volume_id)
    assert cloud.defects == [] and not os.path.lexists(NAME)


def test_a_disk_that_never_appears(running: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    trouble = Trouble(fates=[Fate(action="LinkVolume", end="no-disk")])
    client = started(running, monkeypatch, latency=Latency(), trouble=trouble)
    volume_id = client.volume()
    client.link(volume_id, NAME)
    time.sleep(0.2)
    assert not os.path.lexists(NAME)
    client.unlink(volume_id)


def test_a_disk_that_appears_late(running: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    client = started(running, monkeypatch, latency=Latency(disk=0.5), trouble=Trouble())
    volume_id = client.volume()
    client.link(volume_id, NAME)
    assert not os.path.lexists(NAME)
    wait(Path(f"{NAME}1").exists)
    client.unlink(volume_id)


def test_a_name_that_is_taken_though_nothing_shows_it(
    running: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = started(running, monkeypatch, latency=Latency(), trouble=Trouble(taken_names=[NAME]))
    volume_id = client.volume()
    asked = {"VolumeId": volume_id, "VmId": client.cloud.vm_id}
    for name in (NAME, NAME.replace("xvd", "sd")):
        assert client.status("LinkVolume", DeviceName=name, **asked) == 409
    assert mapped(client) == ["/dev/sda1"]
    client.cloud.set_trouble(Trouble())
    client.link(volume_id, NAME)
    client.unlink(volume_id)
