"""Runs the system's tools (partx, umount, mkfs) with an environment of their own.

The process's own environment is not theirs: a frozen bundle's names its private libraries.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

SEARCH_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def run_tool(command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    """Run `command` to its end; the caller judges its status. Output is kept."""
    return subprocess.run(
        [os.fspath(part) for part in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env={"PATH": SEARCH_PATH, "LANG": "C.UTF-8"},
        # Ctrl-C goes to the terminal's whole group: it is not to end what tidies up.
        process_group=0,
        check=False,
    )
