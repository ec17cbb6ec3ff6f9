"""A small guest for tests: busybox on an ext4 filesystem on a loop device."""

import os
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packer_plugin_osc_chroot.host.mountinfo import mounts_below


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def fill_guest(root: Path) -> None:
    """A tree that `chroot` can run a shell in."""
    busybox = shutil.which("busybox")
    assert busybox, "these tests need Debian's package busybox-static"
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "root", "usr/bin", "var"):
        (root / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(busybox, root / "bin/busybox")
    run(busybox, "chroot", str(root), "/bin/busybox", "--install", "-s", "/bin")
    # The shell opens it for everything it starts in the background.
    os.mknod(root / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))


@contextmanager
def loop_device(directory: Path, *, size_mib: int = 64, guest: bool = True) -> Iterator[str]:
    """An ext4 filesystem on a loop device, with a guest in it."""
    image = directory / "disk.img"
    with open(image, "wb") as file:
        file.truncate(size_mib << 20)
    if guest:
        tree = directory / "tree"
        tree.mkdir()
        fill_guest(tree)
        run("mkfs.ext4", "-q", "-d", str(tree), str(image))
    else:
        run("mkfs.ext4", "-q", str(image))
    device = run("losetup", "--find", "--show", str(image))
    try:
        yield device
    finally:
        run("losetup", "-d", device)


@contextmanager
def no_mount_left(path: Path) -> Iterator[None]:
    """Fails where something below stays mounted, and takes it away."""
    yield
    left = [mount.mount_point for mount in mounts_below(os.path.realpath(path))]
    for each in reversed(left):
        subprocess.run(["umount", "-l", each], check=False)
    assert not left


@contextmanager
def frozen_disk(directory: Path, *, frozen: bool = True) -> Iterator[tuple[str, Path]]:
    """A disk that takes no writes while its file's filesystem, the second, is frozen."""
    outer, below, inner = directory / "outer", directory / "below", directory / "below/inner"
    outer.mkdir()
    below.mkdir()
    inner_device = ""
    with loop_device(outer, guest=False) as name:
        run("mount", "-o", "noatime", name, str(below))
        try:
            inner.mkdir()
            image = inner / "disk.img"
            run("truncate", "-s", "16M", str(image))
            run("mkfs.ext4", "-q", str(image))
            inner_device = run("losetup", "--find", "--show", str(image))
            if frozen:
                freeze(below)
            try:
                yield inner_device, below
            finally:
                subprocess.run(["fsfreeze", "-u", str(below)], check=False, capture_output=True)
        finally:
            if inner_device:
                run("losetup", "-d", inner_device)
            deadline = time.monotonic() + 5
            while subprocess.run(["umount", str(below)], check=False).returncode:
                assert time.monotonic() < deadline
                time.sleep(0.1)


def freeze(path: Path) -> None:
    run("fsfreeze", "-f", str(path))


def thaw(path: Path) -> None:
    run("fsfreeze", "-u", str(path))
