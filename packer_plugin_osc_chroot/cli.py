"""The command line of the Python side. Users come here through the plugin binary.

Nothing is imported before it is known to be needed: the service and the helper for files start in
every build.
"""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch a subcommand. Returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # These two are started by the plugin, not by users.
    match argv:
        case ["agent", *arguments]:
            from packer_plugin_osc_chroot.host import agent

            return agent.main(arguments)
        case ["serve", "--socket", socket]:
            # gRPC logs what is no concern of users, such as a peer that went away.
            os.environ.setdefault("GRPC_VERBOSITY", "NONE")
            from pathlib import Path

            from packer_plugin_osc_chroot.service.server import serve

            serve(Path(socket))
    # Until a command makes something there is nothing to undo, and a traceback helps nobody.
    signal.signal(signal.SIGINT, _end_quietly)
    from packer_plugin_osc_chroot import commands

    return commands.follow(argv)


def _end_quietly(number: int, frame: FrameType | None) -> None:
    # Not an exception: one that comes within an import can be lost, or be printed on its way.
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
