"""`localcloud serve`: a Region that stays up until it is told to end."""

import argparse
import shlex
import signal
from collections.abc import Mapping, Sequence

from packer_plugin_osc_chroot.commands import HelpFormatter, exit_status
from packer_plugin_osc_chroot.localcloud import examples
from packer_plugin_osc_chroot.localcloud.region_options import (
    UsageError,
    add_region_options,
    check_region_options,
    make_cloud,
)
from packer_plugin_osc_chroot.localcloud.tell import PROGRAM, say

_DESCRIPTION = """\
Start a Region and keep it up until Ctrl-C (or SIGTERM, SIGHUP). This machine plays the VM: linked
volumes appear here as disks (see --disks), which needs root and loop devices.

What a shell has to set is written to stdout. In another shell of the same user,

  eval "$(packer-plugin-osc-chroot localcloud status --exports)"

sets it. With --state DIR the Region outlives this process: volumes that are linked when it ends are
linked again, under the same names, when DIR is next given.
"""
_EPILOG = f"""\
example:
  {PROGRAM} serve --state region --source-omi ami-12345678=debian.raw

{examples.epilog()}
{exit_status(done="it was told to end, and is gone")}"""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
# These would win over what is exported, or mix with it.
_OTHER_VARIABLES = (
    "OSC_PROFILE",
    "OSC_X509_CLIENT_CERT",
    "OSC_X509_CLIENT_KEY",
    "OSC_TLS_SKIP_VERIFY",
    "OUTSCALE_ACCESSKEYID",
    "OUTSCALE_SECRETKEYID",
    "OUTSCALE_REGION",
    "OUTSCALE_OAPI_URL",
    "OUTSCALE_X509CERT",
    "OUTSCALE_X509KEY",
)


def add_serve(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = actions.add_parser(
        "serve",
        help="keep a Region up, and print what to export",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    add_region_options(parser)
    parser.set_defaults(follow=serve)


def serve(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Raises UsageError before anything is started, OSError and StateError where it cannot be."""
    if command:
        raise UsageError("serve takes no COMMAND: use run for that")
    check_region_options(options)
    # Blocked in all threads to come, a signal waits until it is asked for, also one that is early.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        with make_cloud(options) as cloud:
            for process in cloud.ended_at_start():
                say(f"ended what a killed localcloud had left: process {process}")
            for line in cloud.inventory().sources:
                say(line)
            print("\n".join(export_lines(cloud.environment())), flush=True)
            say(f"serving at {cloud.url}; Ctrl-C ends it")
            told = 0
            while signal.sigtimedwait(_SIGNALS, 0.5) is None:
                for defect in cloud.defects[told:]:
                    say(f"defect: {defect}")
                    told += 1
            inventory = cloud.inventory()
        for line in inventory.lines():
            say(f"  {line}")
        return 0
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def export_lines(environment: Mapping[str, str]) -> list[str]:
    """What a POSIX shell runs to see the Region, and no real one."""
    values = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    return [
        f"unset {' '.join(_OTHER_VARIABLES)}",
        *(f"export {value}" for value in values),
        'export no_proxy="127.0.0.1${no_proxy:+,$no_proxy}"',
        'export NO_PROXY="127.0.0.1${NO_PROXY:+,$NO_PROXY}"',
    ]
