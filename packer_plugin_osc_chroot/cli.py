"""The command line of the Python side. Users come here through the plugin binary."""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from packer_plugin_osc_chroot.version import VERSION

PROGRAM = "packer-plugin-osc-chroot"


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch a subcommand; what it needs is imported only then. Returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # These read their own arguments.
    match argv[:1]:
        case ["localcloud"]:
            # Until the Region exists there is nothing to undo, and a traceback helps nobody.
            signal.signal(signal.SIGINT, _end_quietly)
            from packer_plugin_osc_chroot.localcloud import command

            return command.main(argv[1:])
        case ["agent"]:
            from packer_plugin_osc_chroot.host import agent

            return agent.main(argv[1:])
        case ["doctor"]:
            signal.signal(signal.SIGINT, _end_quietly)
            from packer_plugin_osc_chroot.doctor import command as doctor

            return doctor.main(argv[1:])
        case ["reclaim"]:
            from packer_plugin_osc_chroot.reclaim import command as reclaim

            return reclaim.main(argv[1:])
    import argparse
    from pathlib import Path

    parser = argparse.ArgumentParser(prog=PROGRAM, description="The osc-chroot builder's service.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve Packer's plugin (started by the plugin)")
    serve.add_argument("--socket", type=Path, required=True, help="where to listen")
    commands.add_parser("doctor", help="say what would stop a build on this machine")
    commands.add_parser("reclaim", help="undo what builds left that were killed")
    commands.add_parser("localcloud", help="rehearse a template on a simulated Region")
    arguments = parser.parse_args(argv)
    # gRPC logs what is no concern of users, such as a peer that went away.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from packer_plugin_osc_chroot.service.server import serve as run

    run(arguments.socket)


def _end_quietly(number: int, frame: FrameType | None) -> None:
    # Not an exception: one that comes within an import can be lost, or be printed on its way.
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
