"""Unmounting, cleanly: what is in the way is ended, and what the kernel still writes is waited for.

Nothing is unmounted lazily: a snapshot taken while the kernel still writes would be worth nothing.
The kernel takes a mount out of its table first and writes out then, for minutes where the disk is
slow. So a umount that runs has no part in the deadlines of undoing, and a disk is free only when
nothing claims it.
"""

import errno
import os
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, Cancelled, CommandError, UndoError
from packer_plugin_osc_chroot.host import holders
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.disk import block_size
from packer_plugin_osc_chroot.host.holders_scan import find_kernel_users
from packer_plugin_osc_chroot.host.mountinfo import Mount, mounts_below, unmount_order
from packer_plugin_osc_chroot.host.procfs import Family, command_line
from packer_plugin_osc_chroot.host.rootfs import Files
from packer_plugin_osc_chroot.ui import Ui

# How long writing out may take, and how often the user is told that it goes on.
WRITE_OUT_SECONDS = 1800.0
TELL_EVERY = 10.0
# For each mount that is still there when the token's deadline has passed.
EACH_SECONDS = 10.0
# What looks at new disks (udev, blkid) holds a mount for moments.
BUSY_RETRIES = 6
BUSY_PAUSE = 0.05
# How long a disk that nobody writes to may stay in use once it is unmounted.
RELEASE_SECONDS = 3.0
_GONE = (errno.ENOENT, errno.ENXIO, errno.ENODEV)


def umount(
    host: Host,
    files: Files,
    target: str,
    *,
    root: str,
    ui: Ui,
    token: CancelToken,
    hurry: bool = False,
) -> None:
    """Unmount; whoever below `root` keeps it busy is named and ended. Raises UndoError.

    The time that umount itself takes does not count for the token's deadline.
    """
    failed: CommandError | None = None
    for attempt in range(BUSY_RETRIES):
        try:
            _write_out(host, ["umount", "--", target], what=f"unmounting {target}", ui=ui)
            token.renew()
            return
        except CommandError as error:
            token.renew()
            if not any(each.mount_point == target for each in mounts_below(target)):
                return
            failed = error
            if "busy" not in "\n".join(error.details):
                break
        if attempt == 0:
            grace = 0.3 if hurry else holders.TERM_GRACE
            holders.end_holders(host, files, root, ui=ui, token=token, term_grace=grace)
        else:
            token.sleep(BUSY_PAUSE * 2**attempt)
    left = [str(holder) for holder in holders.find_all(files, root, token=token)]
    left += find_kernel_users(root)
    assert failed is not None
    raise UndoError(
        f"{target} cannot be unmounted: {failed.details[-1] if failed.details else failed}",
        left=[f"{target} is still mounted", *left],
        hint="" if left else "No process holds it; the kernel may (an NFS export in it).",
    )


def umount_below(
    host: Host, root: str, *, itself: bool, ui: Ui, token: CancelToken, hurry: bool = False
) -> None:
    """Unmount everything below `root` and over it, last first, whoever mounted it; then `root` if
    `itself`. Raises UndoError.
    """
    mounts = mounts_below(root)
    if not itself and (own := _at(root, mounts)) is not None:
        mounts.remove(own)
    umount_all(host, root, mounts, ui=ui, token=token, hurry=hurry)


def umount_all(
    host: Host,
    root: str,
    mounts: Sequence[Mount],
    *,
    ui: Ui,
    token: CancelToken,
    hurry: bool = False,
) -> None:
    """Unmount these, all at or below `root`, last first.

    Goes on after a failure, so that as little as possible stays, and past the token's deadline with
    a short one for each. Raises one UndoError that names each mount that stays.
    """
    failures: list[UndoError] = []
    bottom = _at(root, mounts_below(root))
    with holders.machine_files(host) as files:
        for each in unmount_order(mounts):
            point = each.mount_point
            if each == bottom and failures:
                still = f"{point} is still mounted"
                failures.append(UndoError(still, left=[still]))
                continue
            own = CancelToken(deadline=EACH_SECONDS) if token.cancelled else token
            try:
                umount(host, files, point, root=root, ui=ui, token=own, hurry=hurry)
            except UndoError as error:
                failures.append(error)
            except (BuildError, OSError) as error:
                still = f"{point} is still mounted: {error}"
                failures.append(UndoError(still, left=[still]))
    if failures:
        left = dict.fromkeys(each for failure in failures for each in failure.left)
        raise UndoError(failures[0].message, left=list(left), hint=failures[0].hint)


def _at(root: str, mounts: Sequence[Mount]) -> Mount | None:
    """The mount of the root itself: what is mounted over it comes later."""
    return next((each for each in mounts if each.mount_point == root), None)


def release(host: Host, device: str, *, ui: Ui, token: CancelToken) -> None:
    """Wait until nothing has the device any more, and write out what the kernel still caches.

    A device that is gone has neither. Raises UndoError.
    """
    try:
        found = os.stat(device)
        if not stat.S_ISBLK(found.st_mode):
            return
        _await_free(host, device, found, ui=ui, token=token)
        _write_out(host, ["blockdev", "--flushbufs", device], what=f"flushing {device}", ui=ui)
    except OSError as error:
        if error.errno not in _GONE:
            raise UndoError(
                f"{device}: cannot tell whether it is free: {error.strerror}",
                left=[f"{device} may still be in use"],
            ) from error
    except UndoError:
        raise
    except BuildError as error:
        # Neither a cancel (undoing has a deadline of its own) nor a failed command is one of the build.
        if block_size(Path(device)):
            raise UndoError(
                f"{device} is unmounted and may not be written out: {error.message}",
                left=[f"{device} may still be in use"],
                hint=error.hint,
            ) from error


def _await_free(
    host: Host, device: str, found: os.stat_result, *, ui: Ui, token: CancelToken
) -> None:
    """A filesystem whose umount was left behind may still be writing: that is waited for."""
    number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    pause = 0.02
    begun = written_at = time.monotonic()
    written = _writes(number)
    with holders.machine_files(host) as files, _telling(ui, f"waiting for {device}"):
        while files.call("is_claimed", {"device": device}, check=token.check):
            now = time.monotonic()
            if (seen := _writes(number)) != written:
                written, written_at = seen, now
                token.renew()
            if now - begun >= RELEASE_SECONDS:
                arguments = {"device_number": number}
                left = files.call("find_mounters", arguments, check=token.check)
                is_quiet = now - written_at >= RELEASE_SECONDS
                if left or is_quiet or now - begun >= WRITE_OUT_SECONDS:
                    raise UndoError(
                        f"{device} is unmounted here but still in use elsewhere",
                        left=left or [f"{device} is still in use"],
                        hint="A service or container keeps a copy of the mount: stop it."
                        if left
                        else "No process has it mounted; the kernel may use it (swap, RAID, a volume"
                        " group, a filesystem that was unmounted lazily).",
                    )
            token.sleep(pause)
            pause = min(pause * 2, 0.5)


def _writes(number: str) -> list[str]:
    """What changes while a device is written to: writes done, sectors written, requests in flight."""
    try:
        fields = Path(f"/sys/dev/block/{number}/stat").read_text().split()
    except OSError:
        return []
    return [*fields[4:7], fields[8]]


def _write_out(host: Host, argv: Sequence[str], *, what: str, ui: Ui) -> None:
    """Run what ends when the kernel has written out. Raises CommandError, UndoError."""
    left: list[Family] = []
    with _telling(ui, what):
        try:
            host.run(argv, token=CancelToken(deadline=WRITE_OUT_SECONDS), on_left=left.append)
        except Cancelled:
            still = f"{what} still goes on after {WRITE_OUT_SECONDS / 60:.0f} min"
            raise UndoError(
                still,
                left=[f"{pid} {command_line(pid)}" for family in left for pid in family.living()]
                or [still],
                hint="The disk takes writes too slowly, or not at all: the kernel's log (dmesg) says"
                " more.",
            ) from None


@contextmanager
def _telling(ui: Ui, what: str) -> Iterator[None]:
    """Tell the user again and again that something still goes on."""
    ended = threading.Event()
    begun = time.monotonic()

    def tell() -> None:
        while not ended.wait(TELL_EVERY):
            ui.message(f"{what}: still writing out ({time.monotonic() - begun:.0f} s)")

    thread = threading.Thread(target=tell, name="telling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
