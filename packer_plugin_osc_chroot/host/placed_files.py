"""Files of the host put into the root for a while, and what the image had there kept aside.

The original is renamed within its own directory, to a hidden name: that keeps everything about it
(owners, times, labels, hard links, what a symlink says), and putting it back is one atomic rename.
"""

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable
from typing import Any

from packer_plugin_osc_chroot.host.mountinfo import mount_id_of
from packer_plugin_osc_chroot.host.rooted import Rooted, Spot
from packer_plugin_osc_chroot.host.trees import (
    DIR_FLAGS,
    DIRECTORY,
    FILE,
    LINK,
    NEW_FLAGS,
    READ_FLAGS,
    SKIPPED,
    hidden_name,
    read_chunks,
    write_all,
)

Placed = dict[str, Any]
_TYPES = {FILE: stat.S_IFREG, DIRECTORY: stat.S_IFDIR, LINK: stat.S_IFLNK}
# Not supported, not permitted, a label that the kernel does not know, gone meanwhile.
_NO_ATTRIBUTES = (
    errno.ENOTSUP,
    errno.EPERM,
    errno.EACCES,
    errno.EINVAL,
    errno.ENODATA,
)
# FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IMMUTABLE_FL and FS_APPEND_FL of linux/fs.h.
_GET_FLAGS, _SET_FLAGS, _LOCKED = 0x80086601, 0x40086602, 0x10 | 0x20
_HERE = " (on this machine)"


def list_source(path: str) -> list[list[str]]:
    """What there is to place for a path of the host: pairs of a kind (trees.py) and a path.

    A folder comes with all that is in it, parents first, and is not left for another filesystem. A
    symlink counts as what it leads to when it is `path` itself, as a link within a folder.
    """
    try:
        found = os.stat(path)
        if stat.S_ISREG(found.st_mode):
            return [[FILE, path]]
        if not stat.S_ISDIR(found.st_mode):
            raise OSError(errno.EINVAL, "is neither a file nor a folder (on this machine)", path)
        return [[DIRECTORY, path], *_list_folder(path, device=found.st_dev)]
    except OSError as error:
        raise _on_this_machine(error, path) from None


def _list_folder(folder: str, *, device: int) -> list[list[str]]:
    found = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            at = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(at.st_mode):
                if at.st_dev == device:
                    found.append([DIRECTORY, entry.path])
                    found += _list_folder(entry.path, device=device)
            elif stat.S_ISLNK(at.st_mode):
                found.append([LINK, entry.path])
            else:
                found.append([FILE if stat.S_ISREG(at.st_mode) else SKIPPED, entry.path])
    return found


def place(rooted: Rooted, path: str, *, kind: str, check: Callable[[], None]) -> Placed:
    """Copy what the host has at `path` to the same path in the root; a record for `put_back`.

    The host's file is followed, the root's is not: a symlink there is set aside as one. A folder that
    the image has too stays as it is. A failure leaves the root as it was,
    and so does what `check` raises, which is called again and again.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    if kind == LINK:
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        source = os.open(path, flags)
    except OSError as error:
        raise _on_this_machine(error, path) from None
    try:
        found = os.fstat(source)
        if stat.S_IFMT(found.st_mode) != _TYPES[kind]:
            words = "is no regular file" if kind == FILE else "changed while it was copied"
            raise OSError(errno.EINVAL, f"{words} (on this machine)", path)
        placed: Placed = {
            "path": path,
            "made": make_parents(rooted, path),
            "real": "",
            "mount": None,
            "aside": "",
            "id": None,
        }
        try:
            if kind == DIRECTORY:
                _place_folder(rooted, path, source, found, placed)
            else:
                with rooted.find(path, follow=False) as spot:
                    _set_aside(spot, placed)
                    if kind == LINK:
                        _make_link(spot, source, path, found)
                    else:
                        _fill(spot, source, found, check)
                    made = os.stat(spot.name, dir_fd=spot.directory, follow_symlinks=False)
                    placed["id"] = _identity(made)
        except BaseException:
            put_back(rooted, placed)
            raise
        return placed
    finally:
        os.close(source)


def _on_this_machine(error: OSError, path: str) -> OSError:
    reason = error.strerror or "cannot be read"
    if not reason.endswith(_HERE):
        reason += _HERE
    return OSError(error.errno, reason, error.filename or path)


def _set_aside(spot: Spot, placed: Placed) -> None:
    if spot.stat is not None:
        aside = hidden_name(spot.name)
        try:
            os.rename(spot.name, aside, src_dir_fd=spot.directory, dst_dir_fd=spot.directory)
        except PermissionError:
            if _flags(spot) & _LOCKED:
                words = "is immutable in the image (chattr +i): leave it out of copy_files"
                raise OSError(errno.EPERM, words, spot.real) from None
            raise
        placed["aside"] = aside
    # Only now: putting back removes what is there.
    placed["real"] = spot.real
    placed["mount"] = _mount_of(spot.directory)


def _fill(spot: Spot, source: int, found: os.stat_result, check: Callable[[], None]) -> None:
    fd = os.open(spot.name, NEW_FLAGS, 0o600, dir_fd=spot.directory)
    try:
        for chunk in read_chunks(source, size=found.st_size):
            check()
            write_all(fd, chunk)
        _copy_metadata(source, fd, found)
        os.utime(fd, ns=(found.st_atime_ns, found.st_mtime_ns))
    finally:
        os.close(fd)


def _make_link(spot: Spot, source: int, path: str, found: os.stat_result) -> None:
    os.symlink(os.readlink("", dir_fd=source), spot.name, dir_fd=spot.directory)
    os.chown(spot.name, found.st_uid, found.st_gid, dir_fd=spot.directory, follow_symlinks=False)
    _copy_attributes(path, f"/proc/self/fd/{spot.directory}/{spot.name}", follow=False)


def _copy_metadata(source: int, target: int, found: os.stat_result) -> None:
    """Owner, mode and attributes, in an order in which none takes another away."""
    os.fchown(target, found.st_uid, found.st_gid)
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    _copy_attributes(source, target)


def _copy_attributes(source: int | str, target: int | str, *, follow: bool = True) -> None:
    """Extended attributes, ACLs and labels among them, as far as the target can have them."""
    try:
        names = os.listxattr(source, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _NO_ATTRIBUTES:
            return
        raise
    for name in names:
        try:
            value = os.getxattr(source, name, follow_symlinks=follow)
            os.setxattr(target, name, value, follow_symlinks=follow)
        except OSError as error:
            if error.errno not in _NO_ATTRIBUTES:
                raise


def _place_folder(
    rooted: Rooted, path: str, source: int, found: os.stat_result, placed: Placed
) -> None:
    with rooted.find(path) as spot:
        if spot.is_dir:
            return
    with rooted.find(path, follow=False) as spot:
        if spot.stat is None:
            placed["made"].append(spot.real)
        else:
            _set_aside(spot, placed)
        os.mkdir(spot.name, 0o700, dir_fd=spot.directory)
        fd = os.open(spot.name, DIR_FLAGS, dir_fd=spot.directory)
        try:
            _copy_metadata(source, fd, found)
        finally:
            os.close(fd)


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
            try:
                _restore(spot, placed["aside"])
            except PermissionError:
                # A provisioner has locked it (chattr +i): the copy is ours all the same.
                if not (flags := _flags(spot)) & _LOCKED:
                    raise
                _set_flags(spot, flags & ~_LOCKED)
                changed = True
                _restore(spot, placed["aside"])
    for path in reversed(placed["made"]):
        try:
            with rooted.find(path, follow=False) as spot:
                os.rmdir(spot.name, dir_fd=spot.directory)
        except OSError:
            # A provisioner put something there: then it belongs to the image.
            continue
    return changed


def _restore(spot: Spot, aside: str) -> None:
    """What is there goes, and what is aside, if anything, takes its place."""
    if spot.is_dir:
        # Nothing can be renamed over a folder that has something in it.
        _remove_tree(spot.directory, spot.name, shown=spot.real)
    if aside:
        had = os.stat(aside, dir_fd=spot.directory, follow_symlinks=False)
        if stat.S_ISDIR(had.st_mode) and spot.stat is not None and not spot.is_dir:
            # A folder cannot be renamed over anything else.
            os.unlink(spot.name, dir_fd=spot.directory)
        os.rename(aside, spot.name, src_dir_fd=spot.directory, dst_dir_fd=spot.directory)
    elif spot.stat is not None and not spot.is_dir:
        os.unlink(spot.name, dir_fd=spot.directory)


def _flags(spot: Spot) -> int:
    """The file's flags, as of lsattr(1); none where it has none."""
    return _with_flags(spot, _GET_FLAGS, 0)


def _set_flags(spot: Spot, flags: int) -> None:
    _with_flags(spot, _SET_FLAGS, flags)


def _with_flags(spot: Spot, request: int, flags: int) -> int:
    if spot.stat is None or not stat.S_ISREG(spot.stat.st_mode):
        return 0
    fd = os.open(spot.name, READ_FLAGS, dir_fd=spot.directory)
    try:
        answer = fcntl.ioctl(fd, request, struct.pack("@I4x", flags))
        return int(struct.unpack("@I4x", answer)[0])
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.ENOTSUP):
            return 0
        raise
    finally:
        os.close(fd)


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
