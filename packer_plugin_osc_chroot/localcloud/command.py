"""The command line: `packer-plugin-osc-chroot localcloud …`."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from packer_plugin_osc_chroot.commands import HelpFormatter, exit_status
from packer_plugin_osc_chroot.localcloud.command_look import add_clean, add_export, add_status
from packer_plugin_osc_chroot.localcloud.command_run import add_run
from packer_plugin_osc_chroot.localcloud.command_serve import add_serve
from packer_plugin_osc_chroot.localcloud.control import NotRunning
from packer_plugin_osc_chroot.localcloud.region_options import Stopped, UsageError
from packer_plugin_osc_chroot.localcloud.saved import StateError
from packer_plugin_osc_chroot.localcloud.sources import SourceError
from packer_plugin_osc_chroot.localcloud.tell import PROGRAM, say
from packer_plugin_osc_chroot.localcloud.toml_file import FileError

_DESCRIPTION = "A simulated OUTSCALE Region on this machine: no account, no cost."
_EPILOG = f"""\
{PROGRAM} ACTION --help tells the rest: start with run.

{exit_status()}run ends with the status of its command.
"""


def main(argv: list[str]) -> int:
    """Run the command line `argv` (less the program's name); the exit status."""
    options_argv, command = _split(argv)
    made = parser()
    options, unknown = made.parse_known_args(options_argv)
    if unknown and options.action == "run" and "--" not in argv:
        made.error(f"the command comes after --: run [options] -- {' '.join(unknown)}")
    if unknown:
        made.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        status: int = options.follow(options, command)
        return status
    except UsageError as error:
        print(f"{PROGRAM} {options.action}: {error}", file=sys.stderr)
        return 2
    except (FileError, NotRunning, SourceError, StateError) as error:
        say(str(error))
        return 1
    except Stopped as stopped:
        say("stopped before the Region was up")
        return 128 + stopped.number
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OSError as error:
        say(f"{_place_of(error, options)}: {error.strerror or error}")
        return 1


def _place_of(error: OSError, options: argparse.Namespace) -> str:
    """The file that it is about, and the option that it comes of."""
    if error.filename is None:
        return "this machine"
    state = getattr(options, "state", None)
    kept = state is not None and Path(error.filename).is_relative_to(os.path.realpath(state))
    return f"--state {state}: {error.filename}" if kept else str(error.filename)


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options before the first `--`, COMMAND after it."""
    if "--" not in argv:
        return list(argv), []
    at = list(argv).index("--")
    return list(argv[:at]), list(argv[at + 1 :])


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=PROGRAM, description=_DESCRIPTION, epilog=_EPILOG, formatter_class=HelpFormatter
    )
    actions = made.add_subparsers(metavar="ACTION", dest="action", required=True)
    for add in (add_run, add_serve, add_status, add_export, add_clean):
        add(actions)
    return made


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
