"""`localcloud run`: a Region for one command, and what exists in it afterwards."""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from packer_plugin_osc_chroot.commands import HelpFormatter
from packer_plugin_osc_chroot.localcloud import examples
from packer_plugin_osc_chroot.localcloud.child import Child
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.critical_path import describe
from packer_plugin_osc_chroot.localcloud.images import TINY_IMAGE_ID
from packer_plugin_osc_chroot.localcloud.region_options import (
    UsageError,
    add_region_options,
    check_region_options,
    check_writable,
    make_cloud,
)
from packer_plugin_osc_chroot.localcloud.tell import PROGRAM, say

_DESCRIPTION = """\
Start a Region, run COMMAND against it, say what exists in it afterwards, and remove it.

COMMAND sees the Region through OSC_ACCESS_KEY, OSC_SECRET_KEY, OSC_REGION, OSC_ENDPOINT_API and
OSC_CHROOT_METADATA_URL; other OSC_… and OUTSCALE_… variables are taken out of its environment, so
that it cannot reach a real Region by mistake. This machine plays the VM: linked volumes appear here
as disks (see --disks), which needs root and loop devices. What killed builds leave is written down
in OSC_CHROOT_STATE_DIR, a directory of this Region, and is no matter of a real one.
"""
_EPILOG = f"""\
Without --source-omi there is one tiny OMI, {TINY_IMAGE_ID}, that holds no programs (if mkfs.ext4 is
installed).

Ctrl-C goes to COMMAND as usual; the Region stays up until COMMAND has ended. SIGTERM and SIGHUP are
passed on to COMMAND, SIGQUIT as SIGTERM; a second one kills it. Where what COMMAND left is still
being undone when it has ended, that is waited for: any of these signals ends the waiting. Processes
that COMMAND left in the Region's disks are ended.

example:
  {PROGRAM} run --source-omi ami-12345678=debian.raw --export new.raw \\
      -- packer build template.pkr.hcl

{examples.epilog()}
exit status: that of COMMAND (128+N: signal N ended it), but
  1    COMMAND succeeded, but a defect was recorded (what harms data on a real Region: unlinking a
       mounted volume, say), or it made no OMI to export
  2    the command line is wrong; nothing was done
  127  COMMAND could not be started
"""

# How long what COMMAND left may go without a call before nobody is taken to be undoing it, and how
# long that is waited for in all.
_QUIET_SECONDS = 5.0
_UNDOING_SECONDS = 120.0


def add_run(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = actions.add_parser(
        "run",
        help="run a command against a Region of its own",
        usage="%(prog)s [options] -- COMMAND...",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    add_region_options(parser)
    parser.add_argument(
        "--export",
        metavar="FILE",
        type=Path,
        help="write the root volume of the newest OMI that COMMAND made to FILE, as a raw image",
    )
    parser.set_defaults(follow=run)


def run(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Raises UsageError before anything is started, OSError where the Region cannot be."""
    if not command:
        raise UsageError("no COMMAND: put it after --")
    check_region_options(options)
    check_writable("--export", options.export)
    cloud = make_cloud(options)
    child = Child(say=say)
    started = time.monotonic()
    with child.signals(), cloud:
        for process in cloud.ended_at_start():
            say(f"ended what a killed localcloud had left: process {process}")
        status = child.run(command, cloud.child_environment(os.environ))
        _let_undoing_finish(cloud, stop=child.asked_to_stop)
        say(f"after {time.monotonic() - started:.1f} s and {cloud.calls_made} calls:")
        inventory = cloud.inventory()
        for line in inventory.lines():
            say(f"  {line}")
        for image in cloud.images():
            if steps := cloud.critical_path(image.image_id):
                say(f"  critical path of {image.image_id}: {describe(steps)}")
        # Where COMMAND failed there is no OMI to be missed.
        wanted = options.export is not None and status == 0
        exported = not wanted or _export(cloud, options.export)
    for defect in cloud.defects:
        say(f"  defect: {defect}")
    if status == 0 and (cloud.defects or not exported):
        return 1
    return status


def _let_undoing_finish(cloud: LocalCloud, *, stop: Callable[[], bool]) -> None:
    """A killed packer ends before the plugin has undone its build: the Region outlives it.

    As long as something is left over and calls still come in, but not for ever, and not against
    the user's will.
    """
    begun = quiet_since = time.monotonic()
    calls = cloud.calls_made
    told = False
    while not stop() and cloud.leftovers():
        now = time.monotonic()
        if cloud.calls_made != calls:
            calls, quiet_since = cloud.calls_made, now
        if now - quiet_since > _QUIET_SECONDS or now - begun > _UNDOING_SECONDS:
            return
        if not told and now - begun > 1.0:
            told = True
            say("COMMAND has ended; waiting for what it left to be undone")
        time.sleep(0.1)


def _export(cloud: LocalCloud, file: Path) -> bool:
    images = [image for image in cloud.images() if image.state == "available"]
    if not images:
        say("  nothing to export: no OMI was made")
        return False
    newest = max(images, key=lambda image: image.created)
    try:
        cloud.export(newest.image_id, file)
    except LookupError as error:
        say(f"  nothing was exported: {error}")
        return False
    say(f"  exported the root volume of {newest.image_id} to {file}")
    return True
