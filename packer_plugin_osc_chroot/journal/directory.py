"""Where journals are kept: a directory that nobody but this user may write to.

Root's is below /var/lib, another user's (with `command_wrapper`) in their own state directory. It is
opened once and then used through its descriptor, so that nothing can be put in its place meanwhile.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from packer_plugin_osc_chroot.errors import BuildError

STATE_VARIABLE = "OSC_CHROOT_STATE_DIR"
_NAME = "packer-plugin-osc-chroot"
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def state_directory(environ: Mapping[str, str]) -> Path:
    """This user's directory of journals, which need not exist."""
    if given := environ.get(STATE_VARIABLE):
        return Path(given)
    if os.geteuid() == 0:
        # Never in HOME: under `sudo -E` that is another user's.
        return Path("/var/lib") / _NAME
    base = environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".local/state")
    return Path(base) / _NAME


def open_directory(path: Path, *, make: bool) -> int:
    """A descriptor of the directory; made where it is missing, if `make`.

    Raises BuildError where somebody else could have written what is in it, OSError where it cannot be
    had.
    """
    if make:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            pass
    directory = os.open(path, _FLAGS)
    try:
        found = os.fstat(directory)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
            raise BuildError(
                f"the directory of journals, {path}, belongs to user {found.st_uid} with mode"
                f" {stat.S_IMODE(found.st_mode):o}, expected user {os.geteuid()} and mode 700",
                hint="Others could have builds undo what they did not make: remove it, or set"
                f" {STATE_VARIABLE} to another",
            )
    except BaseException:
        os.close(directory)
        raise
    return directory
