"""What the kernel says of real block devices: which there are, and what uses them."""

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from guest_tree import run

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.disk import disks, is_claimed, mounts_of, partitions
from packer_plugin_osc_chroot.host.holders import machine_files

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


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    with ExitStack() as stack:
        yield Nodes(tmp_path, stack)


def test_disks_are_noted(nodes: Nodes) -> None:
    node = nodes.add("sdf")
    (nodes.dev / "null").touch()
    (nodes.dev / "link").symlink_to("sdf")
    assert list(disks(dev=nodes.dev)) == [node]


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
