"""Which disk is the one of a link: by its name, and by whether it was there before."""

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from guest_tree import run

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.host import disk
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.disk import disks, find_disk, is_claimed, mounts_of, partitions
from packer_plugin_osc_chroot.host.holders import machine_files
from packer_plugin_osc_chroot.options import checks

pytestmark = pytest.mark.root


class Nodes:
    """A /dev of its own. Every disk in it has 1 GiB and a loop device."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.dev = directory / "dev"
        self.dev.mkdir()
        self._image = directory / "disk.img"
        self._stack = stack
        run("truncate", "-s", "1G", str(self._image))

    def add(self, name: str) -> Path:
        loop = run("losetup", "--find", "--show", str(self._image))
        self._stack.callback(run, "losetup", "-d", loop)
        node = self.dev / name
        os.mknod(node, 0o600 | stat.S_IFBLK, os.stat(loop).st_rdev)
        return node

    def find(self, *, before: dict[Path, str], device_path: str = "") -> str:
        found = find_disk(
            "vol-1",
            api_name="/dev/xvdf",
            device_path=device_path,
            size=1,
            token=CancelToken(),
            before=before,
            dev=self.dev,
        )
        return found.path.name


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    monkeypatch.setattr(disk, "_APPEAR_SECONDS", 0.2)
    with ExitStack() as stack:
        yield Nodes(tmp_path, stack)


@contextmanager
def none_found() -> Iterator[None]:
    with pytest.raises(BuildError, match="no disk of 1 GiB appeared"):
        yield


def test_disks_are_noted(nodes: Nodes) -> None:
    node = nodes.add("sdf")
    (nodes.dev / "null").touch()
    (nodes.dev / "link").symlink_to("sdf")
    assert list(disks(dev=nodes.dev)) == [node]


def test_disk_of_the_name_that_appeared(nodes: Nodes) -> None:
    before = disks(dev=nodes.dev)
    nodes.add("xvdf")
    assert nodes.find(before=before) == "xvdf"


@pytest.mark.parametrize("name", ["xvdf", "sdf"])
def test_disk_that_was_there_before_is_another(nodes: Nodes, name: str) -> None:
    node = nodes.add(name)
    before = disks(dev=nodes.dev)
    with none_found():
        nodes.find(before=before)
    assert nodes.find(before=before, device_path=str(node)) == name


@pytest.mark.parametrize("name", ["xvdf", "sdf"])
def test_new_disk_with_the_name_of_one_that_went(nodes: Nodes, name: str) -> None:
    node = nodes.add(name)
    before = disks(dev=nodes.dev)
    node.unlink()
    nodes.add(name)
    assert nodes.find(before=before) == name


def test_letters_of_the_kernel_count_only_for_a_new_disk_without_udev(nodes: Nodes) -> None:
    before = disks(dev=nodes.dev)
    nodes.add("sdf")
    assert nodes.find(before=before) == "sdf"
    (nodes.dev / "disk/by-id").mkdir(parents=True)
    with none_found():
        nodes.find(before=before)


def test_link_by_id_is_certain_unless_it_leads_to_an_old_disk(nodes: Nodes) -> None:
    nodes.add("sdc")
    before = disks(dev=nodes.dev)
    nodes.add("sdd")
    link = nodes.dev / "disk/by-id/scsi-0QEMU_QEMU_HARDDISK_sdf"
    link.parent.mkdir(parents=True)
    link.symlink_to("../../sdc")
    with none_found():
        nodes.find(before=before)
    link.unlink()
    link.symlink_to("../../sdd")
    assert nodes.find(before=before) == "sdd"


def test_mounts_are_named_as_they_are(nodes: Nodes, tmp_path: Path) -> None:
    node = nodes.add("xvdf")
    run("mkfs.ext4", "-q", str(node))
    place = tmp_path / "with space"
    place.mkdir()
    run("mount", str(node), str(place))
    try:
        assert mounts_of(node) == [str(place)]
    finally:
        run("umount", str(place))
    assert mounts_of(node) == []


def test_disk_under_another_name_is_shown_with_what_helps(nodes: Nodes) -> None:
    nodes.add("sdb")
    before = disks(dev=nodes.dev)
    vdb = nodes.add("vdb")
    with pytest.raises(BuildError) as caught:
        nodes.find(before=before)
    assert f"{vdb} (1.0 GiB, new)" in caught.value.details[0]
    assert f"{nodes.dev / 'sdb'} (1.0 GiB)," in caught.value.details[0]
    # What the hint says can be done, and helps.
    assert 'set device_path = "/dev/xvdf"' in caught.value.hint
    assert checks.device("/dev/xvdf") is None
    (nodes.dev / "xvdf").symlink_to("vdb")
    assert nodes.find(before=before, device_path=str(nodes.dev / "xvdf")) == "vdb"


@pytest.mark.parametrize("host", [Host(), Host(wrap=lambda command: f"sudo -n {command}")])
def test_claim_of_a_partition_is_one_of_the_disk(tmp_path: Path, host: Host) -> None:
    image = tmp_path / "disk.img"
    run("truncate", "-s", "8M", str(image))
    run("sh", "-c", 'echo start=2048 | sfdisk -q "$1"', "sh", str(image))
    loop = Path(run("losetup", "--find", "--show", "--partscan", str(image)))
    try:
        run("partx", "--update", str(loop))
        (partition,) = partitions(loop)
        with machine_files(host) as files:
            assert not is_claimed(files, loop, token=CancelToken())
            claim = os.open(partition, os.O_RDONLY | os.O_EXCL)
            try:
                assert is_claimed(files, loop, token=CancelToken())
            finally:
                os.close(claim)
            assert not is_claimed(files, loop, token=CancelToken())
            assert not is_claimed(files, tmp_path / "gone", token=CancelToken())
    finally:
        run("losetup", "-d", str(loop))
