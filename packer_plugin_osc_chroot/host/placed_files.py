"""A file of the host put into the root for a while, and what the image had there kept aside.

The original is renamed within its own directory, to a hidden name: that keeps everything about it
(owners, times, labels, hard links, what a symlink says), and putting it back is one atomic rename.
"""

import errno
import os
import secrets
import stat
from typing import Any

from packer_plugin_osc_chroot.host.mountinfo import mount_id_of
from packer_plugin_osc_chroot.host.rooted import Rooted
from packer_plugin_osc_chroot.host.trees import DIR_FLAGS, NEW_FLAGS, read_chunks, write_all

Placed = dict[str, Any]


def place(rooted: Rooted, path: str) -> Placed:
    """Copy the host's file `path` to the same path in the root; a record for `put_back`.

    The host's file is followed, the root's is not: a symlink there is set aside as one. A failure
    leaves the root as it was.
    """
    try:
        source = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} (on this machine)", path) from None
    try:
        found = os.fstat(source)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "is no regular file (on this machine)", path)
        made = make_parents(rooted, path)
        placed: Placed = {
            "path": path,
            "made": made,
            "real": "",
            "mount": None,
            "aside": "",
            "id": None,
        }
        try:
            with rooted.find(path, follow=False) as spot:
                placed["real"] = spot.real
                placed["mount"] = _mount_of(spot.directory)
                if spot.stat is not None:
                    aside = f".{spot.name[:200]}.packer-{secrets.token_hex(4)}"
                    os.rename(
                        spot.name, aside, src_dir_fd=spot.directory, dst_dir_fd=spot.directory
                    )
                    placed["aside"] = aside
                fd = os.open(spot.name, NEW_FLAGS, 0o600, dir_fd=spot.directory)
                try:
                    for chunk in read_chunks(source, size=found.st_size):
                        write_all(fd, chunk)
                    os.fchown(fd, found.st_uid, found.st_gid)
                    os.fchmod(fd, stat.S_IMODE(found.st_mode))
                    placed["id"] = _identity(os.fstat(fd))
                finally:
                    os.close(fd)
        except BaseException:
            put_back(rooted, placed)
            raise
        return placed
    finally:
        os.close(source)


def make_parents(rooted: Rooted, path: str) -> list[str]:
    made: list[str] = []
    while True:
        try:
            with rooted.find(path, follow=False):
                return made
        except FileNotFoundError as error:
            missing = error.filename
            if missing in made:
                raise
            with rooted.find(missing, follow=False) as spot:
                os.mkdir(spot.name, 0o755, dir_fd=spot.directory)
                os.chmod(spot.name, 0o755, dir_fd=spot.directory)
            made.append(missing)


def put_back(rooted: Rooted, placed: Placed) -> bool:
    """Undo `place`. True where somebody had changed the placed file; it goes all the same.

    Raises OSError (EBUSY) where a mount hides its folder: what is there belongs to somebody else.
    """
    changed = False
    if placed["real"]:
        with rooted.find(placed["real"], follow=False) as spot:
            if _mount_of(spot.directory) != placed["mount"]:
                raise OSError(
                    errno.EBUSY,
                    "its folder is in another mount than before: what is there is left alone",
                    spot.real,
                )
            if placed["id"] is not None:
                now = None if spot.stat is None else _identity(spot.stat)
                changed = now != placed["id"]
            if spot.is_dir:
                # Nothing can be renamed over a folder that has something in it.
                _remove_tree(spot.directory, spot.name, shown=spot.real)
            if placed["aside"]:
                os.rename(
                    placed["aside"],
                    spot.name,
                    src_dir_fd=spot.directory,
                    dst_dir_fd=spot.directory,
                )
            elif spot.stat is not None and not spot.is_dir:
                os.unlink(spot.name, dir_fd=spot.directory)
    for path in reversed(placed["made"]):
        try:
            with rooted.find(path, follow=False) as spot:
                os.rmdir(spot.name, dir_fd=spot.directory)
        except OSError:
            # A provisioner put something there: then it belongs to the image.
            continue
    return changed


def _remove_tree(parent: int, name: str, *, shown: str) -> None:
    """Remove a folder, never across a mount: what is bound there belongs to somebody else.

    The mount is compared, not the device, which a bind mount of the same filesystem shares.
    """
    fd = os.open(name, DIR_FLAGS, dir_fd=parent)
    try:
        if _mount_of(fd) != _mount_of(parent):
            raise OSError(errno.EBUSY, "something is mounted on it", shown)
        with os.scandir(fd) as entries:
            found = [(each.name, each.is_dir(follow_symlinks=False)) for each in entries]
        for each, is_dir in found:
            if is_dir:
                _remove_tree(fd, each, shown=os.path.join(shown, each))
            else:
                os.unlink(each, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent)


def _mount_of(fd: int) -> list[int | None]:
    """What tells the mount of an open folder from others: its id where the kernel gives it."""
    return [mount_id_of(fd), os.fstat(fd).st_dev]


def _identity(found: os.stat_result) -> list[int]:
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns]
