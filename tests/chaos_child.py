"""A build in a process of its own, to be killed: `chaos_child.py POINT WHEN OMI_NAME`.

CHAOS_OPTIONS, in JSON, are more options, and `on_error`. It prints the point at which it was killed, or
how the build ended, with the number of points or what was said.
"""

import dataclasses
import json
import os
import sys
from typing import cast

from chaos_points import Points, When, kill
from in_process import OPTIONS, build_on

from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.ui import RecordingUi


def main(at: str, when: str, omi_name: str) -> None:
    given = json.loads(os.environ.get("CHAOS_OPTIONS", "{}"))
    packer = dataclasses.replace(OPTIONS.packer, on_error=given.pop("on_error", ""))
    options = {key: tuple(x) if isinstance(x, list) else x for key, x in given.items()}
    config = Config(**{**vars(OPTIONS), **options, "packer": packer, "omi_name": omi_name})
    ui = RecordingUi()
    with Points(int(at) if at.isdigit() else at, cast(When, when), kill).installed() as points:
        try:
            build_on(dict(os.environ), config=config, ui=ui)
            print("made", len(points.names))
        except BuildError as error:
            print("failed", error)
            print(ui.text)


if __name__ == "__main__":
    main(*sys.argv[1:])
    # As the service ends: what an abort keeps is not undone by finalisers.
    sys.stdout.flush()
    os._exit(0)
