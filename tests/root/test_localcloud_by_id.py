"""Disks as OUTSCALE's VMs show them (--disks by-id), the VM's own disk, and disks that grow.

Its names are the machine's lowest letters: these tests run one after the other, in one worker.
"""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from in_process import assert_nothing_left, mounted, run
from test_localcloud_disks import Client, wait
from test_localcloud_disks import run as run_command

from packer_plugin_osc_chroot.localcloud import nodes
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.files import GIB
from packer_plugin_osc_chroot.localcloud.nodes import Style

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("by-id")]

ROOT = Path(__file__).resolve().parents[2]
BY_ID = Path("/dev/disk/by-id")
OF_F = BY_ID / "scsi-0QEMU_QEMU_HARDDISK_sdf"
PART_OF_F = Path(f"{OF_F}-part1")


@pytest.fixture
def cloud() -> Iterator[LocalCloud]:
    before = everything()
    with LocalCloud(disks="by-id", own_disk=True) as running:
        yield running
    # An empty folder that another one left may have gone with ours.
    assert everything() <= before
    assert running.defects == []


@pytest.fixture
def client(cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> Client:
    return Client(cloud, monkeypatch)


def everything() -> set[Path]:
    patterns = ("sd*", "xvd*", "disk", "disk/by-id", "disk/by-id/*")
    return {path for pattern in patterns for path in Path("/dev").glob(pattern)}


def test_a_volume_is_found_through_its_link(client: Client, tmp_path: Path) -> None:
    volume_id = client.volume()
    client.link(volume_id, "/dev/xvdf")
    node = OF_F.resolve()
    assert node.name.startswith("sd") and node.name != "sdf"
    assert stat.S_ISBLK(node.stat().st_mode)
    assert not os.path.lexists("/dev/xvdf") and not os.path.lexists("/dev/sdf")
    assert PART_OF_F.resolve() == Path(f"{node}1")
    run_command("mount", PART_OF_F, tmp_path)
    assert "localcloud" in (tmp_path / "etc/os-release").read_text()
    run_command("umount", tmp_path)
    client.unlink(volume_id)
    assert not os.path.lexists(OF_F) and not os.path.lexists(PART_OF_F)
    assert not os.path.lexists(node) and not os.path.lexists(f"{node}1")


def test_partitions_written_later_appear_with_their_links(client: Client) -> None:
    volume_id = client.volume(from_tiny=False)
    client.link(volume_id, "/dev/sdf")
    assert not os.path.lexists(PART_OF_F)
    run_command("parted", "-s", OF_F, "mklabel", "gpt", "mkpart", "a", "1MiB", "100MiB")
    wait(PART_OF_F.exists)
    node = OF_F.resolve()
    with open(OF_F, "r+b") as disk:
        disk.write(bytes(34 * 512))
        disk.seek(-33 * 512, os.SEEK_END)
        disk.write(bytes(33 * 512))
    wait(lambda: not os.path.lexists(PART_OF_F) and not os.path.lexists(f"{node}1"))
    client.unlink(volume_id)


def test_the_letters_of_two_volumes_cross(client: Client) -> None:
    """The API's sdb is here sdc while the API's sdc, linked before it, is sdb."""
    first, second = client.volume(), client.volume()
    client.link(first, "/dev/xvdc")
    client.link(second, "/dev/xvdb")
    assert nodes.link_of("xvdc").resolve().name == "sdb"
    assert nodes.link_of("xvdb").resolve().name == "sdc"
    client.unlink(first)
    assert nodes.link_of("xvdb").resolve().name == "sdc"
    assert Path(f"{nodes.link_of('xvdb')}-part1").exists()
    client.unlink(second)


@pytest.mark.parametrize("style", ["xvd", "by-id"])
def test_a_build(style: Style, tmp_path: Path) -> None:
    with LocalCloud(disks=style, own_disk=True) as cloud:
        own = Path("/dev/sda" if style == "by-id" else "/dev/xvda")
        assert own.exists() and Path(f"{own}1").exists()
        result = run(cloud)
        assert_nothing_left(cloud)
        with mounted(cloud.root_image(result.image_id), tmp_path) as root:
            assert (root / "made").read_text() == "yes\n"


# What others have


def number_of_a_real_disk() -> int:
    """Of any of the machine's that is no loop device."""
    return next(
        os.makedev(*map(int, (entry / "dev").read_text().split(":")))
        for entry in Path("/sys/block").iterdir()
        if not entry.name.startswith("loop")
    )


def test_names_of_others_are_left_alone(cloud: LocalCloud, client: Client) -> None:
    real = Path("/dev/sdb")
    stranger = nodes.link_of("xvdg")
    number = number_of_a_real_disk()
    os.mknod(real, 0o600 | stat.S_IFBLK, number)
    stranger.parent.mkdir(parents=True, exist_ok=True)
    stranger.symlink_to("../../sdb")
    try:
        volume_id = client.volume()
        asked = {"VolumeId": volume_id, "VmId": cloud.vm_id}
        assert client.status("LinkVolume", **asked, DeviceName="/dev/xvdb") == 409
        assert client.status("LinkVolume", **asked, DeviceName="/dev/xvdg") == 409
        client.link(volume_id, "/dev/xvdf")
        assert OF_F.resolve().name == "sdba"
        client.unlink(volume_id)
        assert os.readlink(stranger) == "../../sdb"
        assert os.lstat(real).st_rdev == number
    finally:
        stranger.unlink()
        real.unlink()


def test_a_second_region_has_letters_of_its_own(
    cloud: LocalCloud, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalCloud(disks="by-id", own_disk=True) as second:
        other = Client(second, monkeypatch)
        mine, its = client.volume(), other.volume()
        client.link(mine, "/dev/xvdf")
        asked = {"VolumeId": its, "VmId": second.vm_id}
        assert other.status("LinkVolume", **asked, DeviceName="/dev/xvdf") == 409
        other.link(its, "/dev/xvdg")
        assert nodes.link_of("xvdg").resolve() != OF_F.resolve()
    assert OF_F.exists() and PART_OF_F.exists() and Path("/dev/sda").exists()
    client.unlink(mine)


# After kill -9


@pytest.mark.parametrize("end", [("clean",), ("run", "--", "true")])
def test_a_killed_one_is_cleaned_up(end: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything()
    localcloud = [sys.executable, "-m", "packer_plugin_osc_chroot", "localcloud"]
    serving = subprocess.Popen(
        [*localcloud, "serve", "--disks", "by-id"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert serving.stdout is not None
    try:
        for line in serving.stdout:
            if line.startswith("export OSC_"):
                name, _, value = line.removeprefix("export ").strip().partition("=")
                monkeypatch.setenv(name, value)
            elif "NO_PROXY" in line:
                break
        link_a_volume()
        assert OF_F.exists() and PART_OF_F.exists() and Path("/dev/sda").exists()
    finally:
        serving.send_signal(signal.SIGKILL)
        serving.communicate()
    assert OF_F.exists()
    done = subprocess.run([*localcloud, *end], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert everything() == before
    if end == ("clean",):
        assert f"removed link {PART_OF_F}" in done.stderr
        assert "removed device node /dev/sda1" in done.stderr


def link_a_volume() -> None:
    from osc_sdk_python.call import Call

    api = Call(max_retries=0).api
    (vm,) = api("ReadVms")["Vms"]
    (image,) = api("ReadImages")["Images"]
    asked: dict[str, Any] = {
        "SubregionName": vm["Placement"]["SubregionName"],
        "SnapshotId": image["BlockDeviceMappings"][0]["Bsu"]["SnapshotId"],
    }
    volume_id = api("CreateVolume", **asked)["Volume"]["VolumeId"]
    here = {"Filters": {"VolumeIds": [volume_id]}}
    wait(lambda: bool(api("ReadVolumes", **here)["Volumes"][0]["State"] == "available"))
    api("LinkVolume", VolumeId=volume_id, VmId=vm["VmId"], DeviceName="/dev/xvdf")
    wait(
        lambda: bool(
            api("ReadVolumes", **here)["Volumes"][0]["LinkedVolumes"][0]["State"] == "attached"
        )
    )


# The VM's own disk


@pytest.mark.parametrize(("style", "name"), [("xvd", "xvda"), ("by-id", "sda")])
def test_the_vms_own_disk(style: Style, name: str) -> None:
    own = Path("/dev") / name
    with LocalCloud(disks=style, own_disk=True, source_omis={}):
        assert int((Path("/sys/class/block") / disk_of(own) / "size").read_text()) * 512 == 10 * GIB
        with pytest.raises(OSError, match="not permitted|Read-only|denied"):
            own.write_bytes(b"harm")
        if style == "by-id":
            assert nodes.link_of("xvda").resolve() == own
    assert not os.path.lexists(own) and not os.path.lexists(f"{own}1")


@pytest.mark.parametrize("style", ["xvd", "by-id"])
def test_a_real_disk_of_that_name_stays_as_it_is(style: Style) -> None:
    real = Path("/dev/sda")
    number = number_of_a_real_disk()
    os.mknod(real, 0o600 | stat.S_IFBLK, number)
    try:
        with LocalCloud(disks=style, own_disk=True, source_omis={}) as cloud:
            assert os.lstat(real).st_rdev == number
            assert not os.path.lexists("/dev/xvda")
            assert not os.path.lexists(nodes.link_of("xvda"))
        assert os.lstat(real).st_rdev == number and cloud.defects == []
    finally:
        real.unlink()


def disk_of(node: Path) -> str:
    number = node.stat().st_rdev
    return Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve().name


# Disks that grow


def test_a_linked_disk_grows(client: Client) -> None:
    volume_id = client.volume()
    client.link(volume_id, "/dev/xvdf")
    client.api("UpdateVolume", VolumeId=volume_id, Size=3)
    wait(lambda: bool(client.view(volume_id)["Size"] == 3))
    size = Path("/sys/class/block") / disk_of(OF_F) / "size"
    assert int(size.read_text()) * 512 == 3 * GIB
    client.unlink(volume_id)
