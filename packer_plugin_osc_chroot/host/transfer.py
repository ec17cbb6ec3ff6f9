"""Uploads and downloads of provisioners, with the rules that users of Packer know from `cp`.

Paths named `remote` are resolved inside the root. The host's side is read and written with the
caller's own rights, never through the wrapper. New files belong to root inside the image and get
the source's modes; existing ones keep what they are and get the new content. A transfer that fails
leaves no file half written: the one it was at is as it was before, or not there.
"""

import errno
import os
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.host.agent_client import AgentFiles
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.rootfs import Files, LocalFiles
from packer_plugin_osc_chroot.host.trees import Entry, TreeWriter, read_tree

DEFAULT_MODE = 0o644


class RootFs:
    """The files of a mounted root. It keeps the mount busy from its first use until it is closed.

    `on_warning` hears of what could not be copied without being a failure.
    """

    def __init__(self, files: Files, *, on_warning: Callable[[str], None]) -> None:
        self.files = files
        self._on_warning = on_warning

    def upload(
        self, remote: str, chunks: Iterable[bytes], *, mode: int, token: CancelToken
    ) -> None:
        """Write one file. `mode` 0 stands for unknown. Raises BuildError, Cancelled."""
        with _told(f"upload to {remote!r}"):
            if remote.endswith("/"):
                raise _is_folder(remote)
            try:
                self.files.write_file(
                    remote, chunks, mode=mode & 0o777 or DEFAULT_MODE, check=token.check
                )
            except IsADirectoryError:
                raise _is_folder(remote) from None

    def download(self, remote: str, *, token: CancelToken) -> Generator[bytes, None, None]:
        """Read one file. Close the iterator when you stop before its end."""
        with _told(f"download of {remote!r}"):
            try:
                yield from self.files.read_file(remote, check=token.check)
            except IsADirectoryError as error:
                raise BuildError(
                    f"cannot download {remote!r} as a file: {error.filename} is a folder",
                    hint="With a slash at its end the folder is downloaded.",
                ) from None

    def upload_dir(
        self,
        local: str,
        remote: str,
        *,
        contents_only: bool,
        exclude: Collection[str] = (),
        token: CancelToken,
    ) -> None:
        """Copy a folder of the host into the folder `remote`, which is made where it is missing.

        `contents_only` leaves out the folder itself, as rsync does for a source that ends in `/`.
        """
        with _told(f"upload of {local!r} to {remote!r}"), _folder(local) as top:
            prefix = "" if contents_only else _name_of(local)
            with closing(read_tree(top, prefix=prefix, exclude=exclude)) as stream:
                skipped = self.files.write_tree(remote, stream, check=token.check)
        for entry in skipped:
            self._warn(entry, local)

    def download_dir(
        self,
        remote: str,
        local: str,
        *,
        contents_only: bool,
        exclude: Collection[str] = (),
        token: CancelToken,
    ) -> None:
        """Copy a folder of the root into the host's folder `local`, made where it is missing.

        Symlinks arrive as they are in the image; set-id bits do not. Nothing is written through a
        symlink, so a tree from the image cannot lead elsewhere on the host.
        """
        prefix = "" if contents_only else _name_of(remote)
        with (
            _told(f"download of {remote!r} to {local!r}"),
            closing(
                self.files.read_tree(remote, prefix=prefix, exclude=exclude, check=token.check)
            ) as stream,
        ):
            # The source is looked at before anything is made for it.
            first = next(stream, None)
            with _folder(local, make=True) as top:
                writer = TreeWriter(
                    top, real=local, mode_mask=0o777, on_skipped=lambda e: self._warn(e, remote)
                )
                writer.write(_chained(first, stream))

    def _warn(self, entry: Entry, where: str) -> None:
        self._on_warning(f"{os.path.join(where, entry.path)} was not copied: {entry.target}")


def _chained(first: Entry | bytes | None, rest: Iterator[Entry | bytes]) -> Iterator[Entry | bytes]:
    if first is not None:
        yield first
        yield from rest


@contextmanager
def _folder(path: str, *, make: bool = False) -> Iterator[int]:
    """A folder of the host, as an open descriptor. Raises OSError."""
    if "\0" in path:
        raise OSError(errno.EINVAL, "no path holds a NUL byte", path.replace("\0", "\\0"))
    if make:
        os.makedirs(path, exist_ok=True)
    top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield top
    finally:
        os.close(top)


def _name_of(path: str) -> str:
    name = os.path.basename(os.path.normpath(path))
    return "" if name in ("", ".", "..") else name


@contextmanager
def open_rootfs(
    host: Host, root: Path, *, on_warning: Callable[[str], None] = lambda text: None
) -> Iterator[RootFs]:
    """The files below `root`: directly, or with a wrapper through the agent."""
    files: Files = LocalFiles(str(root)) if host.wrap is None else AgentFiles(host, str(root))
    try:
        yield RootFs(files, on_warning=on_warning)
    finally:
        files.close()


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Say in the user's words why a transfer failed."""
    try:
        yield
    except OSError as error:
        raise failure(what, error) from error


def failure(what: str, error: OSError) -> BuildError:
    where = error.filename if isinstance(error.filename, str) else ""
    hint = ""
    if error.strerror not in (None, os.strerror(error.errno or 0)):
        # Our own words are better than any made from the number.
        reason = f"{where}: {error.strerror}" if where else str(error.strerror)
    elif error.errno == errno.ENOENT:
        reason = f"{where or 'a folder'} does not exist"
        hint = "Make it first, with a shell provisioner." if what.startswith("upload") else ""
    elif error.errno == errno.ENOTDIR:
        reason = f"{where} is not a folder"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = f"no space left for {where or 'it'}"
        hint = "A larger root_volume_size gives more." if what.startswith("upload") else ""
    elif error.errno == errno.EROFS:
        reason = f"{where or 'it'} is on a read-only filesystem"
    elif error.errno == errno.ELOOP:
        reason = f"too many symlinks at {where}"
    else:
        reason = f"{where}: {error.strerror}" if where else str(error.strerror)
    return BuildError(f"{what} failed: {reason}", hint=hint)


def _is_folder(remote: str) -> BuildError:
    return BuildError(
        f"cannot upload a file to {remote!r}: that is a folder",
        hint="Name the file in the destination.",
    )
