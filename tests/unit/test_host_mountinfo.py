"""The kernel's mount table, with the names that it escapes."""

import os

import pytest

from packer_plugin_osc_chroot.host.mountinfo import (
    Mount,
    is_below,
    mount_id_of,
    mounts_below,
    parse_mountinfo,
    read_mounts,
    unmount_order,
)

TABLE = rb"""22 27 0:21 / /proc rw,relatime shared:5 - proc proc rw
31 27 7:1 / /mnt/with\040space\011tab\012line\134back rw shared:1 master:2 - ext4 /dev/loop1 rw
32 31 0:40 /sub /mnt/\303\251 rw - fuse.sshfs user@host:/x\040y rw
"""


def test_fields_and_escapes() -> None:
    proc, spaced, fuse = parse_mountinfo(TABLE)
    assert proc.mount_id == 22
    assert proc.mount_point == "/proc" and proc.fstype == "proc"
    assert spaced.mount_point == "/mnt/with space\ttab\nline\\back"
    assert spaced.device_number == "7:1" and spaced.source == "/dev/loop1"
    assert fuse.mount_point == "/mnt/é" and fuse.source == "user@host:/x y"


def test_own_table() -> None:
    assert "/proc" in [mount.mount_point for mount in read_mounts()]
    assert [mount.mount_point for mount in mounts_below("/proc")][0] == "/proc"
    assert mounts_below("/pro") == []


@pytest.mark.parametrize(
    ("table", "order"),
    [
        ("1:/ 2:/a>1 3:/a/b>2 4:/c>1", "4 3 2 1"),
        # Something over the top, and over a folder that has a mount in it.
        ("1:/ 2:/a/b>1 3:/a>1 4:/>1", "4 3 2 1"),
        ("1:/ 2:/>1 3:/a>2", "3 2 1"),
        # The first was moved onto the last.
        ("1:/ 2:/b/in>3 3:/b>1", "2 3 1"),
        ("7:/a>1 8:/b>1 9:/a/c>7", "9 8 7"),
    ],
)
def test_unmounted_in_an_order_in_which_nothing_is_in_the_way(table: str, order: str) -> None:
    mounts = []
    for line in table.split():
        number, _, rest = line.partition(":")
        point, _, parent = rest.partition(">")
        mounts.append(Mount(int(number), int(parent or 99), "0:1", point, "tmpfs", "t"))
    assert [each.mount_id for each in unmount_order(mounts)] == [
        int(each) for each in order.split()
    ]


def test_paths_below() -> None:
    assert is_below("/a", "/a") and is_below("/a/b", "/a") and is_below("/a", "/")
    assert not is_below("/ab", "/a") and not is_below("/", "/a")


def test_mount_of_an_open_file() -> None:
    (proc, *_) = mounts_below("/proc")
    fd = os.open("/proc/version", os.O_RDONLY)
    try:
        assert mount_id_of(fd) == mount_id_of(fd, os.getpid()) == proc.mount_id
    finally:
        os.close(fd)
    assert mount_id_of(fd) is None
