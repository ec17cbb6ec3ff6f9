"""What can be done to the files of a root, by whoever may: this process, or the agent.

`Files` is that interface, `LocalFiles` does it with the rights of the process it is in. The agent
serves a `LocalFiles` of its own to `agent_client.py`. Nothing here knows of builds or of Packer.
"""

import errno
import os
import stat
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from packer_plugin_osc_chroot.host import holders_scan, placed_files
from packer_plugin_osc_chroot.host.rooted import Rooted
from packer_plugin_osc_chroot.host.trees import (
    READ_FLAGS,
    Entry,
    Stream,
    TreeWriter,
    open_for_writing,
    read_chunks,
    read_tree,
)

# JSON's values: what an operation takes and gives has to pass through the agent's pipe.
Json = Any
Check = Callable[[], None]
# A cancelled transfer notices within a chunk; a download that nobody reads on is not waited for.
CLOSE_SECONDS = 3.0


class Files(Protocol):
    """Failures are OSError, with the path that was in the way as filename.

    `check` is called again and again while something goes on; it raises to end it.
    """

    def read_file(self, path: str, *, check: Check) -> Iterator[bytes]: ...

    def write_file(
        self, path: str, chunks: Iterable[bytes], *, mode: int, check: Check
    ) -> None: ...

    def read_tree(
        self, path: str, *, prefix: str, exclude: Collection[str], check: Check
    ) -> Stream: ...

    def write_tree(
        self, path: str, stream: Iterable[Entry | bytes], *, check: Check
    ) -> list[Entry]:
        """Returns the entries of the stream that could not be copied."""

    def call(self, operation: str, arguments: Mapping[str, Json], *, check: Check) -> Json:
        """One of the small operations in the two tables below."""

    def close(self) -> None: ...


class LocalFiles:
    """Opens the root when it is first needed; until then it keeps no filesystem busy.

    Thread-safe: operations go on side by side, and closing waits for them.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._opened: Rooted | None = None
        self._users = 0
        self._closed = False
        self._changed = threading.Condition()

    @contextmanager
    def _open_root(self) -> Iterator[Rooted]:
        with self._changed:
            if self._closed:
                raise OSError(errno.ESHUTDOWN, "the root is being unmounted", self._root)
            if self._opened is None:
                self._opened = Rooted(self._root)
            opened = self._opened
            self._users += 1
        try:
            yield opened
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: self._users == 0, timeout=CLOSE_SECONDS)
            if self._opened is not None:
                self._opened.close()

    def read_file(self, path: str, *, check: Check) -> Iterator[bytes]:
        with ExitStack() as stack:
            with stack.enter_context(self._open_root()).find(path) as spot:
                if spot.stat is None:
                    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), spot.real)
                if spot.is_dir:
                    raise OSError(errno.EISDIR, "is a folder", spot.real)
                # Looked at before it is opened: opening a device can have effects.
                if not stat.S_ISREG(spot.stat.st_mode):
                    raise OSError(errno.EINVAL, "is no regular file", spot.real)
                try:
                    fd = os.open(spot.name, READ_FLAGS, dir_fd=spot.directory)
                except OSError as error:
                    raise OSError(error.errno, error.strerror, spot.real) from None
                stack.callback(os.close, fd)
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "is no regular file", path)
            for chunk in read_chunks(fd, size=found.st_size):
                check()
                yield chunk

    def write_file(self, path: str, chunks: Iterable[bytes], *, mode: int, check: Check) -> None:
        with self._open_root() as rooted, rooted.find(path) as spot:
            if spot.is_dir or path.endswith("/"):
                raise OSError(errno.EISDIR, "is a folder", path)
            try:
                writer = open_for_writing(
                    spot.directory, spot.name, rooted=rooted, real=spot.real, mode=mode
                )
            except OSError as error:
                raise OSError(error.errno, error.strerror, spot.real) from None
            try:
                for chunk in chunks:
                    check()
                    writer.write(chunk)
                writer.commit()
            finally:
                writer.abandon()

    def read_tree(
        self, path: str, *, prefix: str, exclude: Collection[str], check: Check
    ) -> Stream:
        with ExitStack() as stack:
            with stack.enter_context(self._open_root()).find(path) as spot:
                if spot.stat is None:
                    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), spot.real)
                if not spot.is_dir:
                    raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), spot.real)
                fd = spot.open_dir()
                stack.callback(os.close, fd)
            for item in read_tree(fd, prefix=prefix, exclude=exclude):
                check()
                yield item

    def write_tree(
        self, path: str, stream: Iterable[Entry | bytes], *, check: Check
    ) -> list[Entry]:
        skipped: list[Entry] = []
        with ExitStack() as stack:
            rooted = stack.enter_context(self._open_root())
            spot = stack.enter_context(rooted.find(path))
            if spot.stat is None:
                os.mkdir(spot.name, 0o755, dir_fd=spot.directory)
                os.chmod(spot.name, 0o755, dir_fd=spot.directory)
            elif not spot.is_dir:
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), spot.real)
            top = spot.open_dir()
            stack.callback(os.close, top)
            writer = TreeWriter(top, rooted=rooted, real=spot.real, on_skipped=skipped.append)
            writer.write(checked(stream, check))
        return skipped

    def call(self, operation: str, arguments: Mapping[str, Json], *, check: Check) -> Json:
        check()
        if operation in HOST_OPERATIONS:
            return HOST_OPERATIONS[operation](arguments)
        with self._open_root() as rooted:
            return ROOT_OPERATIONS[operation](rooted, arguments, check)


def checked(stream: Iterable[Entry | bytes], check: Check) -> Stream:
    for item in stream:
        check()
        yield item


def _place(rooted: Rooted, arguments: Mapping[str, Json], check: Check) -> Json:
    return placed_files.place(rooted, arguments["path"], kind=arguments["kind"], check=check)


def _put_back(rooted: Rooted, arguments: Mapping[str, Json], check: Check) -> Json:
    return placed_files.put_back(rooted, arguments["placed"])


def _make_mount_point(rooted: Rooted, arguments: Mapping[str, Json], check: Check) -> Json:
    """Find the mount point, made where it is missing: its real path and what was made, in order."""
    made: list[str] = []
    path, as_file = arguments["path"], arguments["as_file"]
    try:
        with rooted.find(path) as spot:
            exists, real = spot.stat is not None, spot.real
    except FileNotFoundError as error:
        # The path up to the first component that is missing: made, then the rest again.
        missing = error.filename
        made += _make_mount_point(rooted, {"path": missing, "as_file": False}, check)["made"]
        again = _make_mount_point(rooted, arguments, check)
        return {"real": again["real"], "made": made + again["made"]}
    if not exists:
        with rooted.find(real) as spot:
            if as_file:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                os.close(os.open(spot.name, flags, 0o644, dir_fd=spot.directory))
            else:
                os.mkdir(spot.name, 0o755, dir_fd=spot.directory)
                os.chmod(spot.name, 0o755, dir_fd=spot.directory)
        made.append(real)
    return {"real": real, "made": made}


def _remove_made(rooted: Rooted, arguments: Mapping[str, Json], check: Check) -> Json:
    """Remove mount points that were made, where nothing was put into them since."""
    for path in reversed(arguments["made"]):
        try:
            with rooted.find(path, follow=False) as spot:
                if spot.is_dir:
                    os.rmdir(spot.name, dir_fd=spot.directory)
                elif spot.stat is not None and spot.stat.st_size == 0:
                    os.unlink(spot.name, dir_fd=spot.directory)
        except OSError:
            continue
    return None


def _find_holders(arguments: Mapping[str, Json]) -> Json:
    found = holders_scan.find_holders(arguments["mount_point"], spare=arguments["spare"])
    return [[holder.pid, holder.command, holder.why] for holder in found]


def _is_claimed(arguments: Mapping[str, Json]) -> Json:
    """Whether a mount (in any namespace) or another claimant still has the block device."""
    try:
        os.close(os.open(arguments["device"], os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        raise
    return False


def _list_source(arguments: Mapping[str, Json]) -> Json:
    return placed_files.list_source(arguments["path"])


def _find_mounters(arguments: Mapping[str, Json]) -> Json:
    return holders_scan.find_mounters(arguments["device_number"])


ROOT_OPERATIONS: Mapping[str, Callable[[Rooted, Mapping[str, Json], Check], Json]] = {
    "place": _place,
    "put_back": _put_back,
    "make_mount_point": _make_mount_point,
    "remove_made": _remove_made,
}

# These concern the machine and leave the root alone, so that they can help to unmount it.
HOST_OPERATIONS: Mapping[str, Callable[[Mapping[str, Json]], Json]] = {
    "find_holders": _find_holders,
    "find_mounters": _find_mounters,
    "is_claimed": _is_claimed,
    "list_source": _list_source,
}


def nothing_to_check() -> None:
    return None
