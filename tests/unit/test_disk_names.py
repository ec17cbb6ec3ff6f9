"""Device names for links and partitions, as the API and the kernel write them."""

from pathlib import Path

import pytest

from packer_plugin_osc_chroot.host.disk import candidate_paths, free_names, letters, partition_path


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


def test_candidates_know_outscales_by_id_form() -> None:
    paths = [str(path) for path in candidate_paths("/dev/xvdf", "")]
    assert paths[0] == "/dev/xvdf"
    assert "/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_sdf" in paths
