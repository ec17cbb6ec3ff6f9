"""A build in a process of its own, to be killed: `chaos_child.py POINT WHEN OMI_NAME`.

It prints the point at which it was killed, or how the build ended and how many points there were.
"""

import os
import sys
from typing import cast

from chaos_points import Points, When, kill
from in_process import OPTIONS, build_on

from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.options.config import Config


def main(at: str, when: str, omi_name: str) -> None:
    more = os.environ.get("CHAOS_COMMAND", "true")
    commands = (*OPTIONS.pre_mount_commands, more)
    config = Config(**{**vars(OPTIONS), "omi_name": omi_name, "pre_mount_commands": commands})
    with Points(int(at) if at.isdigit() else at, cast(When, when), kill).installed() as points:
        try:
            build_on(dict(os.environ), config=config)
            print("made", len(points.names))
        except BuildError as error:
            print("failed", error)


if __name__ == "__main__":
    main(*sys.argv[1:])
