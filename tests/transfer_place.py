"""An image's root and a folder beside it, between which files are transferred both ways."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.transfer import RootFs, open_rootfs

# Directly, and through the agent with the environment that sudo leaves.
HOSTS = {
    "direct": Host(),
    "agent": Host(wrap=lambda command: f"cd / && env -i PATH=$PATH {command}"),
}


class Place:
    """The image is `root`; what a path in it may not lead to is `outside`."""

    def __init__(self, top: Path, files: RootFs, warnings: list[str]) -> None:
        self.top = top
        self.root = top / "root"
        self.outside = top / "outside"
        self.files = files
        self.warnings = warnings

    def upload(self, remote: str, data: bytes, *, mode: int = 0) -> None:
        chunks = (data[start : start + 100_000] for start in range(0, len(data), 100_000))
        self.files.upload(remote, chunks, mode=mode, token=CancelToken())

    def download(self, remote: str) -> bytes:
        return b"".join(self.files.download(remote, token=CancelToken()))

    def upload_dir(
        self, remote: str, *, contents_only: bool, exclude: list[str] | None = None
    ) -> None:
        self.files.upload_dir(
            str(self.top / "local"),
            remote,
            contents_only=contents_only,
            exclude=exclude or [],
            token=CancelToken(),
        )

    def download_dir(self, remote: str, name: str, *, contents_only: bool = True) -> Path:
        local = self.top / name
        self.files.download_dir(
            remote, str(local), contents_only=contents_only, token=CancelToken()
        )
        return local


@contextmanager
def made_place(host: Host, top: Path) -> Iterator[Place]:
    for name in ("root/etc", "root/tmp", "root/proc", "outside"):
        (top / name).mkdir(parents=True)
    (top / "outside/secret").write_text("secret")
    warnings: list[str] = []
    with open_rootfs(host, top / "root", on_warning=warnings.append) as files:
        yield Place(top, files, warnings)


def make_local(top: Path) -> Path:
    local = top / "local"
    (local / "sub/deep").mkdir(parents=True)
    (local / "empty").mkdir()
    (local / "sub/file").write_text("one")
    (local / "sub/deep/script").write_text("#!/bin/sh")
    (local / "sub/deep/script").chmod(0o755)
    (local / "empty").chmod(0o750)
    (local / "link").symlink_to("sub/file")
    (local / "far").symlink_to("/etc/passwd")
    (local / "zero").touch()
    os.mkfifo(local / "fifo")
    (local / os.fsdecode(b"n\xffme \xc3\xa9")).write_text("odd")
    (local / "sub/deep").chmod(0o555)
    return local
