"""What builds of this user left on this machine that are dead."""

import os
from collections.abc import Mapping
from pathlib import Path

from packer_plugin_osc_chroot.doctor.finding import Finding, failed, ok, warning
from packer_plugin_osc_chroot.doctor.machine import free_mib, unusable
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.journal.dead import dead_journals
from packer_plugin_osc_chroot.journal.directory import (
    STATE_VARIABLE,
    open_directory,
    state_directory,
)
from packer_plugin_osc_chroot.journal.journal import RECLAIM
from packer_plugin_osc_chroot.reclaim.next_build import title

_NAME = "journals"
_WITHOUT = (
    f"Mend that or set {STATE_VARIABLE}: builds go without, and nothing knows what one leaves that is"
    " killed"
)
# A journal has some kilobytes.
_NEEDED_MIB = 1


def check_journals(environ: Mapping[str, str]) -> Finding:
    """Whether builds can keep one, and what those say that are there."""
    directory = state_directory(environ)
    try:
        if problem := _no_room(directory):
            return warning(_NAME, problem, _WITHOUT)
        os.close(open_directory(directory, make=False))
        dead = [title(journal.story) for journal in dead_journals(directory)]
    except FileNotFoundError:
        return ok(_NAME, f"none in {directory}, which builds make")
    except BuildError as error:
        return failed(_NAME, error)
    except OSError as error:
        return warning(
            _NAME,
            f"{directory} cannot be read: {error.strerror}",
            _WITHOUT,
        )
    if dead:
        return warning(
            _NAME,
            f"{', '.join(dead)}: killed, or told to keep what it made",
            f"{RECLAIM} undoes it; the next build does where it was killed",
        )
    return ok(_NAME, f"none of dead builds in {directory}")


def _no_room(directory: Path) -> str:
    if reason := unusable(directory):
        return f"{directory}: {reason}"
    if free_mib(directory) < _NEEDED_MIB:
        return f"{directory} has no free space"
    return ""
