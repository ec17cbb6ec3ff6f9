"""Linked volumes as real disks: nodes, partitions, names, and what callers do wrong with them."""

import os
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from osc_sdk_python.call import Call

from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.images import TINY_IMAGE_ID
from packer_plugin_osc_chroot.localcloud.latency import Latency

pytestmark = pytest.mark.root

# Letters that no other test of the project uses, and each worker of pytest-xdist its own.
_WORKER = chr(ord("k") + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 8)
NAMES = tuple(f"/dev/xvd{_WORKER}{letter}" for letter in "vwx")


class Client:
    """One Region's API in the words of these tests."""

    def __init__(self, cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cloud = cloud
        with monkeypatch.context() as patch:
            for name, value in cloud.environment().items():
                patch.setenv(name, value)
            self._call = Call(max_retries=0)

    def api(self, action: str, **parameters: Any) -> Any:
        return self._call.api(action, **parameters)

    def status(self, action: str, **parameters: Any) -> int:
        try:
            self.api(action, **parameters)
        except requests.HTTPError as error:
            assert error.response is not None
            return error.response.status_code
        return 200

    def volume(self, *, from_tiny: bool = True) -> str:
        asked: dict[str, Any] = {"SubregionName": self.cloud.subregion, "Size": 1}
        if from_tiny:
            (image,) = self.api("ReadImages", Filters={"ImageIds": [TINY_IMAGE_ID]})["Images"]
            asked["SnapshotId"] = image["BlockDeviceMappings"][0]["Bsu"]["SnapshotId"]
        volume_id = str(self.api("CreateVolume", **asked)["Volume"]["VolumeId"])
        wait(lambda: self.view(volume_id)["State"] == "available")
        return volume_id

    def view(self, volume_id: str) -> Any:
        (volume,) = self.api("ReadVolumes", Filters={"VolumeIds": [volume_id]})["Volumes"]
        return volume

    def link(self, volume_id: str, name: str) -> None:
        asked = {"VolumeId": volume_id, "VmId": self.cloud.vm_id, "DeviceName": name}
        self.api("LinkVolume", **asked)
        wait(lambda: self.view(volume_id)["LinkedVolumes"][0]["State"] == "attached")

    def unlink(self, volume_id: str) -> None:
        self.api("UnlinkVolume", VolumeId=volume_id)
        wait(lambda: self.view(volume_id)["State"] == "available")

    def snapshot(self, volume_id: str) -> str:
        snapshot_id = str(self.api("CreateSnapshot", VolumeId=volume_id)["Snapshot"]["SnapshotId"])
        self.wait_for_snapshot(snapshot_id)
        return snapshot_id

    def wait_for_snapshot(self, snapshot_id: str) -> None:
        filters = {"SnapshotIds": [snapshot_id], "States": ["completed"]}
        wait(lambda: bool(self.api("ReadSnapshots", Filters=filters)["Snapshots"]))


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def loops_below(directory: Path) -> list[str]:
    found = []
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        if entry.read_text().startswith(f"{directory}/"):
            found.append(entry.parent.parent.name)
    return found


@pytest.fixture
def cloud() -> Iterator[LocalCloud]:
    with LocalCloud() as running:
        directory = running.volume_file("vol").parent.parent
        yield running
    assert not directory.exists()
    assert loops_below(directory) == []
    assert not [name for name in NAMES if os.path.lexists(name)]


@pytest.fixture
def client(cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> Client:
    return Client(cloud, monkeypatch)


def test_linked_volume_is_a_disk_with_partitions(
    cloud: LocalCloud, client: Client, tmp_path: Path
) -> None:
    name = NAMES[0]
    volume_id = client.volume()
    assert client.view(volume_id)["LinkedVolumes"] == []
    client.link(volume_id, name)
    assert client.view(volume_id)["State"] == "in-use"
    (vm,) = client.api("ReadVms", Filters={"BlockDeviceMappingDeviceNames": [name]})["Vms"]
    assert vm["BlockDeviceMappings"][1]["Bsu"]["State"] == "attached"
    assert stat.S_ISBLK(os.stat(name).st_mode)
    run("mount", f"{name}1", tmp_path)
    assert "localcloud" in (tmp_path / "etc/os-release").read_text()
    (tmp_path / "etc/new").write_text("written in the chroot")
    run("umount", tmp_path)
    snapshot_id = client.snapshot(volume_id)
    client.unlink(volume_id)
    assert not os.path.lexists(name) and not os.path.lexists(f"{name}1")
    listing = run(
        "debugfs", "-R", "cat /etc/new", f"{cloud.snapshot_file(snapshot_id)}?offset=1048576"
    )
    assert listing == "written in the chroot"
    assert cloud.defects == []


def test_partitions_written_later_appear(cloud: LocalCloud, client: Client) -> None:
    name = NAMES[0]
    volume_id = client.volume(from_tiny=False)
    client.link(volume_id, name.replace("xvd", "sd"))  # The node is xvdX all the same.
    assert not os.path.exists(f"{name}1")
    run("parted", "-s", name, "mklabel", "gpt", "mkpart", "a", "1MiB", "100MiB")
    wait(lambda: os.path.exists(f"{name}1"))
    run("mkfs.ext4", "-q", f"{name}1")
    run("parted", "-s", name, "mkpart", "b", "100MiB", "200MiB")
    wait(lambda: os.path.exists(f"{name}2"))
    # A table written without telling the kernel, as dd and old tools do.
    with open(name, "r+b") as disk:
        disk.write(bytes(34 * 512))
        disk.seek(-33 * 512, os.SEEK_END)
        disk.write(bytes(33 * 512))
    wait(lambda: not os.path.exists(f"{name}1") and not os.path.exists(f"{name}2"))
    run("mkfs.ext4", "-q", "-F", name)
    client.unlink(volume_id)
    assert cloud.defects == []


def test_names(cloud: LocalCloud, client: Client) -> None:
    first, second = client.volume(), client.volume()
    client.link(first, NAMES[0])
    asked = {"VolumeId": second, "VmId": cloud.vm_id}

    def link(name: str) -> int:
        return client.status("LinkVolume", DeviceName=name, **asked)

    assert link(NAMES[0]) == 409
    assert link(NAMES[0].replace("xvd", "sd")) == 409
    assert link("/dev/sda1") == 409
    for wrong in ("/dev/xvda", "/dev/nvme1n1", "xvdb", "/dev/xvdf1", "/dev/xvdabc"):
        assert link(wrong) == 400
    os.mknod(NAMES[1], 0o600 | stat.S_IFBLK, os.makedev(7, 200))
    try:
        assert link(NAMES[1]) == 409  # A disk of somebody else.
    finally:
        os.unlink(NAMES[1])
    assert (
        client.status("LinkVolume", **{**asked, "VmId": "i-00000000", "DeviceName": NAMES[1]})
        == 400
    )
    assert (
        client.status("LinkVolume", **{**asked, "VolumeId": first, "DeviceName": NAMES[1]}) == 409
    )
    assert client.status("DeleteVolume", VolumeId=first) == 409
    assert link(NAMES[1]) == 200
    wait(lambda: client.view(second)["LinkedVolumes"][0]["State"] == "attached")
    client.unlink(first)
    client.unlink(second)
    assert cloud.defects == []


def test_two_regions_on_one_machine(
    cloud: LocalCloud, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalCloud() as other:
        stranger = Client(other, monkeypatch)
        first, second = client.volume(), stranger.volume()
        asked = {"VolumeId": second, "VmId": other.vm_id}
        client.link(first, NAMES[0])
        assert stranger.status("LinkVolume", DeviceName=NAMES[0], **asked) == 409
        stranger.link(second, NAMES[1])
    assert other.leftovers() == [f"volume {second} (in-use, attached as {NAMES[1]})"]
    assert not os.path.lexists(NAMES[1])
    assert os.path.exists(f"{NAMES[0]}1")
    client.unlink(first)


def test_one_name_goes_to_one_of_many_who_ask_at_once(
    cloud: LocalCloud, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalCloud() as other:
        askers = [client, Client(other, monkeypatch)] * 4
        volumes = [asker.volume(from_tiny=False) for asker in askers]

        def link(asker: Client, volume_id: str) -> int:
            asked = {"VmId": asker.cloud.vm_id, "DeviceName": NAMES[0]}
            return asker.status("LinkVolume", VolumeId=volume_id, **asked)

        with ThreadPoolExecutor(len(askers)) as pool:
            statuses = list(pool.map(link, askers, volumes))
    assert sorted(statuses) == [200] + [409] * 7


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.11])
def test_ending_in_the_middle_of_everything(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    latency = Latency(volume=0.1, link=0.1, unlink=0.1, snapshot=0.1, image=0.1)
    with LocalCloud(latency=latency) as cloud:
        client = Client(cloud, monkeypatch)
        linked, other = client.volume(), client.volume()
        client.link(linked, NAMES[0])
        client.api("CreateSnapshot", VolumeId=linked)
        client.api("UnlinkVolume", VolumeId=linked)
        asked = {"VolumeId": other, "VmId": cloud.vm_id, "DeviceName": NAMES[1]}
        client.api("LinkVolume", **asked)
        client.api("CreateVolume", SubregionName=cloud.subregion, Size=1)
        directory = cloud.volume_file(linked).parent.parent
        time.sleep(seconds)
    assert not directory.exists()
    assert loops_below(directory) == []
    assert not [name for name in NAMES if os.path.lexists(name)]
    assert cloud.defects == []


def test_forty_volumes_fill_a_vm(cloud: LocalCloud, client: Client) -> None:
    for number in range(39):
        volume_id = client.volume(from_tiny=False)
        name = f"/dev/xvd{'xy'[number // 26]}{chr(ord('a') + number % 26)}"
        client.link(volume_id, name)
    asked = {"VolumeId": client.volume(), "VmId": cloud.vm_id, "DeviceName": NAMES[0]}
    assert client.status("LinkVolume", **asked) == 400
    assert len(cloud.leftovers()) == 40


def test_other_subregion(cloud: LocalCloud, client: Client) -> None:
    made = client.api("CreateVolume", SubregionName="eu-west-2b", Size=1)["Volume"]["VolumeId"]
    wait(lambda: client.view(made)["State"] == "available")
    asked = {"VolumeId": made, "VmId": cloud.vm_id, "DeviceName": NAMES[0]}
    assert client.status("LinkVolume", **asked) == 409


def test_unlinking_a_mounted_volume_is_a_defect(
    cloud: LocalCloud, client: Client, tmp_path: Path
) -> None:
    volume_id = client.volume()
    client.link(volume_id, NAMES[0])
    run("mount", f"{NAMES[0]}1", tmp_path)
    try:
        assert cloud.leftovers()[1:] == [f"mount {tmp_path}"]
        client.unlink(volume_id)
        assert not os.path.lexists(NAMES[0])
        texts = [str(defect) for defect in cloud.defects]
        assert f"mounted on {tmp_path}" in texts[0]
        assert "taken away" in texts[1]
    finally:
        run("umount", tmp_path)


def test_unlinking_an_open_volume_is_a_defect(cloud: LocalCloud, client: Client) -> None:
    volume_id = client.volume()
    client.link(volume_id, NAMES[0])
    holder = subprocess.Popen(["sleep", "60"], stdin=open(NAMES[0], "rb"))
    try:
        client.unlink(volume_id)
    finally:
        holder.kill()
        holder.wait()
    assert f"open in process {holder.pid} (sleep)" in str(cloud.defects[0])


def test_a_probe_is_no_defect(cloud: LocalCloud, client: Client) -> None:
    volume_id = client.volume()
    client.link(volume_id, NAMES[0])
    probe = subprocess.Popen(["sleep", "0.1"], stdin=open(NAMES[0], "rb"))
    client.unlink(volume_id)
    probe.wait()
    assert cloud.defects == []


def test_snapshot_of_a_mounted_volume_is_a_defect(
    cloud: LocalCloud, client: Client, tmp_path: Path
) -> None:
    volume_id = client.volume()
    client.link(volume_id, NAMES[0])
    run("mount", f"{NAMES[0]}1", tmp_path)
    try:
        client.snapshot(volume_id)
    finally:
        run("umount", tmp_path)
    assert f"is mounted on {tmp_path}" in str(cloud.defects[0])


def test_writing_before_the_snapshot_is_completed_is_a_defect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with LocalCloud(latency=Latency(snapshot=0.5)) as cloud:
        client = Client(cloud, monkeypatch)
        quiet, loud = client.volume(), client.volume()
        client.link(quiet, NAMES[0])
        client.link(loud, NAMES[1])
        for volume_id in (quiet, loud):
            client.api("CreateSnapshot", VolumeId=volume_id)
        with open(NAMES[1], "r+b") as disk:
            disk.seek(5 * 1024**2)
            disk.write(b"too soon")
        client.unlink(quiet)  # Beside the snapshot's wait: allowed.
        client.unlink(loud)
    (defect,) = cloud.defects
    assert loud in str(defect) and "was written" in str(defect)


def test_deleting_while_the_snapshot_is_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalCloud(latency=Latency(snapshot=0.3)) as cloud:
        client = Client(cloud, monkeypatch)
        volume_id = client.volume()
        snapshot_id = client.api("CreateSnapshot", VolumeId=volume_id)["Snapshot"]["SnapshotId"]
        client.api("DeleteVolume", VolumeId=volume_id)
        client.wait_for_snapshot(snapshot_id)
        assert cloud.snapshot_file(snapshot_id).stat().st_blocks > 0
        assert not cloud.volume_file(volume_id).exists()
    assert cloud.defects == []


def test_what_is_left_mounted_is_unmounted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with LocalCloud() as cloud:
        client = Client(cloud, monkeypatch)
        volume_id = client.volume()
        client.link(volume_id, NAMES[0])
        run("mount", f"{NAMES[0]}1", tmp_path)
        run("mount", "-t", "proc", "proc", tmp_path / "proc")
        directory = cloud.volume_file(volume_id).parent.parent
    assert cloud.leftovers() == [
        f"volume {volume_id} (in-use, attached as {NAMES[0]})",
        f"mount {tmp_path}",
    ]
    assert list(tmp_path.iterdir()) == []
    assert loops_below(directory) == []
    assert not os.path.lexists(NAMES[0])


def test_source_file_is_not_changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with LocalCloud() as first:
        source = tmp_path / "source.raw"
        first.export(TINY_IMAGE_ID, source)
    before = (source.stat().st_mtime_ns, source.stat().st_size)
    with LocalCloud(source_omis={TINY_IMAGE_ID: source}) as cloud:
        client = Client(cloud, monkeypatch)
        volume_id = client.volume()
        client.link(volume_id, NAMES[0])
        run("mkfs.ext4", "-q", "-F", f"{NAMES[0]}1")
        client.unlink(volume_id)
    assert (source.stat().st_mtime_ns, source.stat().st_size) == before
    assert cloud.defects == []


def test_a_mount_in_another_namespace_is_seen(
    cloud: LocalCloud, client: Client, tmp_path: Path
) -> None:
    volume_id = client.volume()
    client.link(volume_id, NAMES[0])
    script = f"mount {NAMES[0]}1 {tmp_path} && echo mounted && exec sleep 60"
    hidden = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script], stdout=subprocess.PIPE, text=True
    )
    try:
        assert hidden.stdout is not None
        assert hidden.stdout.readline() == "mounted\n"
        assert not os.path.ismount(tmp_path)
        client.unlink(volume_id)
    finally:
        hidden.kill()
        hidden.communicate()
    assert f"namespace of process {hidden.pid}" in str(cloud.defects[0])
