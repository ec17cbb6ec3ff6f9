"""The kernel's mount table, with the names that it escapes."""

import os

from packer_plugin_osc_chroot.host.mountinfo import (
    is_below,
    mount_id_of,
    mounts_below,
    parse_mountinfo,
    read_mounts,
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
