"""The journals of builds that are dead: those whose lock can be had."""

import dataclasses
import errno
import fcntl
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.journal.directory import open_directory
from packer_plugin_osc_chroot.journal.journal import SUFFIX, append
from packer_plugin_osc_chroot.journal.marks import find_marks
from packer_plugin_osc_chroot.journal.story import KEPT_MODE, Story, read_story

log = logging.getLogger(__name__)

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_HANDED_ON_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class DeadJournal:
    """One that is ours alone while it is open."""

    path: Path
    story: Story
    _folder: int
    _file: int

    def remove(self) -> None:
        """Nothing of its build is left."""
        os.unlink(self.path.name, dir_fd=self._folder)

    def failed(self) -> None:
        """Something is left that could not be undone; it is tried again."""
        with suppress(OSError):
            append(self._file, {"event": "end", "how": self.story.end or "failed"}, sync=True)


def has_journals(directory: Path | None) -> bool:
    """Whether there is any at all, of dead or living builds: a look that costs nothing."""
    try:
        return directory is not None and any(x.name.endswith(SUFFIX) for x in directory.iterdir())
    except OSError:
        return False


def dead_journals(
    directory: Path, *, tell: Callable[[str], None] = log.warning
) -> Iterator[DeadJournal]:
    """Each while it is locked, oldest first. Raises BuildError where the directory is not ours alone.

    One that another process undoes right now is passed over, like that of a living build. What is named
    like a journal and cannot be understood is left alone too, and `tell` gets a line that says why.
    """
    try:
        folder = open_directory(directory, make=False)
    except FileNotFoundError:
        return
    try:
        for name in sorted(os.listdir(folder)):
            if name.endswith(SUFFIX):
                with _claimed(directory, folder, name, tell) as journal:
                    if journal is not None:
                        yield journal
    finally:
        os.close(folder)


@contextmanager
def _claimed(
    directory: Path, folder: int, name: str, tell: Callable[[str], None]
) -> Iterator[DeadJournal | None]:
    path = directory / name
    with ExitStack() as stack:
        journal = None
        try:
            journal = _lock_and_read(path, folder, stack.enter_context(_opened(name, folder)))
        except FileNotFoundError:
            # Its build has just ended.
            pass
        except OSError as error:
            tell(f"{path}: left alone: {error.strerror}")
        except BuildError as error:
            tell(f"{path}: left alone: {error}")
        yield journal


@contextmanager
def _opened(name: str, folder: int) -> Iterator[int]:
    """Raises BuildError for what is no file of ours, OSError."""
    try:
        file = os.open(name, _FLAGS, dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise
        raise BuildError("is no file") from error
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise BuildError("is no file")
        if found.st_uid != os.geteuid():
            raise BuildError(f"belongs to user {found.st_uid}")
        yield file
    finally:
        os.close(file)


def _lock_and_read(path: Path, folder: int, file: int) -> DeadJournal | None:
    if not _lock(file):
        return None
    found = os.fstat(file)
    if not os.path.samestat(os.stat(path.name, dir_fd=folder, follow_symlinks=False), found):
        return None
    story = _read(file)
    if story is not None:
        return DeadJournal(path, story, folder, file)
    # Its build was killed before it made anything, or is about to see that it is gone.
    os.unlink(path.name, dir_fd=folder)
    return None


def _lock(file: int) -> bool:
    """Whether it can be had. A command that a build was just starting when it was killed has the lock
    with it until it runs."""
    deadline = time.monotonic() + _HANDED_ON_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            story = _read(file)
            is_alive = story is None or os.path.exists(f"/proc/{story.about.pid}")
            if is_alive or time.monotonic() > deadline:
                return False
        time.sleep(0.02)


def _read(file: int) -> Story | None:
    story = read_story(_text(file))
    if story is not None and os.fstat(file).st_mode & 0o777 == KEPT_MODE:
        return dataclasses.replace(story, end="kept")
    return story


def _text(file: int) -> bytes:
    return os.pread(file, os.fstat(file).st_size, 0)


def client_tokens(directory: Path) -> set[str]:
    """Our ClientTokens that any journal names, of dead or living builds, of whatever format.

    Raises BuildError, OSError.
    """
    found: set[str] = set()
    try:
        folder = open_directory(directory, make=False)
    except FileNotFoundError:
        return found
    try:
        for name in os.listdir(folder):
            if name.endswith(SUFFIX):
                with suppress(FileNotFoundError, BuildError), _opened(name, folder) as file:
                    found |= find_marks(_text(file))
    finally:
        os.close(folder)
    return found
