"""Loop devices: attaching files, their partitions, who uses them.

Every localcloud and losetup of the machine races for free devices, so attaching is tried again when
another was quicker. All numbers are those of <linux/loop.h>.
"""

import errno
import fcntl
import os
import re
import stat
import struct
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packer_plugin_osc_chroot.localcloud.tools import run_tool

LOOP_MAJOR = 7

_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LOOP_CLR_FD = 0x4C01
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_SET_CAPACITY = 0x4C07
_LOOP_INFO64_SIZE = 232
# The kernel refuses partitions on a loop device without this flag.
_LO_FLAGS_PARTSCAN = 8
_LO_FLAGS_READ_ONLY = 1
_ATTEMPTS = 200
_LAST_CLOSE_SECONDS = 1.0
_SYS_BLOCK = Path("/sys/block")


@dataclass(frozen=True)
class LoopDevice:
    """One loop device by its number."""

    number: int

    @property
    def path(self) -> Path:
        return Path(f"/dev/loop{self.number}")

    @property
    def sys(self) -> Path:
        return _SYS_BLOCK / f"loop{self.number}"

    @property
    def backing_file(self) -> str:
        """The attached file, empty when there is none."""
        try:
            text = (self.sys / "loop/backing_file").read_text(errors="surrogateescape")
        except OSError:
            return ""
        return text.rstrip("\n").removesuffix(" (deleted)")

    @property
    def sectors_written(self) -> int:
        return int((self.sys / "stat").read_text().split()[6])

    def partitions(self) -> dict[int, int]:
        """Partition number to device number, as the kernel has them now."""
        found = {}
        for entry in self.sys.glob(f"loop{self.number}p*"):
            try:
                number = int((entry / "partition").read_text())
                found[number] = _device_number((entry / "dev").read_text())
            except OSError:
                continue  # Went away while we looked.
        return found

    def device_numbers(self) -> set[int]:
        return {os.makedev(LOOP_MAJOR, self.number), *self.partitions().values()}


def _device_number(text: str) -> int:
    major, minor = text.strip().split(":")
    return os.makedev(int(major), int(minor))


def attach(file: Path, *, read_only: bool = False) -> LoopDevice:
    """Attach `file` to a free loop device."""
    flags = _LO_FLAGS_PARTSCAN | (_LO_FLAGS_READ_ONLY if read_only else 0)
    backing = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            device = _free_device()
            try:
                handle = _open_loop(device)
                try:
                    fcntl.ioctl(handle, _LOOP_CONFIGURE, _loop_config(backing, file, flags))
                finally:
                    os.close(handle)
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENXIO, errno.ENOENT):
                    raise
                time.sleep(0.005)
                continue
            return device
    finally:
        os.close(backing)
    raise OSError(errno.EBUSY, "no free loop device could be had", os.fspath(file))


def _free_device() -> LoopDevice:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        return LoopDevice(fcntl.ioctl(control, _LOOP_CTL_GET_FREE))
    finally:
        os.close(control)


def _open_loop(device: LoopDevice) -> int:
    try:
        return os.open(device.path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        # A container's /dev need not have the nodes of devices made after its start.
        number = os.makedev(LOOP_MAJOR, device.number)
        os.mknod(device.path, 0o660 | stat.S_IFBLK, number)
        return os.open(device.path, os.O_RDWR | os.O_CLOEXEC)


def _loop_config(backing: int, file: Path, flags: int) -> bytes:
    name = os.fsencode(file)[:63]
    info = struct.pack("=5Q4I64s64s32s2Q", 0, 0, 0, 0, 0, 0, 0, 0, flags, name, b"", b"", 0, 0)
    return struct.pack("=II", backing, 0) + info + bytes(64)


def detach(device: LoopDevice, *, file: str) -> bool:
    """Detach `file`; False when the kernel keeps it until its last user is gone."""
    if device.backing_file != file:
        return True
    if device.partitions():
        run_tool(["partx", "--delete", device.path])
    try:
        handle = os.open(device.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(handle, _LOOP_CLR_FD)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in (errno.ENXIO, errno.EBUSY):
            raise
    # The kernel clears it at the last close, which is that of udev's probe where there is udev.
    deadline = time.monotonic() + _LAST_CLOSE_SECONDS
    while device.backing_file == file:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def flush(nodes: Iterable[Path]) -> None:
    """Write what the kernel holds for a disk and its partitions, by their nodes, to the file."""
    for node in nodes:
        try:
            handle = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # A partition that went away.
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_size(device: LoopDevice) -> None:
    """Tell the kernel that the file has another size now."""
    handle = os.open(device.path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(handle, _LOOP_SET_CAPACITY)
    finally:
        os.close(handle)


def read_partition_table(device: LoopDevice) -> None:
    """Tell the kernel the partitions that the disk's table has now.

    partx, not BLKRRPART: kernels without partition parsers know none by themselves.
    """
    result = run_tool(["partx", "--update", device.path])
    if result.returncode != 0 and device.partitions():
        # No table (any more): a filesystem on the whole disk, or wiped.
        run_tool(["partx", "--delete", device.path])


def loop_devices(directory: Path) -> Iterator[LoopDevice]:
    """The loop devices whose files are, or were, below `directory`."""
    prefix = f"{directory}/"
    return (device for device in _attached() if device.backing_file.startswith(prefix))


def loop_devices_on(numbers: Collection[int]) -> list[LoopDevice]:
    """The loop devices whose files lie on filesystems of these devices, mounted or detached."""
    return [device for device in _attached() if _backing_device(device) in numbers]


def _attached() -> Iterator[LoopDevice]:
    for entry in _SYS_BLOCK.glob("loop*"):
        number = re.fullmatch(r"loop(\d+)", entry.name)
        if number is not None:
            device = LoopDevice(int(number[1]))
            if device.backing_file:
                yield device


def _backing_device(device: LoopDevice) -> int | None:
    """The number of the device that the backing file lies on."""
    try:
        handle = os.open(device.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            info = fcntl.ioctl(handle, _LOOP_GET_STATUS64, bytes(_LOOP_INFO64_SIZE))
        finally:
            os.close(handle)
    except OSError:
        return None  # Detached while we looked.
    # The first field of struct loop_info64; the kernel encodes numbers as user space does.
    number: int = struct.unpack_from("=Q", info)[0]
    return number


def is_ours(node: Path) -> bool:
    """Whether a node is a loop device, a partition of one, or of a device that is gone."""
    try:
        status = node.lstat()
    except OSError:
        return False
    if not stat.S_ISBLK(status.st_mode):
        return False
    number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    entry = Path("/sys/dev/block") / number
    return not entry.exists() or "/block/loop" in os.path.realpath(entry)
