"""copy_files: files of the host that are in the root while provisioners run, and only then.

Afterwards the image has what it had at each path: a file with all its metadata, a symlink (a
dangling one too) or nothing. That holds as well where a provisioner wrote to the copy or replaced
it, which is said, or mounted something over it. While the copies are there, an original waits
beside its copy under a hidden name. A folder is merged into what the image has: each file in it is
such a copy, and what provisioners add beside them stays.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, UndoError
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.mountinfo import Mount, is_below, mounts_below
from packer_plugin_osc_chroot.host.transfer import RootFs, failure
from packer_plugin_osc_chroot.host.trees import SKIPPED
from packer_plugin_osc_chroot.host.unmounting import umount_all
from packer_plugin_osc_chroot.ui import Ui
from packer_plugin_osc_chroot.undoing import undoing

UNDO_SECONDS = 30.0


@contextmanager
def copied_files(
    rootfs: RootFs,
    files: Sequence[str],
    *,
    host: Host,
    root: Path,
    ui: Ui,
    token: CancelToken,
) -> Iterator[None]:
    """Raises BuildError naming the file where one cannot be copied; UndoError at the end.

    Mounts that provisioners made on, below or above a copy are unmounted before the image's own file
    is put back.
    """
    placed: list[dict[str, Any]] = []
    before = frozenset(mounts_below(str(root)))
    with undoing(
        lambda: _put_back(host, root, rootfs, placed, before=before, ui=ui, hurry=token.cancelled)
    ):
        for path in files:
            try:
                for kind, each in rootfs.files.call(
                    "list_source", {"path": path}, check=token.check
                ):
                    if kind == SKIPPED:
                        ui.message(f"copy_files: {each} is no file, folder or link: not copied")
                        continue
                    arguments = {"path": each, "kind": kind}
                    placed.append(rootfs.files.call("place", arguments, check=token.check))
            except OSError as error:
                raise failure(f"copy_files: copying {path}", error) from error
        yield


def _undo() -> CancelToken:
    """For each of the two parts one: the first may have used up its time."""
    return CancelToken(deadline=UNDO_SECONDS, reason="putting back copy_files took too long")


def _covering(
    root: str, placed: Sequence[dict[str, Any]], *, before: Collection[Mount]
) -> list[Mount]:
    """The mounts that were made meanwhile on, below or above a copy, in mounting order.

    With them those below one above a copy, which would keep it busy.
    """
    copies = [root + record["real"] for record in placed if record["real"]]
    new = [mount for mount in mounts_below(root) if mount not in before]
    points = [mount.mount_point for mount in new]
    tops = [point for point in points if any(is_below(copy, point) for copy in copies)]
    return [mount for mount in new if any(is_below(mount.mount_point, x) for x in (*copies, *tops))]


def _put_back(
    host: Host,
    root: Path,
    rootfs: RootFs,
    placed: Sequence[dict[str, Any]],
    *,
    before: Collection[Mount],
    ui: Ui,
    hurry: bool,
) -> None:
    """Raises one UndoError with all that went wrong."""
    failed: list[str] = []
    try:
        covering = _covering(str(root), placed, before=before)
        umount_all(host, str(root), covering, ui=ui, token=_undo(), hurry=hurry)
    except UndoError as error:
        failed += error.left
    undo = _undo()
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
