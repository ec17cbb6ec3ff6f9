"""The localcloud's command line, run as a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_MODULE = "packer_plugin_osc_chroot.localcloud.command"


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", _MODULE, *(os.fspath(argument) for argument in arguments)]


def localcloud(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run it to its end."""
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=60)
