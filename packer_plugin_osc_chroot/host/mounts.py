"""Mounting the root and what goes below it; `unmounting.py` takes all of it away again.

The root's mount keeps the propagation of the place where it is, so that the copies which services
with a mount namespace of their own get of it go away with it. A bind mount leaves its source's peer
group at once: nothing mounted or unmounted below it reaches the host.
"""

import errno
import os
import shlex
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, Cancelled, CommandError, UndoError
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.disk import check_unused
from packer_plugin_osc_chroot.host.holders import machine_files
from packer_plugin_osc_chroot.host.mountinfo import missing_dirs, mounts_below
from packer_plugin_osc_chroot.host.procfs import Family, command_line
from packer_plugin_osc_chroot.host.transfer import RootFs, failure
from packer_plugin_osc_chroot.host.unmounting import release, umount_below
from packer_plugin_osc_chroot.ui import Ui
from packer_plugin_osc_chroot.undoing import undoing

UNDO_SECONDS = 120.0
_RMDIR_SECONDS = 10.0
_LOOK_EVERY = 0.05


@dataclass(frozen=True)
class ExtraMount:
    """One of chroot_mounts: the type ("bind" stands for a bind mount), the source, the target."""

    fstype: str
    source: str
    target: str


def mount(
    host: Host,
    source: str,
    target: str,
    *,
    fstype: str = "",
    options: Sequence[str] = (),
    token: CancelToken,
) -> None:
    """Mount; each option goes as an -o of its own. Raises CommandError, Cancelled."""
    argv = ["mount"]
    if fstype == "bind":
        argv += ["--bind", "--make-private", "--make-shared"]
    elif fstype:
        argv += ["-t", fstype]
    for option in options:
        argv += ["-o", option]
    families: list[Family] = []
    try:
        host.run([*argv, "--", source, target], token=token, on_left=families.append)
    except BuildError:
        for family in families:
            _await_end(family, source, target)
        raise


def _await_end(family: Family, source: str, target: str) -> None:
    """Wait for a mount that was ended in vain: the kernel may still complete it (a journal's replay).

    Only then can the caller's undoing see what there is to undo.
    """
    undo = CancelToken(deadline=UNDO_SECONDS)
    while living := family.living():
        try:
            undo.sleep(_LOOK_EVERY)
        except Cancelled:
            raise UndoError(
                f"mounting {source} at {target} was ended and still goes on in the kernel after"
                f" {UNDO_SECONDS:.0f} s",
                left=[f"{pid} {command_line(pid)}" for pid in living],
                hint=f"When it has ended: umount {shlex.quote(target)}",
            ) from None


@contextmanager
def mounted_root(
    host: Host,
    device: str,
    mount_path: str,
    *,
    fstype: str = "",
    options: Sequence[str] = (),
    ui: Ui,
    token: CancelToken,
) -> Iterator[Path]:
    """The filesystem on `device`, mounted at `mount_path`, which is made where it is missing.

    At the end it is unmounted with everything below it, written out, and the device is free: no
    other mount namespace has it either. Directories that were made go again.
    """
    root = os.path.realpath(mount_path)
    # At the end everything below the root is unmounted, and who holds it is ended.
    there = [each.mount_point for each in mounts_below(root)]
    hint = "Unmount it, or use another path."
    if root in there:
        raise BuildError(f"mount_path {root} is a mount point already", hint=hint)
    if there:
        raise BuildError(f"mount_path {root} has mounts below it: {', '.join(there)}", hint=hint)
    made: list[str] = []
    with (
        undoing(lambda: remove_dirs(host, made)),
        undoing(lambda: unmount_root(host, root, device, ui=ui, hurry=token.cancelled)),
    ):
        _make_dirs(host, root, made=made, token=token)
        with machine_files(host) as files:
            check_unused(files, Path(device), token=token)
        mount(host, device, root, fstype=fstype, options=options, token=token)
        if _is_read_only(root) and "ro" not in ",".join(options).split(","):
            raise BuildError(
                f"{device} can only be mounted read-only: the disk or its filesystem takes no writes",
                hint="The kernel's log (dmesg) says why.",
            )
        yield Path(root)


def _is_read_only(root: str) -> bool:
    try:
        return bool(os.statvfs(root).f_flag & os.ST_RDONLY)
    except OSError:
        # A place that this user may not look at: whoever writes there will be told.
        return False


def unmount_root(
    host: Host, root: str, device: str, *, ui: Ui, hurry: bool, token: CancelToken | None = None
) -> None:
    """Unmount everything at and below `root`, and have the device free. Raises UndoError."""
    undo = token or CancelToken(deadline=UNDO_SECONDS, reason=f"unmounting {root} took too long")
    mounted = any(each.mount_point == root for each in mounts_below(root))
    umount_below(host, root, itself=True, ui=ui, token=undo, hurry=hurry)
    if mounted:
        release(host, device, ui=ui, token=undo)


def remove_dirs(host: Host, made: Sequence[str]) -> None:
    """Only what is empty goes: nothing is lost where the root is still mounted.

    A failure must not hide what is said before it, so the deadline is another.
    """
    last = CancelToken(deadline=_RMDIR_SECONDS)
    with suppress(BuildError):
        for path in reversed(made):
            host.run(["rmdir", "--", path], token=last, success=range(256))


def _make_dirs(host: Host, path: str, *, made: list[str], token: CancelToken) -> None:
    """`made` gets what was missing. Another build may remove a shared parent in between: again."""
    for attempt in range(5):
        made[:] = missing_dirs(path)
        if not made:
            break
        try:
            host.run(["mkdir", "-p", "--", path], token=token)
            break
        except CommandError as error:
            if attempt == 4:
                error.hint = error.hint or "Set mount_path to where a folder can be made"
                raise
    if not os.path.isdir(path):
        raise BuildError(f"mount_path {path} is not a folder")


@contextmanager
def extra_mounts(
    host: Host,
    root: Path,
    rootfs: RootFs,
    mounts: Sequence[ExtraMount],
    *,
    ui: Ui,
    token: CancelToken,
) -> Iterator[None]:
    """chroot_mounts, in their order. Mount points are resolved in the root and made if missing.

    At the end everything below the root is unmounted, what provisioners mounted too, and mount
    points that were made are removed unless something was put into them.
    """
    made: list[str] = []
    with undoing(lambda: _unmount_extra(host, root, rootfs, made, ui=ui, hurry=token.cancelled)):
        for each in mounts:
            try:
                _mount_extra(host, root, rootfs, each, made=made, token=token)
            except BuildError as error:
                # A mount that still goes on somewhere is no matter of a missing module.
                optional = each.fstype == "binfmt_misc" and not isinstance(error, UndoError)
                if not optional or token.cancelled:
                    raise
                ui.message(f"warning: {each.target} is not mounted: {error.message}")
        yield


def _unmount_extra(
    host: Host, root: Path, rootfs: RootFs, made: Sequence[str], *, ui: Ui, hurry: bool
) -> None:
    undo = CancelToken(deadline=UNDO_SECONDS, reason=f"unmounting below {root} took too long")
    umount_below(host, str(root), itself=False, ui=ui, token=undo, hurry=hurry)
    if made:
        try:
            rootfs.files.call("remove_made", {"made": [*made]}, check=undo.check)
        except (OSError, BuildError) as error:
            raise UndoError(
                f"mount points made in the image stay there: {error}", left=made
            ) from error


def _mount_extra(
    host: Host,
    root: Path,
    rootfs: RootFs,
    each: ExtraMount,
    *,
    made: list[str],
    token: CancelToken,
) -> None:
    as_file = False
    if each.fstype == "bind":
        try:
            as_file = not stat.S_ISDIR(os.stat(each.source).st_mode)
        except OSError as error:
            # Without the right to look there, mount (through the wrapper) says what is wrong.
            if error.errno != errno.EACCES:
                raise failure(f"chroot_mounts: bind mount of {each.source}", error) from error
    arguments: dict[str, Any] = {"path": each.target, "as_file": as_file}
    try:
        point = rootfs.files.call("make_mount_point", arguments, check=token.check)
    except OSError as error:
        raise failure(f"chroot_mounts: the mount point {each.target}", error) from error
    made += point["made"]
    if point["real"] == "/":
        raise BuildError(f"chroot_mounts: {each.target} is the root itself")
    try:
        mount(host, each.source, str(root) + point["real"], fstype=each.fstype, token=token)
    except CommandError as error:
        error.message = f"chroot_mounts: {error.message}"
        raise
