"""Processes in the way of unmounting: found, named to the user, asked to end, then killed."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.host.agent_client import AgentFiles
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.holders_scan import Holder
from packer_plugin_osc_chroot.host.link_lock import pids_with_disks
from packer_plugin_osc_chroot.host.procfs import started_below
from packer_plugin_osc_chroot.host.rootfs import Files, LocalFiles
from packer_plugin_osc_chroot.ui import Ui

TERM_GRACE = 3.0
KILL_GRACE = 2.0
SHOWN = 20


@contextmanager
def machine_files(host: Host) -> Iterator[Files]:
    """For operations that need privileges but no root: starts an agent only when it is used."""
    files: Files = LocalFiles("/") if host.wrap is None else AgentFiles(host, "/")
    try:
        yield files
    finally:
        files.close()


def find(files: Files, mount_point: str, *, token: CancelToken) -> list[Holder]:
    """Those that may be ended: never this process or those above it (Packer, the user's shell), nor
    what belongs to another build: its service and its Packer, all that they started and all above.
    """
    others = pids_with_disks() - {os.getpid()}
    spare = [os.getpid(), *others, *started_below(others, stem="packer")]
    return _find(files, mount_point, spare=spare, token=token)


def find_all(files: Files, mount_point: str, *, token: CancelToken) -> list[Holder]:
    """Also those that `find` leaves out, but for the process that looks and those above it."""
    return _find(files, mount_point, spare=[], token=token)


def _find(
    files: Files, mount_point: str, *, spare: Sequence[int], token: CancelToken
) -> list[Holder]:
    arguments = {"mount_point": mount_point, "spare": [*spare]}
    return [Holder(*each) for each in files.call("find_holders", arguments, check=token.check)]


def end_holders(
    host: Host,
    files: Files,
    mount_point: str,
    *,
    ui: Ui,
    token: CancelToken,
    term_grace: float = TERM_GRACE,
) -> list[Holder]:
    """End what holds the mount. Returns those that are still there."""
    held = find(files, mount_point, token=token)
    if not held:
        return []
    ui.message(f"{mount_point} is still in use; ending these processes:")
    for holder in held[:SHOWN]:
        ui.message(f"  {holder}")
    if len(held) > SHOWN:
        ui.message(f"  and {len(held) - SHOWN} more")
    for number, grace in ((signal.SIGTERM, term_grace), (signal.SIGKILL, KILL_GRACE)):
        host.kill([holder.pid for holder in held], number)
        deadline = time.monotonic() + grace
        pause = 0.02
        while held and time.monotonic() < deadline:
            token.sleep(pause)
            pause = min(pause * 1.5, 0.25)
            before = {holder.pid for holder in held}
            held = find(files, mount_point, token=token)
            # What it started meanwhile, or what starts it again, goes the same way.
            host.kill([each.pid for each in held if each.pid not in before], number)
        if not held:
            return []
        if number is signal.SIGTERM:
            ui.message(f"{len(held)} of them did not end within {grace:g} s and are killed")
    return held
