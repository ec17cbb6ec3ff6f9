"""Source OMIs: raw disk images that a Region starts with, and a tiny one made on the spot."""

import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

from packer_plugin_osc_chroot.localcloud.files import GIB, create_sparse
from packer_plugin_osc_chroot.localcloud.tools import SEARCH_PATH, go_on, run_tool

TINY_IMAGE_ID = "ami-00000001"

_SECTOR = 512
_PARTITION_OFFSET = 1024**2
_LINUX = 0x83
_TREE = {
    "etc/os-release": 'ID=localcloud\nNAME="localcloud tiny image"\nVERSION_ID="1"\n',
    "etc/hostname": "localcloud\n",
    "etc/resolv.conf": "nameserver 192.0.2.53\n",
    "etc/fstab": "LABEL=root / ext4 defaults 0 1\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
}
_FOLDERS = ("bin", "boot", "dev", "home", "proc", "root", "run", "sys", "tmp", "usr", "var")


def can_make_tiny_image() -> bool:
    return shutil.which("mkfs.ext4", path=SEARCH_PATH) is not None


def tiny_image(
    path: Path, *, tree: Path | None = None, size: int = GIB, check: Callable[[], None] = go_on
) -> Path:
    """Make the raw disk image `path`: an MBR and one ext4 partition that holds `tree`.

    Without `tree` it holds a root's usual directories and a few files of /etc, and no program.
    Needs mkfs.ext4, but neither root nor a loop device. `size` is in bytes.
    Raises OSError, and what `check` raises.
    """
    partitioned(path, size=size)
    with tempfile.TemporaryDirectory(prefix="osc-chroot-localcloud-tree-") as folder:
        root = tree if tree is not None else _make_tree(Path(folder))
        options = f"offset={_PARTITION_OFFSET},root_owner=0:0"
        blocks = f"{(size - _PARTITION_OFFSET) // 1024}k"
        result = run_tool(
            ["mkfs.ext4", "-q", "-F", "-L", "root", "-E", options, "-d", root, path, blocks],
            check=check,
        )
    if result.returncode != 0:
        path.unlink()
        raise OSError(f"mkfs.ext4 could not make {path}: {result.stderr.strip()}")
    return path


def partitioned(path: Path, *, size: int) -> None:
    """Make the raw disk image `path`: an MBR, and one empty partition."""
    create_sparse(path, size=size)
    with open(path, "r+b") as stream:
        stream.write(_boot_record(sectors=(size - _PARTITION_OFFSET) // _SECTOR))


def _make_tree(root: Path) -> Path:
    for folder in _FOLDERS:
        (root / folder).mkdir()
    for name, text in _TREE.items():
        file = root / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return root


def _boot_record(*, sectors: int) -> bytes:
    # Cylinders, heads and sectors are at their maximum: only the linear addresses count.
    chs = b"\xfe\xff\xff"
    start = _PARTITION_OFFSET // _SECTOR
    entry = struct.pack("<B3sB3sII", 0x80, chs, _LINUX, chs, start, sectors)
    return bytes(440) + b"OSCL" + bytes(2) + entry + bytes(48) + b"\x55\xaa"
