"""Guests for templates that install packages: a small one that only notes it, and a real Debian."""

import shlex
import shutil
import subprocess
from pathlib import Path

from guest_image import make_guest_tree

ROOT = Path(__file__).resolve().parent.parent
# Where the small one notes what it was to install.
INSTALLED = "/var/lib/installed"
_APT_GET = f"""#!/bin/sh
[ "$1" = install ] && echo "$@" >>{INSTALLED}
exit 0
"""


def make_apt_tree(tree: Path) -> None:
    """A bare root whose apt-get succeeds at once."""
    make_guest_tree(tree)
    apt_get = tree / "usr" / "bin" / "apt-get"
    apt_get.write_text(_APT_GET)
    apt_get.chmod(0o755)


def made(path: str) -> Path:
    """What `make` puts below build/ for the tests."""
    found = ROOT / "build" / path
    assert found.exists(), f"{found} is missing: `make test-python` makes it"
    return found


def apt_proxy() -> str:
    """The HTTP proxy of this machine's apt, if it has one."""
    if shutil.which("apt-config") is None:
        return ""
    command = ["apt-config", "shell", "proxy", "Acquire::http::Proxy"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return "".join(shlex.split(answer)).removeprefix("proxy=")
