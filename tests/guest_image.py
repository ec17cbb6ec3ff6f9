"""A small disk image to build from: one partition, ext4, busybox."""

import shutil
import subprocess
from pathlib import Path

RESOLV_CONF = "# The image's own.\nnameserver 192.0.2.53\n"
_PARTITION_START = 1 << 20
_SIZE = 64 << 20


def make_guest_tree(tree: Path) -> None:
    """Make the directory `tree`: a bare root that `chroot` runs a shell in."""
    busybox = shutil.which("busybox")
    assert busybox, "these tests need Debian's package busybox-static"
    for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr/bin", "var/lib"):
        (tree / name).mkdir(parents=True)
    (tree / "tmp").chmod(0o1777)
    shutil.copy(busybox, tree / "bin" / "busybox")
    applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True)
    for applet in applets.stdout.split():
        if applet != "busybox":
            (tree / "bin" / applet).symlink_to("busybox")
    (tree / "etc" / "resolv.conf").write_text(RESOLV_CONF)
    (tree / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tree / "etc" / "group").write_text("root:x:0:\n")


def make_guest_image(directory: Path, *, size: int = _SIZE) -> Path:
    """Make `guest.raw` in an empty directory: such a root in its only partition.

    `size` is the disk's, in bytes.
    """
    tree = directory / "tree"
    make_guest_tree(tree)
    image = directory / "guest.raw"
    with open(image, "wb") as file:
        file.truncate(size)
    subprocess.run(
        ["sfdisk", "--quiet", str(image)], check=True, input=b"start=1MiB, type=83, bootable\n"
    )
    blocks = f"{(size - _PARTITION_START) >> 10}k"
    subprocess.run(
        ["mkfs.ext4", "-q", "-F", "-L", "root", "-d", str(tree)]
        + ["-E", f"offset={_PARTITION_START}", str(image), blocks],
        check=True,
    )
    shutil.rmtree(tree)
    return image


def check_filesystem(image: Path) -> None:
    """Fail unless the first partition is clean, and as the kernel would leave it."""
    done = subprocess.run(
        ["e2fsck", "-f", "-n", f"{image}?offset={_PARTITION_START}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def read_file(image: Path, path: str) -> str:
    """The content of a file of the first partition, read without mounting it."""
    return _debugfs(image, f"cat {path}")


def exists(image: Path, path: str) -> bool:
    """Whether the first partition has that path, read without mounting it."""
    return "File not found" not in _debugfs(image, f"stat {path}")


def _debugfs(image: Path, request: str) -> str:
    # Not -c (catastrophic mode): a filesystem that was not cleanly unmounted is to show.
    answer = subprocess.run(
        ["debugfs", "-R", request, f"{image}?offset={_PARTITION_START}"],
        check=True,
        capture_output=True,
        text=True,
    )
    errors = "\n".join(answer.stderr.splitlines()[1:])  # The first line is its version.
    return answer.stdout + errors
