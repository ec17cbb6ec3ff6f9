"""Device names for links and partitions, as the API and the kernel write them."""

from pathlib import Path

import pytest

from packer_plugin_osc_chroot.host.device_names import free_names
from packer_plugin_osc_chroot.host.disk import partition_path
from packer_plugin_osc_chroot.host.disk_search import serial_of_link
from packer_plugin_osc_chroot.options.devices import letters


@pytest.mark.parametrize(
    ("name", "expected"),
    [("/dev/xvdf", "f"), ("/dev/sda1", "a"), ("xvdba", "ba"), ("/dev/vdb", ""), ("/dev/sdb", "b")],
)
def test_letters(name: str, expected: str) -> None:
    assert letters(name) == expected


def test_free_names_skip_what_the_vm_has(tmp_path: Path) -> None:
    names = list(free_names(["/dev/sda1", "/dev/xvdb", "/dev/sdc"], dev=tmp_path))
    assert names[0] == "/dev/xvdd"
    assert "/dev/xvdb" not in names and "/dev/xvdc" not in names
    assert names[-1] == "/dev/xvdbz"


def test_names_that_the_kernel_shows_come_last_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "sdb").touch()
    (tmp_path / "xvdc").touch()
    names = list(free_names(["/dev/sda1"], dev=tmp_path))
    assert names[0] == "/dev/xvdd"
    assert names[-1] == "/dev/xvdb"
    assert "/dev/xvdc" not in names


@pytest.mark.parametrize(
    ("disk", "number", "path"),
    [
        ("/dev/xvdf", 1, "/dev/xvdf1"),
        ("/dev/nvme1n1", 1, "/dev/nvme1n1p1"),
        ("/dev/loop0", 2, "/dev/loop0p2"),
        ("/dev/xvdf", 0, "/dev/xvdf"),
    ],
)
def test_partition_path(disk: str, number: int, path: str) -> None:
    assert partition_path(Path(disk), number) == Path(path)


@pytest.mark.parametrize(
    ("link", "serial"),
    [
        # OUTSCALE's own form, virtio's, NVMe's with model, and with the namespace of newer udevs.
        ("scsi-0QEMU_QEMU_HARDDISK_sdf", "sdf"),
        ("virtio-vol-1a2b3c4d", "vol-1a2b3c4d"),
        ("nvme-QEMU_NVMe_Ctrl_vol1a2b3c4d", "vol1a2b3c4d"),
        ("nvme-QEMU_NVMe_Ctrl_vol1a2b3c4d_1", "vol1a2b3c4d"),
        ("scsi-0QEMU_QEMU_HARDDISK_sdf-part1", ""),
        ("nvme-eui.0025385b71b00c1d", "eui.0025385b71b00c1d"),
        ("dm-name-vg-root", ""),
        ("lvm-pv-uuid-abc", ""),
    ],
)
def test_serials_in_by_id_links(link: str, serial: str) -> None:
    assert serial_of_link(link) == serial
