"""What `localcloud` says to its user."""

import sys
from contextlib import suppress

PROGRAM = "packer-plugin-osc-chroot localcloud"


def say(text: str) -> None:
    """To stderr: stdout is COMMAND's, or a shell's that reads it.

    A terminal that hung up must not change how this ends.
    """
    with suppress(OSError):
        print(f"localcloud: {text}", file=sys.stderr, flush=True)
