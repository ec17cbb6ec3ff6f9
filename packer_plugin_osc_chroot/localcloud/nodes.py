"""What disks are called on the machine: their nodes, and the links that udev makes on OUTSCALE's VMs.

There are two styles. xvd: a volume linked as /dev/xvdX (or sdX) is that node. by-id: it is /dev/sdY,
the next letter that the kernel has, and /dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_sdX leads to it, X
as in the API's name; -partN leads to its partitions. OUTSCALE's own CSI driver looks for either.

Here disks and slots (the API's names, as xvdX) have names without /dev. Nothing of anybody else's is
made, changed or removed.
"""

import os
import re
import stat
import string
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

from packer_plugin_osc_chroot.localcloud import loops

Style = Literal["xvd", "by-id"]

OWN_SLOT = "xvda"

_DEV = Path("/dev")
_BY_ID = _DEV / "disk/by-id"
_LINK = "scsi-0QEMU_QEMU_HARDDISK_"
_ATTEMPTS = 10


def twin(slot: str) -> str:
    """The same name in the kernel's other spelling: sdX of xvdX."""
    return slot.replace("xvd", "sd", 1)


def exists(name: str) -> bool:
    return os.path.lexists(_DEV / name)


def kernel_names() -> Iterator[str]:
    """Names that the kernel could give to the next disk, best first: sdb to sdz, then sdba and on.

    Where there are real disks of this kind, the letters that the next of them would get are left
    to it.
    """
    real = any(not loops.is_ours(node) for node in _DEV.glob("sd?"))
    singles = [] if real else list(string.ascii_lowercase[1:])
    pairs = (a + b for a in string.ascii_lowercase[1:] for b in string.ascii_lowercase)
    return (f"sd{letters}" for letters in (*singles, *pairs))


def link_of(slot: str, *, partition: int = 0) -> Path:
    """The by-id link to the disk at `slot`, or to one of its partitions."""
    part = f"-part{partition}" if partition else ""
    return _BY_ID / f"{_LINK}{twin(slot)}{part}"


def nodes_of(name: str) -> list[Path]:
    """The nodes of the disk `name` and its partitions that a localcloud made."""
    pattern = re.compile(rf"{name}\d*")
    found = (node for node in _DEV.glob(f"{name}*") if pattern.fullmatch(node.name))
    return [node for node in found if loops.is_ours(node)]


def links_of(slot: str) -> list[Path]:
    """The by-id links to the disk at `slot` and its partitions that a localcloud made.

    None for a kernel's name: sdX in a link is the API's.
    """
    if not slot.startswith("xvd"):
        return []
    whole = link_of(slot)
    pattern = re.compile(rf"{whole.name}(-part\d+)?")
    found = (link for link in _BY_ID.glob(f"{whole.name}*") if pattern.fullmatch(link.name))
    return [link for link in found if _leads_to_ours(link)]


def _leads_to_ours(link: Path) -> bool:
    target = Path(os.path.realpath(link))
    return link.is_symlink() and (loops.is_ours(target) or not os.path.lexists(target))


def make_node(node: Path, number: int) -> None:
    os.mknod(node, 0o660 | stat.S_IFBLK, number)


def make_link(link: Path, node: Path) -> None:
    """Let `link` lead to `node`; one that is somebody else's stays. Makes the directory."""
    target = os.path.relpath(node, link.parent)
    for _ in range(_ATTEMPTS):
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.symlink(target, link)
        except FileNotFoundError:
            continue  # Another localcloud removed the directory, which was empty.
        except FileExistsError:
            if not _leads_to_ours(link) or os.readlink(link) == target:
                return
            link.unlink(missing_ok=True)
            continue
        return


def remove(name: str) -> None:
    """All that a localcloud made of this name, a slot or a kernel's."""
    links = links_of(name)
    for path in (*nodes_of(name), *links):
        path.unlink(missing_ok=True)
    if links:
        # Where there is no udev, its directories were ours.
        with suppress(OSError):
            _BY_ID.rmdir()
            _BY_ID.parent.rmdir()
