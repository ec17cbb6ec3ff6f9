"""The journal of one build: one file of JSON lines, locked as long as the build lives.

What a call of the API is about to make is on the disk before the call is sent, and its id once it is
known. What goes with the kernel (mounts, processes) is written too, but not waited for: a power
failure takes both. There are no secrets in it; who undoes a build has credentials of their own.
`story.py` reads it.
"""

import errno
import fcntl
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.host.mountinfo import missing_dirs
from packer_plugin_osc_chroot.host.procfs import boot_id, read_process
from packer_plugin_osc_chroot.journal.directory import open_directory
from packer_plugin_osc_chroot.journal.effects import id_in, removed_by, traces_of
from packer_plugin_osc_chroot.journal.marks import new_client_token
from packer_plugin_osc_chroot.journal.story import FORMAT, KEPT_MODE, read_story

log = logging.getLogger(__name__)

SUFFIX = ".journal"
# What undoes a dead build by hand.
RECLAIM = "packer-plugin-osc-chroot reclaim"
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Journal:
    """Thread-safe. The file is made with the first effect. Without a directory nothing is written."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory
        # What all commands of the build carry.
        self.mark = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._about: dict[str, Any] = {}
        self._folder = -1
        self._name = ""
        self._file = -1
        self._count = 0

    def begin(self, **about: str) -> None:
        """What whoever undoes this build must know: `vm_id`, `region`, `endpoint`, `omi_name`, …

        Raises BuildError where the directory is not this user's alone, OSError where it cannot be had:
        then nothing is written.
        """
        self._about = about
        if self.directory is not None:
            self._folder = open_directory(self.directory, make=True)

    def client_token(self) -> str:
        """A new ClientToken that says who made the resource, and when."""
        return new_client_token(self._about.get("vm_id", ""))

    def sending(self, action: str, body: Mapping[str, Any]) -> int:
        """Before a call: what it may make. Its number for what is said of it later.

        Raises BuildError where it cannot be written.
        """
        if (traces := traces_of(action, body)) is None:
            return 0
        with self._lock:
            self._count += 1
            if self._folder < 0:
                return self._count
            event = {"event": "send", "n": self._count, "action": action, **traces}
            try:
                if self._file < 0:
                    self._file = self._open()
                append(self._file, event, sync=True)
            except OSError as error:
                raise self._cannot_write(error) from error
            return self._count

    def answered(
        self, number: int, action: str, body: Mapping[str, Any], answer: Mapping[str, Any]
    ) -> None:
        """The call was done."""
        if number:
            self._note({"event": "made", "n": number, "id": id_in(action, answer)}, sync=True)
        elif removed := removed_by(action, body):
            self._note({"event": "gone", "action": action, "id": removed})

    def refused(self, number: int) -> None:
        """The call was not done, for certain."""
        if number:
            self._note({"event": "refused", "n": number})

    def disk(self, path: Path, instance: str, *, size: int) -> None:
        """The disk of the link; `instance` tells it from another of that name, `size` is in GiB."""
        self._note({"event": "disk", "path": str(path), "instance": instance, "size": size})

    def mounting(self, mount_path: str, device: str) -> None:
        """The root is about to be mounted there; folders that are missing will be made."""
        try:
            number = os.stat(device).st_rdev
        except OSError as error:
            # The mount will say it better.
            log.info("%s: %s", device, error)
            return
        point = os.path.realpath(mount_path)
        made = missing_dirs(point)
        self._note(
            {
                "event": "mount",
                "point": point,
                "device": device,
                "number": f"{os.major(number)}:{os.minor(number)}",
                "made": made,
            }
        )

    def process(self, pid: int) -> None:
        """A command was started."""
        if (process := read_process(pid)) is not None:
            self._note({"event": "process", "pid": pid, "started": process.started})

    def keep(self, *ids: str) -> None:
        """The commit: these are what the build leaves, and nobody takes them back.

        Raises BuildError where it cannot be written: whoever found the journal would take them back.
        """
        self._must({"event": "keep", "ids": [*ids], "commit": True})

    def owns_snapshot(self, snapshot_id: str) -> None:
        """A snapshot that the API made by itself, as part of something that we made."""
        with self._lock:
            self._count += 1
            number = self._count
        # In one line: without its id nothing would find it.
        event = {"event": "send", "n": number, "action": "CreateSnapshot", "id": snapshot_id}
        self._note(event, sync=True)

    def deregistering(self, image: Mapping[str, Any]) -> None:
        """An OMI is about to make room for its successor: all that it needs to come back.

        Raises BuildError where it cannot be written.
        """
        self._must({"event": "former", "image": image})

    def returned(self, image_id: str, again: str) -> None:
        """It is back, as `again`, which stays."""
        self._note({"event": "keep", "ids": [again]}, sync=True)
        self._note({"event": "returned", "id": image_id}, sync=True)

    def keep_all(self) -> None:
        """What stands is what the user wanted kept (-on-error=abort): only they have it removed.

        A mark of the file itself, which a full disk does not prevent. Raises OSError.
        """
        with self._lock:
            if self._file >= 0:
                os.fchmod(self._file, KEPT_MODE)
        self._note({"event": "end", "how": "kept"}, sync=True)

    def standing(self) -> list[str]:
        """What whoever finds the journal would remove, for people, in that order."""
        with self._lock:
            if self._file < 0:
                return []
            story = read_story(os.pread(self._file, os.fstat(self._file).st_size, 0))
        return story.describe() if story else []

    @property
    def path(self) -> Path | None:
        """The file, once there is one."""
        return self.directory / self._name if self.directory and self._name else None

    def _cannot_write(self, error: OSError) -> BuildError:
        return BuildError(
            f"the journal in {self.directory} cannot be written: {error.strerror}",
            hint="Without it nobody could undo this build if it were killed. Make room there",
        )

    @property
    def is_open(self) -> bool:
        """Whether there is a file, which others will find if we are killed."""
        return self._file >= 0

    def end(self, *, kept: bool, failed: bool) -> None:
        """The build is over. The file goes, unless it has something for others to undo.

        `kept` is that of `keep_all`. A file that cannot be removed is no failure of the build: nothing
        in it stands any more.
        """
        if failed and not kept:
            self._note({"event": "end", "how": "failed"}, sync=True)
        with self._lock:
            if self._file >= 0:
                if not kept and not failed:
                    try:
                        os.unlink(self._name, dir_fd=self._folder)
                    except OSError as error:
                        log.warning("journal %s is not removed: %s", self._name, error.strerror)
                os.close(self._file)
            if self._folder >= 0:
                os.close(self._folder)
            self._file = self._folder = -1

    def _must(self, event: Mapping[str, Any]) -> None:
        """Write what the build must not go on without. Raises BuildError."""
        with self._lock:
            if self._file < 0:
                return
            try:
                append(self._file, event, sync=True)
            except OSError as error:
                raise self._cannot_write(error) from error

    def _note(self, event: Mapping[str, Any], *, sync: bool = False) -> None:
        """Write what must not stop a build that has done it: a full disk costs the trace only.

        As long as nothing was made there is nothing to say.
        """
        with self._lock:
            if self._file < 0:
                return
            try:
                append(self._file, event, sync=sync)
            except OSError as error:
                log.warning("not in the journal: %s: %s", event, error)

    def _open(self) -> int:
        file = self._make()
        try:
            about = {
                **self._about,
                "pid": os.getpid(),
                "boot_id": boot_id(),
                "mark": self.mark,
            }
            begin = {"event": "begin", "format": FORMAT, "at": int(time.time()), **about}
            append(file, begin, sync=True)
            os.fsync(self._folder)
        except BaseException:
            os.unlink(self._name, dir_fd=self._folder)
            os.close(file)
            raise
        return file

    def _make(self) -> int:
        """The file, empty and locked. Whoever finds it empty and not locked yet removes it."""
        while True:
            made = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            self._name = f"{made}-{secrets.token_hex(6)}{SUFFIX}"
            file = os.open(self._name, _FLAGS, 0o600, dir_fd=self._folder)
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file).st_nlink:
                return file
            os.close(file)


def append(file: int, event: Mapping[str, Any], *, sync: bool) -> None:
    """One line, in one write: a reader finds it whole or torn at the file's end. Raises OSError.

    What a full disk cuts short is taken back: the next line would be lost with it.
    """
    line = json.dumps(event).encode() + b"\n"
    written = os.write(file, line)
    if written != len(line):
        os.ftruncate(file, os.fstat(file).st_size - written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if sync:
        try:
            os.fdatasync(file)
        except OSError:
            os.ftruncate(file, os.fstat(file).st_size - len(line))
            raise
