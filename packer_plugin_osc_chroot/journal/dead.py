"""The journals of builds that are dead: those whose lock can be had."""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from packer_plugin_osc_chroot.journal.directory import open_directory
from packer_plugin_osc_chroot.journal.journal import SUFFIX, append
from packer_plugin_osc_chroot.journal.story import Story, read_story

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# Seconds within which a new file gets its first line.
_NEW_SECONDS = 60.0


@dataclass(frozen=True)
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


def dead_journals(directory: Path) -> Iterator[DeadJournal]:
    """Each while it is locked, oldest first. Raises BuildError where the directory is not ours alone.

    One that another process undoes right now is passed over, like that of a living build.
    """
    try:
        folder = open_directory(directory, make=False)
    except FileNotFoundError:
        return
    try:
        for name in sorted(os.listdir(folder)):
            if name.endswith(SUFFIX):
                with _claimed(directory, folder, name) as journal:
                    if journal is not None:
                        yield journal
    finally:
        os.close(folder)


@contextmanager
def _claimed(directory: Path, folder: int, name: str) -> Iterator[DeadJournal | None]:
    try:
        file = os.open(name, _FLAGS, dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise
        yield None
        return
    try:
        yield _lock_and_read(directory / name, folder, file)
    finally:
        os.close(file)


def _lock_and_read(path: Path, folder: int, file: int) -> DeadJournal | None:
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        at_path = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
    except (BlockingIOError, FileNotFoundError):
        return None
    if not os.path.samestat(at_path, found):
        return None
    size = os.fstat(file).st_size
    story = read_story(os.pread(file, size, 0))
    if story is not None:
        return DeadJournal(path, story, folder, file)
    if time.time() - found.st_mtime > _NEW_SECONDS:
        os.unlink(path.name, dir_fd=folder)
    return None


def client_tokens(directory: Path) -> set[str]:
    """The ClientTokens that any journal names, of dead or living builds. Raises BuildError, OSError."""
    found: set[str] = set()
    try:
        folder = open_directory(directory, make=False)
    except FileNotFoundError:
        return found
    try:
        for name in os.listdir(folder):
            if not name.endswith(SUFFIX):
                continue
            with suppress(FileNotFoundError):
                file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
                try:
                    story = read_story(os.pread(file, os.fstat(file).st_size, 0))
                finally:
                    os.close(file)
                found |= (
                    {x.traces.get("ClientToken", "") for x in story.effects} if story else set()
                )
    finally:
        os.close(folder)
    return found
