"""What a source OMI can be made from: a raw or qcow2 disk image, a directory, a root tarball.

What it is, is told by its content. A raw image is used where it is; anything else is made into one.
"""

import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from packer_plugin_osc_chroot.localcloud import qcow2
from packer_plugin_osc_chroot.localcloud.files import GIB, gibibytes
from packer_plugin_osc_chroot.localcloud.images import can_make_tiny_image, tiny_image
from packer_plugin_osc_chroot.localcloud.tools import go_on, run_tool
from packer_plugin_osc_chroot.localcloud.user_files import open_regular

# Of a root made from files: the part of its content's size that is kept free, and at least this.
_FREE_SHARE = 0.25
_FREE_LEAST = GIB // 4
_BLOCK = 4096
_TAR_OPTIONS = ("--numeric-owner", "--same-owner", "--preserve-permissions", "--xattrs")

# Offset and content that tell what is no disk image for a VM, and what to do about it.
_FOREIGN: Sequence[tuple[int, bytes, str]] = (
    (0, b"KDMV", "is a VMDK image: qemu-img convert -O raw FILE disk.raw makes a raw one"),
    (0, b"vhdxfile", "is a VHDX image: qemu-img convert -O raw FILE disk.raw makes a raw one"),
    (0, b"conectix", "is a VHD image: qemu-img convert -O raw FILE disk.raw makes a raw one"),
    (0x40, b"\x7f\x10\xda\xbe", "is a VDI image: qemu-img convert -O raw FILE disk.raw helps"),
    (0x8001, b"CD001", "is an ISO image, which is no VM's disk: install it to a disk image first"),
)
_COMPRESSED = (
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"\xfd7zXZ\x00", "xz", "unxz"),
    (b"BZh", "bzip2", "bunzip2"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
)


class SourceError(Exception):
    """A source that no OMI can be made from. One line, with its path and what to do."""


def check_source(source: Path) -> None:
    """What can be told before anything is made. Raises SourceError."""
    if source.is_dir():
        if not can_make_tiny_image():
            raise SourceError(f"{source}: a directory needs mkfs.ext4 (package e2fsprogs)")
        return
    try:
        with open_regular(source) as stream:
            head = stream.read(0x8010)
    except OSError as error:
        raise SourceError(f"{source}: {error.strerror}") from None
    if not head:
        raise SourceError(f"{source} is empty")
    for offset, content, what in _FOREIGN:
        if head[offset:].startswith(content):
            raise SourceError(f"{source} {what.replace('FILE', source.name)}")
    if _is_tarball(source, head):
        if not can_make_tiny_image():
            raise SourceError(f"{source}: a tarball needs mkfs.ext4 (package e2fsprogs)")
        return
    for magic, name, tool in _COMPRESSED:
        if head.startswith(magic):
            raise SourceError(
                f"{source} is compressed with {name} and is no tarball: run {tool} on it first"
            )


def open_source(
    source: Path, *, scratch: Path, name: str, check: Callable[[], None] = go_on
) -> Path:
    """The raw disk image that `source` is, or one made of it, as `scratch`/`name`.raw.

    Raises SourceError, and what `check` raises, which is called now and then.
    """
    check_source(source)
    target = scratch / f"{name}.raw"
    try:
        if source.is_dir():
            return _image_of(source, target, shown=source, check=check)
        with open(source, "rb") as stream:
            head = stream.read(0x8010)
        if head.startswith(qcow2.MAGIC):
            qcow2.convert(source, target, check=check)
            return target
        if _is_tarball(source, head):
            return _image_of_tarball(source, target, check=check)
    except (qcow2.Qcow2Error, OSError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SourceError(f"{source}: {text}") from None
    return source


def _is_tarball(source: Path, head: bytes) -> bool:
    if head.startswith(_COMPRESSED[-1][0]):
        # Python 3.11 does not read zstd; tar does, where the tool is installed.
        return any(source.name.endswith(suffix) for suffix in (".tar.zst", ".tzst"))
    if head.startswith(tuple(magic for magic, _, _ in _COMPRESSED)):
        return _has_members(source)
    # A disk image is never taken for a tarball: the magic is that of POSIX and GNU headers.
    return head[257:262] == b"ustar"


def _has_members(source: Path) -> bool:
    """An image that starts with zeros would pass for a tarball with nothing in it."""
    try:
        with tarfile.open(source) as tar:
            return tar.next() is not None
    except tarfile.TarError:
        return False


def _image_of_tarball(source: Path, target: Path, *, check: Callable[[], None]) -> Path:
    tree = target.with_suffix(".tree")
    tree.mkdir(mode=0o700)
    try:
        # tar takes away leading slashes, and follows no symlink that the tarball itself brought.
        result = run_tool(
            ["tar", "-x", *_TAR_OPTIONS, "--xattrs-include=*", "-C", tree, "-f", source],
            check=check,
        )
        if result.returncode != 0:
            raise SourceError(f"{source}: tar cannot unpack it: {_last_line(result.stderr)}")
        return _image_of(tree, target, shown=source, check=check)
    finally:
        run_tool(["rm", "-rf", "--one-file-system", "--", tree])


def _image_of(tree: Path, target: Path, *, shown: Path, check: Callable[[], None]) -> Path:
    if not (tree / "etc").is_dir():
        raise SourceError(f"{shown} holds no root filesystem: it has no directory etc at its top")
    content = _size_of(tree, check)
    size = gibibytes(content + max(int(content * _FREE_SHARE), _FREE_LEAST)) * GIB
    return tiny_image(target, tree=tree, size=size, check=check)


def _size_of(tree: Path, check: Callable[[], None]) -> int:
    """Bytes that the files take in whole blocks; hard links count once."""
    seen: set[tuple[int, int]] = set()
    size = 0
    for directory, _, names in os.walk(tree):
        check()
        size += _BLOCK
        for name in names:
            found = os.lstat(os.path.join(directory, name))
            if (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                size += -(-found.st_blocks * 512 // _BLOCK) * _BLOCK
    return size


def _last_line(text: str) -> str:
    return text.strip().rsplit("\n", 1)[-1]
