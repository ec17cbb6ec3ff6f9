"""copy_files: files of the host that are in the root while provisioners run, and only then.

Afterwards the image has what it had at each path: a file with all its metadata, a symlink (a
dangling one too) or nothing. That holds as well where a provisioner wrote to the copy or replaced
it, which is said. While the copies are there, an original waits beside its copy under a hidden name.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, UndoError
from packer_plugin_osc_chroot.host.transfer import RootFs, failure
from packer_plugin_osc_chroot.ui import Ui

UNDO_SECONDS = 30.0


@contextmanager
def copied_files(
    rootfs: RootFs, files: Sequence[str], *, ui: Ui, token: CancelToken
) -> Iterator[None]:
    """Raises BuildError naming the file where one cannot be copied; UndoError at the end."""
    placed: list[dict[str, Any]] = []
    try:
        for path in files:
            try:
                placed.append(rootfs.files.call("place", {"path": path}, check=token.check))
            except OSError as error:
                raise failure(f"copy_files: copying {path}", error) from error
        yield
    finally:
        _put_back(rootfs, placed, ui=ui)


def _put_back(rootfs: RootFs, placed: Sequence[dict[str, Any]], *, ui: Ui) -> None:
    undo = CancelToken(deadline=UNDO_SECONDS, reason="putting back copy_files took too long")
    failed = []
    for record in reversed(placed):
        path = record["path"]
        try:
            changed = rootfs.files.call("put_back", {"placed": record}, check=undo.check)
        except (OSError, BuildError) as error:
            failed.append(f"{path}: {error}")
            continue
        if changed:
            had = "its own file" if record["aside"] else "no file"
            ui.message(
                f"copy_files: {path} was changed during provisioning; the image has {had} there "
                "again (leave it out of copy_files to keep such a change)"
            )
    if failed:
        raise UndoError("copy_files could not put back what the image had", left=failed)
