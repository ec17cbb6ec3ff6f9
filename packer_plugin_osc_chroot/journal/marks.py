"""The mark that volumes and snapshots of this plugin carry from their first moment: their ClientToken.

The API shows it with the resource for good, it costs no call (a tag would cost one, and come too
late for a build that is killed right then), and users see no tag of ours on their OMI's snapshot.
"""

import calendar
import re
import secrets
import time
from dataclasses import dataclass

_FORM = re.compile(r"osc-chroot\.(i-[0-9a-f]+)\.([0-9]{8}T[0-9]{6}Z)\.[0-9a-f]+")
_AT = "%Y%m%dT%H%M%SZ"

_ANYWHERE = re.compile(_FORM.pattern.encode())


@dataclass(frozen=True)
class Mark:
    """Who made a resource: the VM, and when (UTC, as `20261127T134820Z`; in seconds of the epoch)."""

    vm_id: str
    at: str
    made: int

    @property
    def age(self) -> float:
        """Seconds since then, by this machine's clock."""
        return time.time() - self.made


def new_client_token(vm_id: str) -> str:
    """At most 64 characters, as EC2's; without a VM no mark, but as unique."""
    made = time.strftime(_AT, time.gmtime())
    return f"osc-chroot.{vm_id}.{made}.{secrets.token_hex(8)}"


def find_marks(text: bytes) -> set[str]:
    """The ClientTokens of ours in a text of any form."""
    return {found[0].decode() for found in _ANYWHERE.finditer(text)}


def read_mark(client_token: str) -> Mark | None:
    """None for a ClientToken of others, or one with a date that there is none of."""
    if (match := _FORM.fullmatch(client_token)) is None:
        return None
    try:
        made = calendar.timegm(time.strptime(match[2], _AT))
    except ValueError:
        return None
    return Mark(match[1], match[2], made)
