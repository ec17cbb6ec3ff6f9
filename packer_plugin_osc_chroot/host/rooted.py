"""Paths inside a root directory, resolved as the kernel would for a process chrooted there.

Each component is opened relative to the directory before it, without following, and a symlink's
text is interpreted here: an absolute one starts again at the root, and `..` goes back along the
directories that were passed, never above the root. Nothing depends on a path that another process
could change meanwhile. The links of /proc that lead to a process's own root or open files count by
their text, so they lead nowhere else either.
"""

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

# The kernel's own limit (path_resolution(7)).
MAX_LINKS = 40
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a path leads: a name in an open directory, and what is there (None: nothing).

    `real` is the path inside the root with no symlink left in it, `directory` an open descriptor
    that its finder closes. The root itself has the name ".".
    """

    directory: int
    name: str
    real: str
    stat: os.stat_result | None

    @property
    def is_dir(self) -> bool:
        return self.stat is not None and stat.S_ISDIR(self.stat.st_mode)

    def open_dir(self) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(self.name, flags, dir_fd=self.directory)
        except OSError as error:
            raise _named(error.errno, self.real) from None


class Rooted:
    """An open root directory. It keeps the filesystem busy until it is closed."""

    def __init__(self, root: str) -> None:
        self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def find(self, path: str, *, follow: bool = True) -> Iterator[Spot]:
        """Resolve a path. Its last component need not exist; `follow` is about a symlink there.

        Raises OSError with the part of the path that is in the way as its filename.
        """
        if "\0" in path:
            raise _named(errno.EINVAL, path.replace("\0", "\\0"))
        if not path:
            raise _named(errno.ENOENT, path)
        opened: list[int] = []
        try:
            yield self._walk(path, follow=follow, opened=opened)
        finally:
            for fd in opened:
                os.close(fd)

    def _walk(self, path: str, *, follow: bool, opened: list[int]) -> Spot:
        """`opened` gets every descriptor that is open at the end, whatever the end is."""
        passed: list[tuple[int, str]] = []
        todo = deque(_parts(path))
        must_be_dir = path.endswith(("/", "/."))
        links = 0

        def here() -> int:
            return passed[-1][0] if passed else self._fd

        def real(name: str = "") -> str:
            return "/" + "/".join([*(each for _, each in passed), *([name] if name else [])])

        def leave() -> None:
            fd, _ = passed.pop()
            opened.remove(fd)
            os.close(fd)

        while todo:
            name = todo.popleft()
            if name == "..":
                if passed:
                    leave()
                continue
            try:
                fd = os.open(name, _LOOK, dir_fd=here())
            except FileNotFoundError:
                if todo:
                    raise _named(errno.ENOENT, real(name)) from None
                return Spot(here(), name, real(name), None)
            except OSError as error:
                raise _named(error.errno, real(name)) from None
            found = os.fstat(fd)
            if stat.S_ISDIR(found.st_mode):
                passed.append((fd, name))
                opened.append(fd)
                continue
            try:
                if not stat.S_ISLNK(found.st_mode) or not (todo or follow or must_be_dir):
                    if todo or must_be_dir:
                        raise _named(errno.ENOTDIR, real(name))
                    return Spot(here(), name, real(name), found)
                links += 1
                target = os.readlink("", dir_fd=fd)
            finally:
                os.close(fd)
            if links > MAX_LINKS:
                raise _named(errno.ELOOP, path)
            if target.startswith("/"):
                while passed:
                    leave()
            if not todo and target.endswith(("/", "/.")):
                must_be_dir = True
            todo.extendleft(reversed(_parts(target)))
        if not passed:
            return Spot(self._fd, ".", "/", os.fstat(self._fd))
        fd, name = passed[-1]
        parent = passed[-2][0] if len(passed) > 1 else self._fd
        return Spot(parent, name, real(), os.fstat(fd))


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _named(number: int | None, path: str) -> OSError:
    return OSError(number or errno.EIO, os.strerror(number or errno.EIO), path)
