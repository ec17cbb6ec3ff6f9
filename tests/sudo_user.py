"""A normal user of the machine, made for a test, who may run everything through sudo."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SudoUser:
    """`home` is a folder that this user owns and everybody reaches, unlike pytest's own."""

    name: str
    home: Path

    @property
    def argv(self) -> tuple[str, ...]:
        """What to put before a command for it to run as this user."""
        return ("setpriv", "--reuid", self.name, "--regid", self.name, "--init-groups")


@contextmanager
def made_sudo_user() -> Iterator[SudoUser]:
    """Tests of several processes do not get in each other's way: the name has ours in it."""
    name = f"osc-chroot-{os.getpid()}"
    sudoers = Path("/etc/sudoers.d") / name
    home = Path(tempfile.mkdtemp(prefix="osc-sudo-", dir="/var/tmp"))
    try:
        home.chmod(0o755)
        subprocess.run(
            ["useradd", "--no-create-home", "--home-dir", home, "--shell", "/bin/sh", name],
            check=True,
        )
        shutil.chown(home, name)
        sudoers.write_text(f"{name} ALL=(root) NOPASSWD: ALL\n")
        sudoers.chmod(0o440)
        yield SudoUser(name, home)
    finally:
        sudoers.unlink(missing_ok=True)
        subprocess.run(["userdel", name], check=False, capture_output=True)
        shutil.rmtree(home)
