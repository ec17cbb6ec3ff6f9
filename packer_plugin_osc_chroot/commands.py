"""What users can call: the one list of it, and the program's help.

The plugin binary prints the help by itself, from the generated components file (`make generate`); the
completion scripts are made from the commands' parsers when they are asked for (completion.py).
"""

import argparse
import importlib
import itertools
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from packer_plugin_osc_chroot.version import OWNER, VERSION

PROGRAM = "packer-plugin-osc-chroot"
SOURCE = f"github.com/{OWNER}/osc-chroot"
# Help is the same in all terminals: the program's is made once.
HELP_WIDTH = 100


class HelpFormatter(argparse.HelpFormatter):
    """The style of all help: paragraphs are filled, lines that begin with a space stay as they are."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=HELP_WIDTH)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        # As argparse's own formatters have it: there is no public way to say this.
        lines: list[str] = []
        for is_prose, group in itertools.groupby(
            text.splitlines(), lambda line: line[:1].strip() != ""
        ):
            found = list(group)
            if is_prose:
                found = textwrap.wrap(" ".join(found), width, break_on_hyphens=False)
            lines += found
        return "\n".join(indent + line for line in lines)


def exit_status(*, done: str = "done", failed: str = "it failed; stderr says why") -> str:
    """The end of a command's help."""
    return f"""\
exit status:
  0  {done}
  1  {failed}
  2  the command line is wrong; nothing was done
"""


@dataclass(frozen=True)
class Command:
    """A subcommand for users. Its module has `parser()`, an argparse parser with that command line, and
    `main(argv)`, which returns the exit status; it is imported only when it is needed."""

    name: str
    summary: str
    module: str


COMMANDS = (
    Command(
        "localcloud",
        "rehearse templates on a simulated OUTSCALE Region",
        "packer_plugin_osc_chroot.localcloud.command",
    ),
    Command(
        "doctor",
        "say what would stop a build on this machine",
        "packer_plugin_osc_chroot.doctor.command",
    ),
    Command(
        "reclaim",
        "undo what builds left that were killed, or kept by -on-error=abort",
        "packer_plugin_osc_chroot.reclaim.command",
    ),
    Command(
        "completion",
        "print what bash, zsh or fish needs to complete command lines",
        "packer_plugin_osc_chroot.completion",
    ),
)

_INSTALL = "packer plugins install " + (
    # Packer installs development versions from files only.
    f"--path {PROGRAM} {SOURCE}" if "-" in VERSION else SOURCE
)
_DESCRIPTION = f"""\
Builds OUTSCALE machine images in a chroot, without starting a VM. Version {VERSION}.

Packer starts this plugin by itself. Install it with

  {_INSTALL}

and use it in a template as the builder (or source) "osc-chroot". It also has the data sources
"osc-chroot-omi" and "osc-chroot-identity".
"""
_EPILOG = """\
commands:
{commands}

{prog} COMMAND --help tells more of one.

exit status:
  0      done
  1      it failed; stderr says why
  2      the command line is wrong; nothing was done
  128+N  signal N ended it (130: Ctrl-C)
Commands that run another one (localcloud run) end with its status.
"""


def parser() -> argparse.ArgumentParser:
    """The whole program's parser, without the commands' own arguments."""
    listed = "\n".join(f"  {command.name:<11} {command.summary}" for command in COMMANDS)
    made = argparse.ArgumentParser(
        prog=PROGRAM,
        usage="%(prog)s COMMAND ...",
        description=_DESCRIPTION,
        epilog=_EPILOG.format(prog=PROGRAM, commands=listed),
        formatter_class=HelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    # Listed above: argparse would put each summary on a line of its own.
    subparsers = made.add_subparsers(
        dest="command", required=True, metavar="COMMAND", help=argparse.SUPPRESS
    )
    for command in COMMANDS:
        subparsers.add_parser(command.name)
    return made


def follow(argv: Sequence[str]) -> int:
    """Run a command of the list. Returns the exit status; a wrong command line ends the process."""
    for command in COMMANDS:
        if argv[:1] == [command.name]:
            status: int = importlib.import_module(command.module).main(list(argv[1:]))
            return status
    parser().parse_args(argv)
    raise AssertionError("argparse ends the process where there is no command")
