"""The directories of services that were killed together with their shim, which else removes them."""

import logging
import os
import shutil
import socket
import stat
import tempfile
import time
from pathlib import Path

log = logging.getLogger(__name__)

# The shim's pattern and its two places (shim/internal/service).
_PATTERN = "packer-plugin-osc-chroot-*"
_SOCKET = "service.sock"
# How long a service may take until it listens.
_START_SECONDS = 120.0


def remove_dead_sockets() -> None:
    """Remove those of this user that nobody listens in any more. Raises nothing."""
    for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp")):
        for directory in Path(parent).glob(_PATTERN):
            try:
                if _is_dead(directory):
                    shutil.rmtree(directory)
            except OSError as error:
                log.info("%s: %s", directory, error)


def _is_dead(directory: Path) -> bool:
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        return False
    names = os.listdir(directory)
    if not names:
        return time.time() - found.st_mtime > _START_SECONDS
    if names != [_SOCKET]:
        # It is none of the shim's.
        return False
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(directory / _SOCKET))
        except ConnectionRefusedError:
            return True
    return False
