"""copy_files by itself: a source on the host, a root that is a plain folder, and what it holds."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.copy_files import copied_files
from packer_plugin_osc_chroot.host.transfer import RootFs
from packer_plugin_osc_chroot.ui import RecordingUi


def made_source(tmp_path: Path) -> Path:
    """A file of the host, at a path whose folder the image may have too."""
    path = tmp_path / "host/etc/resolv.conf"
    path.parent.mkdir(parents=True)
    path.write_text("nameserver 192.0.2.1\n")
    path.chmod(0o640)
    os.chown(path, 5, 6)
    return path


@contextmanager
def copied(rootfs: RootFs, *sources: str | Path, ui: RecordingUi | None = None) -> Iterator[None]:
    """Where the root is a plain folder, which has no mounts that a build would unmount."""
    names = [str(source) for source in sources]
    root = Path("/no/such/root")
    with copied_files(
        rootfs, names, host=Host(), root=root, ui=ui or RecordingUi(), token=CancelToken()
    ):
        yield


def inside(tmp_path: Path, path: Path) -> Path:
    return tmp_path / "root" / str(path).lstrip("/")


def state(root: Path) -> dict[str, object]:
    """Everything about a tree that putting back must not change."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        at = path.lstat()
        content = os.readlink(path) if path.is_symlink() else b""
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
        times = (at.st_mtime_ns, at.st_ino) if not path.is_dir() else ()
        found[str(path)] = (at.st_mode, at.st_uid, at.st_gid, at.st_nlink, times, content)
    return found
