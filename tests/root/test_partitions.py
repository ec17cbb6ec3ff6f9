"""The partition that holds the root: found as the kernel names it, or named where it is another."""

import shlex
import struct
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
from guest_tree import no_mount_left, run

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.host import partitions
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.disk import Disk
from packer_plugin_osc_chroot.host.disk_search import check_content
from packer_plugin_osc_chroot.host.partitions import (
    RootPartition,
    digit_warning,
    find_partition,
    mounted_partition,
)
from packer_plugin_osc_chroot.ui import RecordingUi

pytestmark = pytest.mark.root


class Disks:
    """Loop devices as disks, with partitions whose content is made here."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._made = 0

    def disk(self, *sizes: int, size: int = 512, parse: bool = True) -> Disk:
        """A disk of `size` MiB with partitions of these sizes; none: without a table."""
        self._made += 1
        image = self._directory / f"disk{self._made}.img"
        run("truncate", "-s", f"{size}M", str(image))
        if sizes:
            table = "label: gpt\n" + "".join(f"size={each}MiB\n" for each in sizes)
            subprocess.run(["sfdisk", "-q", str(image)], input=table, text=True, check=True)
        device = run("losetup", "--find", "--show", str(image))
        self._stack.callback(run, "losetup", "-d", device)
        if sizes:
            self._stack.callback(subprocess.run, ["partx", "-d", device], check=False)
        if sizes and parse:
            run("partx", "--update", device)
        return Disk("vol-1", "/dev/xvdf", Path(device))


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disks]:
    monkeypatch.setattr(partitions, "_PARTITION_SECONDS", 1.5)
    with no_mount_left(tmp_path), ExitStack() as stack:
        yield Disks(tmp_path, stack)


def find(disk: Disk, number: int | None = None) -> RootPartition:
    return find_partition(disk, number, host=Host(), token=CancelToken())


def refused(disk: Disk, number: int | None = None) -> BuildError:
    with pytest.raises(BuildError) as caught:
        find(disk, number)
    return caught.value


def ext4(path: Path, *, label: str = "", tree: Sequence[str] = ()) -> None:
    run("mkfs.ext4", "-q", "-F", "-L", label, str(path))
    if tree:
        place = path.parent / "shm/osc-chroot-test"
        place.mkdir()
        run("mount", str(path), str(place))
        try:
            for name in tree:
                (place / name).mkdir()
        finally:
            run("umount", str(place))
            place.rmdir()


def test_the_first_partition_unless_another_is_set(make: Disks) -> None:
    disk = make.disk(20, 20)
    for number in (1, 2):
        ext4(Path(f"{disk.path}p{number}"))
    assert str(find(disk)) == f"{disk.path}p1"
    assert str(find(disk, 2)) == f"{disk.path}p2"


def test_a_table_that_the_kernel_has_not_parsed(make: Disks) -> None:
    disk = make.disk(20, parse=False)
    image = disk.path
    subprocess.run(
        ["mkfs.ext4", "-q", "-F", "-E", f"offset={1 << 20}", str(image), "20M"], check=True
    )
    assert str(find(disk)) == f"{disk.path}p1"


def test_a_partition_that_is_made_late_is_waited_for(
    make: Disks, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = make.disk(20, parse=False)
    subprocess.run(
        ["mkfs.ext4", "-q", "-F", "-E", f"offset={1 << 20}", str(disk.path), "20M"], check=True
    )
    # The kernel is asked at half a second, in vain: only what comes later makes the node.
    asked: list[Disk] = []
    monkeypatch.setattr(partitions, "_read_table", lambda disk, **_: asked.append(disk))
    threading.Timer(0.9, run, ["partx", "--update", str(disk.path)]).start()
    assert str(find(disk)) == f"{disk.path}p1"
    assert asked == [disk]


def test_a_disk_without_a_table_is_mounted_whole(make: Disks, tmp_path: Path) -> None:
    disk = make.disk(size=32)
    ext4(disk.path)
    found = find(disk)
    assert found.path == disk.path
    assert find(disk, 0).path == disk.path
    with mount(found, tmp_path / "mnt"):
        pass
    # Set, it is what was asked for.
    assert f"has no partition 1 ({disk.path}p1 does not exist)" in refused(disk, 1).message


def test_an_empty_disk_is_said_to_be_one(make: Disks) -> None:
    error = refused(make.disk(size=32), 0)
    assert "neither a filesystem nor partitions" in error.message
    assert "pre_mount_commands" in error.hint


def test_efi_first_names_the_root(make: Disks) -> None:
    disk = make.disk(40, 30, 60, 50)
    make_fat(Path(f"{disk.path}p1"), sectors=40 << 11)
    ext4(Path(f"{disk.path}p2"), label="boot")
    ext4(Path(f"{disk.path}p3"), label="data")
    ext4(Path(f"{disk.path}p4"), label="cloudimg-rootfs")
    error = refused(disk)
    assert error.hint == f'{disk.path}p4 may be the root: set mount_partition = "4"'
    assert f'{disk.path}p3: ext4, 60 MiB, label "data"' in error.details
    assert len(error.details) == 4


def make_fat(path: Path, *, sectors: int) -> None:
    """The boot sector of a FAT16 filesystem, which is all that tells one."""
    layout = struct.pack("<HBHBHHBHHHII", 512, 4, 1, 2, 512, 0, 0xF8, 80, 32, 64, 0, sectors)
    names = b"\x80\0\x29" + b"\x01\x02\x03\x04" + b"EFI        " + b"FAT16   "
    sector = (b"\xeb\x3c\x90mkfs.fat" + layout + names).ljust(510, b"\0") + b"\x55\xaa"
    with open(path, "r+b") as file:
        file.write(sector)


def test_a_boot_partition_names_the_root(make: Disks, tmp_path: Path) -> None:
    disk = make.disk(20, 60)
    ext4(Path(f"{disk.path}p1"), tree=("grub", "loader"))
    ext4(Path(f"{disk.path}p2"), tree=("etc", "usr"))
    with pytest.raises(BuildError, match="p1 is no root filesystem: .* /boot") as caught:
        with mount(find(disk), tmp_path / "mnt"):
            pass
    assert 'set mount_partition = "2"' in caught.value.hint
    # Who names it gets it.
    for number in (1, 2):
        with mount(find(disk, number), tmp_path / "mnt"):
            pass


def test_an_empty_filesystem_is_mounted_to_be_filled(make: Disks, tmp_path: Path) -> None:
    disk = make.disk(20)
    ext4(Path(f"{disk.path}p1"))
    with mount(find(disk), tmp_path / "mnt"):
        pass


def test_bios_boot_first_names_the_root(make: Disks) -> None:
    disk = make.disk(2, 40)
    ext4(Path(f"{disk.path}p2"))
    error = refused(disk)
    assert error.message == f"{disk.path}p1 has no filesystem"
    assert 'set mount_partition = "2"' in error.hint


def test_lvm_in_the_way(make: Disks) -> None:
    disk = make.disk(20, 40)
    # The label of a physical volume, as pvcreate writes it.
    make_physical_volume(Path(f"{disk.path}p1"))
    error = refused(disk)
    assert error.message == f"{disk.path}p1 holds a physical volume of LVM, no filesystem to mount"
    assert "A root inside LVM cannot be built on" in error.hint
    assert f"{disk.path}p1: LVM2_member, 20 MiB" in error.details
    ext4(Path(f"{disk.path}p2"))
    assert 'set mount_partition = "2"' in refused(disk, 1).hint


def make_physical_volume(path: Path) -> None:
    label = b"LABELONE" + (1).to_bytes(8, "little")
    body = (32).to_bytes(4, "little") + b"LVM2 001" + b"0123456789abcdefghijklmnopqrstuv"
    body = body.ljust(512 - 20, b"\0")
    crc = 0xF597A6CF
    for byte in body:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xEDB88320 if crc & 1 else 0)
    with open(path, "r+b") as file:
        file.seek(512)
        file.write(label + crc.to_bytes(4, "little") + body)


def test_a_filesystem_that_this_kernel_cannot_mount(make: Disks, tmp_path: Path) -> None:
    disk = make.disk(20, 40)
    with open(f"{disk.path}p1", "r+b") as file:
        # The superblock of NILFS2, which no cloud kernel has.
        file.seek(1024)
        file.write(b"\0" * 6 + b"\x34\x34")
    ext4(Path(f"{disk.path}p2"))
    with pytest.raises(BuildError) as caught:
        with mount(find(disk), tmp_path / "mnt"):
            pass
    assert 'set mount_partition = "2"' in caught.value.hint
    assert any(line.startswith(f"{disk.path}p2: ext4") for line in caught.value.details)


def test_an_option_that_mount_refuses_names_no_other_partition(make: Disks, tmp_path: Path) -> None:
    disk = make.disk(20, 40)
    for number in (1, 2):
        ext4(Path(f"{disk.path}p{number}"))
    with pytest.raises(BuildError, match="^`mount .*nonsense") as caught:
        with mount(find(disk), tmp_path / "mnt", options=["nonsense"]):
            pass
    assert caught.value.hint == "mount_options may be why: nonsense"


def test_a_mount_point_that_cannot_be_made_names_no_partition(make: Disks, tmp_path: Path) -> None:
    disk = make.disk(20, 40)
    ext4(Path(f"{disk.path}p1"))
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match="^`mkdir .*: Not a directory") as caught:
        with mount(find(disk), tmp_path / "file" / "mnt"):
            pass
    assert caught.value.hint == "Set mount_path to where a folder can be made"


def test_a_wrapper_that_fails_is_named(make: Disks, tmp_path: Path) -> None:
    disk = make.disk(20, 40)
    ext4(Path(f"{disk.path}p1"))
    refuse = "in mount*) echo no; exit 1;; esac"
    host = Host(lambda command: f"case {shlex.quote(command)} {refuse}; {command}")
    with pytest.raises(BuildError, match="` through command_wrapper failed with status 1: no"):
        with mount(find(disk), tmp_path / "mnt", host=host):
            pass


def test_a_mount_that_stays_is_told_beside_the_wrong_partition(make: Disks, tmp_path: Path) -> None:
    disk = make.disk(20, 40)
    for number in (1, 2):
        ext4(Path(f"{disk.path}p{number}"))
    at = tmp_path / "mnt"

    def wrap(command: str) -> str:
        fails = f"mount*) {command}; echo 'unknown filesystem type'; exit 32;; umount*) exit 1"
        return f"case {shlex.quote(command)} in {fails};; esac; {command}"

    with pytest.raises(BuildError, match="unknown filesystem type") as caught:
        with mount(find(disk), at, host=Host(wrap)):
            pass
    assert 'set mount_partition = "2"' in caught.value.hint
    (left,) = caught.value.not_undone
    assert f"left: {at} is still mounted" in left.details
    run("umount", str(at))
    at.rmdir()


def test_duplicate_xfs_uuids_mount(make: Disks, tmp_path: Path) -> None:
    disks = [make.disk(size=320), make.disk(size=320)]
    for disk in disks:
        run("mkfs.xfs", "-q", "-m", "uuid=2d5e1f3c-0000-4000-8000-000000000001", str(disk.path))
    first, second = (find(disk) for disk in disks)
    with mount(first, tmp_path / "a"), mount(second, tmp_path / "b"):
        pass


def mount(
    partition: RootPartition, at: Path, *, options: Sequence[str] = (), host: Host | None = None
) -> AbstractContextManager[Path]:
    return mounted_partition(
        host or Host(), partition, str(at), options=options, ui=RecordingUi(), token=CancelToken()
    )


def test_a_new_volume_that_is_not_blank_is_another_disk(make: Disks) -> None:
    disk = make.disk(size=32)
    token = CancelToken()
    check_content(Host(), disk, is_empty=True, token=token)
    with pytest.raises(BuildError, match="neither a partition table nor a filesystem"):
        check_content(Host(), disk, is_empty=False, token=token)
    ext4(disk.path)
    with pytest.raises(BuildError, match=r"new, empty volume vol-1, and has a filesystem \(ext4\)"):
        check_content(Host(), disk, is_empty=True, token=token)
    check_content(Host(), disk, is_empty=False, token=token)


@pytest.mark.parametrize(
    ("device", "command", "warned"),
    [
        ("/dev/xvdf", "mkfs.ext4 /dev/xvdf1", ""),
        ("/dev/nvme1n1", "mkfs.ext4 /dev/nvme1n1p1", ""),
        ("/dev/nvme1n1", "parted /dev/nvme1n1 print", ""),
        ("/dev/nvme1n1", "mkfs.ext4 /dev/nvme1n11", "/dev/nvme1n1p1"),
        ("/dev/loop0", "x=/dev/loop02; true", "/dev/loop0p2"),
    ],
)
def test_a_digit_after_a_disk_whose_name_ends_in_one(
    device: str, command: str, warned: str
) -> None:
    said = digit_warning("pre_mount_commands", command, Disk("vol-1", "/dev/xvdf", Path(device)))
    assert bool(said) == bool(warned)
    assert warned in said
