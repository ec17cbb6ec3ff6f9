"""The kernel's own word that a disk came or went: uevents, as udev gets them.

Where there are none to be had (a container, another network namespace) one looks now and then.
"""

import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from packer_plugin_osc_chroot.cancel import CancelToken

# <linux/netlink.h>; the first multicast group carries the kernel's own events.
_NETLINK_KOBJECT_UEVENT = 15
_KERNEL_GROUP = 1
# Seconds between two looks without an event: udev's links come after it.
_LOOK_EVERY = 0.05
_DATAGRAM = 16384


@contextmanager
def disk_sign(happened: Callable[[], bool]) -> Iterator[Callable[[float, CancelToken], bool]]:
    """A function that waits so many seconds until `happened`, and tells whether it has."""
    events = _kernel_events()
    try:
        yield lambda seconds, token: _wait(events, happened, seconds, token)
    finally:
        if events is not None:
            events.close()


def _kernel_events() -> socket.socket | None:
    try:
        events = socket.socket(
            socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, _NETLINK_KOBJECT_UEVENT
        )
    except OSError:
        return None
    try:
        events.bind((0, _KERNEL_GROUP))
    except OSError:
        events.close()
        return None
    return events


def _wait(
    events: socket.socket | None,
    happened: Callable[[], bool],
    seconds: float,
    token: CancelToken,
) -> bool:
    ends = time.monotonic() + seconds
    poller = select.poll()
    if events is not None:
        poller.register(events, select.POLLIN)
    while True:
        token.check()
        if happened():
            return True
        left = ends - time.monotonic()
        if left <= 0:
            return False
        if events is None:
            token.sleep(min(left, _LOOK_EVERY))
            continue
        poller.poll(min(left, _LOOK_EVERY) * 1000)
        # Lost ones (ENOBUFS) tell as much as those that are there.
        with suppress(OSError):
            while events.recv(_DATAGRAM):
                pass
