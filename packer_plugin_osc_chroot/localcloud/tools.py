"""Runs the system's tools (partx, umount, mkfs) with an environment of their own.

The process's own environment is not theirs: a frozen bundle's names its private libraries.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

# How often `check` is called, in seconds.
_CHECK_SECONDS = 0.1

SEARCH_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def go_on() -> None:
    """A `check` that never ends anything."""


def run_tool(
    command: Sequence[str | Path], *, check: Callable[[], None] = go_on
) -> subprocess.CompletedProcess[str]:
    """Run `command` to its end; the caller judges its status. Output is kept.

    What `check` raises, which is called now and then, ends it and what it started.
    """
    argv = [os.fspath(part) for part in command]
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={"PATH": SEARCH_PATH, "LANG": "C.UTF-8"},
        # Ctrl-C goes to the terminal's whole group: it is not to end what tidies up.
        process_group=0,
    ) as process:
        try:
            while True:
                try:
                    output, errors = process.communicate(timeout=_CHECK_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    check()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(argv, process.returncode, output, errors)
