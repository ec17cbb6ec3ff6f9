"""The locks that builds on this VM share, whichever users they belong to.

One is taken in turn, to pick a device name. Another is shared by all that wait for a disk to appear,
so that one which cannot tell its disk from theirs can wait until it is alone. And each disk has one,
held by the build that works on it: never the disk's own, with which udev would not look at it, nor
O_EXCL, which would keep it from being mounted.

A lock is a file in a directory that every user may write to. Nothing is ever written to it, and it
stays: the kernel's lock on it goes with the process that holds it. Anybody could have put something
else in its place, so it is opened without waiting and looked at before it counts.

Who waits is queued by the kernel, in the order of coming (since Linux 5.0 the others wait behind the
first, so that a release wakes only that one).
"""

import errno
import fcntl
import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.host.disk import device_number
from packer_plugin_osc_chroot.ui import Ui

# World-writable directories come with the sticky bit; /run/lock exists on every Debian and Red Hat.
_DIRECTORIES = (Path("/run/lock"), Path("/var/lock"), Path("/tmp"))
_NAME = "packer-plugin-osc-chroot.lock"
_APPEARING_NAME = "packer-plugin-osc-chroot-appearing.lock"
_ALONE_NAME = "packer-plugin-osc-chroot-alone.lock"
_DISK_NAME = "packer-plugin-osc-chroot-disk-{}.lock"
_MODE = 0o644
# O_NONBLOCK: opening a FIFO would wait for somebody to write to it.
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# How long another user's new file may take to become readable for us.
_READABLE_SECONDS = 2.0
_LOOK_EVERY = 0.05
# Between two looks whether a deadline has passed.
_CHECK_EVERY = 0.2
# Seconds of waiting for the lock before the user is told.
_TELL_AFTER = 10.0


@contextmanager
def link_lock(token: CancelToken, *, ui: Ui) -> Iterator[None]:
    """Held by one build of this VM at a time. Raises BuildError naming the file, Cancelled."""
    with _lock(_NAME, fcntl.LOCK_EX, token=token, ui=ui):
        yield


class Appearing:
    """The time from before a link is asked for until its disk is found."""

    def __init__(self, lock: int, *, alone: bool) -> None:
        self._lock = lock
        self._alone = alone

    def is_alone(self) -> bool:
        """Whether no other build waits for a disk now; if so, none begins to until ours is found."""
        if self._alone:
            return True
        # A shared lock is lost for a moment where it cannot be made exclusive (flock(2)): nobody else
        # may ask in that moment.
        try:
            asking = _open(_directory() / _ALONE_NAME, token=CancelToken())
        except OSError:
            # Said by whoever has to wait for it.
            return False
        try:
            if _try_lock(asking, fcntl.LOCK_EX):
                self._alone = _try_lock(self._lock, fcntl.LOCK_EX)
                if not self._alone:
                    fcntl.flock(self._lock, fcntl.LOCK_SH)
        finally:
            os.close(asking)
        return self._alone


@contextmanager
def appearing(token: CancelToken, *, ui: Ui, alone: bool) -> Iterator[Appearing]:
    """Beside others, or, with `alone`, once all of them have found theirs.

    Raises BuildError naming the file, Cancelled.
    """
    kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    with ExitStack() as stack:
        # The kernel lets shared locks pass one that waits to be exclusive: here they wait behind it.
        with _lock(_ALONE_NAME, kind, token=token, ui=ui):
            lock = stack.enter_context(_lock(_APPEARING_NAME, kind, token=token, ui=ui))
        yield Appearing(lock, alone=alone)


@contextmanager
def own_disk(disk: Path, *, token: CancelToken, ui: Ui) -> Iterator[None]:
    """The whole disk is this build's, and no other's on this VM, until the end of the block.

    It ends before the disk goes: another may get its number then. Raises BuildError, Cancelled.
    """
    number = device_number(disk)
    name = _DISK_NAME.format(f"{os.major(number)}:{os.minor(number)}")
    taken = BuildError(
        f"{disk} is the disk of another build on this VM, by its lock {_directory() / name}",
        hint="Nothing was written to it. Leave nvme_device_path out, or give each build its own",
    )
    with _lock(name, fcntl.LOCK_EX, token=token, ui=ui, taken=taken):
        yield


def pids_with_disks() -> set[int]:
    """The processes of the builds that have a disk now, from the kernel's own table of locks."""
    inodes = set()
    for path in _directory().glob(_DISK_NAME.format("*")):
        with suppress(OSError):
            inodes.add(str(path.stat(follow_symlinks=False).st_ino))
    found = set()
    # The filesystem's number beside the inode is not always that of stat (btrfs).
    with suppress(OSError), open("/proc/locks", encoding="ascii") as locks:
        for line in locks:
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] in inodes:
                found.add(int(fields[4]))
    return found


@contextmanager
def _lock(
    name: str, kind: int, *, token: CancelToken, ui: Ui, taken: BuildError | None = None
) -> Iterator[int]:
    """Waits for the lock; where `taken` is given, that is raised instead."""
    path = _directory() / name
    try:
        lock = _locked(path, kind, token=token, ui=ui, taken=taken)
    except OSError as error:
        raise BuildError(
            f"lock file {path}: {error.strerror}",
            hint="Builds on this VM share it: remove it if it is no plain file that every user may"
            " read, and see that every user may make one there",
        ) from error
    try:
        yield lock
    finally:
        os.close(lock)


def _directory() -> Path:
    """The first that every user may write to: all of them must find the same."""
    for path in _DIRECTORIES:
        with suppress(OSError):
            if path.stat().st_mode & 0o1777 == 0o1777:
                return path
    return _DIRECTORIES[-1]


def _locked(path: Path, kind: int, *, token: CancelToken, ui: Ui, taken: BuildError | None) -> int:
    """The locked file, as a descriptor. Raises OSError, Cancelled."""
    while True:
        lock = _open(path, token=token)
        try:
            is_ours = _try_lock(lock, kind)
            if not is_ours and taken is not None:
                raise taken
        except BaseException:
            os.close(lock)
            raise
        if not is_ours:
            _Queued(lock, kind).wait(path, token=token, ui=ui)
        if _is_at(path, lock):
            return lock
        # It was removed while we waited (by what tidies /tmp): others lock a new one.
        os.close(lock)
        token.check()


class _Queued:
    """Waits for the lock in a thread, since a cancel does not interrupt flock.

    The descriptor is the thread's until it has the lock: it closes it where nobody waits any more.
    """

    def __init__(self, lock: int, kind: int) -> None:
        self._lock = lock
        self._kind = kind
        self._over = threading.Event()
        self._handing_over = threading.Lock()
        self._taken = False
        self._left = False
        self._failure: OSError | None = None
        threading.Thread(target=self._take, name="link lock", daemon=True).start()

    def _take(self) -> None:
        try:
            fcntl.flock(self._lock, self._kind)
        except OSError as error:
            self._failure = error
        with self._handing_over:
            if self._left or self._failure is not None:
                os.close(self._lock)
            else:
                self._taken = True
        self._over.set()

    def wait(self, path: Path, *, token: CancelToken, ui: Ui) -> None:
        """Until the descriptor has the lock and is the caller's. Raises OSError, Cancelled."""
        begun = time.monotonic()
        told = False
        try:
            with token.on_cancel(self._over.set):
                while not self._over.wait(_CHECK_EVERY):
                    token.check()
                    if not told and time.monotonic() - begun > _TELL_AFTER:
                        told = True
                        ui.message(f"Waiting for other builds on this VM that are linking ({path})")
            token.check()
        except BaseException:
            with self._handing_over:
                self._left = True
                if self._taken:
                    os.close(self._lock)
            raise
        if self._failure is not None:
            raise self._failure


def _try_lock(lock: int, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(path: Path, lock: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(lock))
    except FileNotFoundError:
        return False


def _open(path: Path, *, token: CancelToken) -> int:
    """Another user's build may have made it just now and not yet set its mode: again for a moment."""
    deadline = time.monotonic() + _READABLE_SECONDS
    while True:
        try:
            return _open_once(path)
        except PermissionError:
            if time.monotonic() >= deadline:
                raise
            token.sleep(_LOOK_EVERY)
        except FileExistsError:
            # It was made by somebody else between our two looks.
            token.check()


def _open_once(path: Path) -> int:
    """Open the file, made where it is missing: readable for everybody, a lock needs no more."""
    try:
        lock = os.open(path, _FLAGS)
    except FileNotFoundError:
        # Never O_CREAT for what exists: the kernel refuses it for others' files in a sticky
        # directory (fs.protected_regular).
        lock = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, _MODE)
    try:
        found = os.fstat(lock)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "is no plain file")
        # Our umask may have taken rights away, now or in a build that was killed right then. What
        # has another name too is some other file of ours, linked here by somebody else.
        if found.st_uid == os.geteuid() and found.st_nlink == 1:
            os.fchmod(lock, _MODE)
    except BaseException:
        os.close(lock)
        raise
    return lock
