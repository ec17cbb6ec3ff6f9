"""What is on a disk or partition: filesystem, partition table, label, as blkid(8) reads it there.

Read from the device itself each time, never from a cache: another disk may have had the name before.
"""

from dataclasses import dataclass
from pathlib import Path

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import CommandError
from packer_plugin_osc_chroot.host.commands import Host

# blkid's exit statuses: nothing found (or not readable, which it says); several signatures at once.
_NOTHING, _AMBIVALENT = 2, 8


@dataclass(frozen=True)
class Signatures:
    """Empty strings where there is nothing; false when there is nothing at all."""

    fstype: str = ""
    table: str = ""
    label: str = ""
    is_ambivalent: bool = False

    def __bool__(self) -> bool:
        return bool(self.fstype or self.table or self.is_ambivalent)

    def describe(self) -> str:
        if self.is_ambivalent:
            return "several filesystems or partition tables at once"
        found = [f"a partition table ({self.table})"] if self.table else []
        found += [f"a filesystem ({self.fstype})"] if self.fstype else []
        return " and ".join(found) or "nothing"


def read_signatures(host: Host, device: Path, *, token: CancelToken) -> Signatures:
    """Raises CommandError where the device cannot be read."""
    done = host.run(
        ["blkid", "-p", "-o", "export", "--", str(device)],
        token=token,
        success=(0, _NOTHING, _AMBIVALENT),
    )
    if done.status == _AMBIVALENT:
        return Signatures(is_ambivalent=True)
    if done.status == _NOTHING and done.errors:
        raise CommandError(f"blkid: {done.errors.splitlines()[-1]}", status=done.status)
    values = dict(line.partition("=")[::2] for line in done.output.splitlines() if "=" in line)
    return Signatures(
        fstype=values.get("TYPE", ""),
        table=values.get("PTTYPE", ""),
        label=_unescaped(values.get("LABEL", "")),
    )


def _unescaped(value: str) -> str:
    # The export form puts a backslash before what a shell would take as its own.
    return value.replace("\\", "")
