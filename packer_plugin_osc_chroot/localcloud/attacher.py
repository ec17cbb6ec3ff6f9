"""Where linked volumes appear as disks: the seam between the Region and the machine that plays the VM.

`loop_disks.py` is this machine, with loop devices. Another machine needs an Attacher of its own:
that of the tests plugs the volumes' files into a VM that they start.

What is here blocks and runs in the Region's thread pool, except for `reserve` and `release`, which
are quick. A slot is the API's name of a disk, as `xvdX`, whichever spelling LinkVolume was given.
"""

from pathlib import Path
from typing import Protocol


class NameTaken(Exception):
    """The device name is in use on the machine."""


class Attachment(Protocol):
    """A linked volume's disk."""

    @property
    def name(self) -> str:
        """What the machine calls it: no other disk has that name."""

    @property
    def node(self) -> Path:
        """Where the machine shows it."""

    @property
    def is_here(self) -> bool:
        """Whether the node is one of this machine, and so can be watched."""

    def update_partitions(self) -> None:
        """Make the partitions those of the table that was written."""

    def update_size(self) -> None:
        """Make the disk as large as its file has become."""

    def flush(self) -> int | None:
        """Bring all that was written into the file; a count that grows with each write.

        None when the disk is gone.
        """

    def mounts(self) -> list[str]:
        """Where it is mounted, as far as can be seen."""

    def users(self) -> list[str]:
        """What keeps it in use, in words, as far as can be seen."""

    def detach(self) -> bool:
        """Take it away and give its names back; False when a user still has it."""


class Attacher(Protocol):
    """Makes volumes' files disks of the machine."""

    def reserve(self, slot: str) -> None:
        """Take the API's name for a disk to come. Raises NameTaken."""

    def release(self, slot: str) -> None:
        """Give it back."""

    def attach(self, file: Path, *, slot: str) -> Attachment:
        """Attach `file` at the slot, which is reserved.

        Raises OSError, NameTaken where the machine has no name left for it.
        """
