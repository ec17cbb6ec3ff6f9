"""The files behind the Region's disks: a sparse one for each volume and snapshot.

Everything here blocks and runs in the Region's thread pool.
"""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from packer_plugin_osc_chroot.localcloud import files


class SourceChanged(Exception):
    """The file of a source OMI is no longer what it was at the start."""


@dataclass(frozen=True)
class ForeignFile:
    """A user's image file that serves as a snapshot's data in place. Never written to."""

    path: Path
    size: int
    modified: int

    @classmethod
    def of(cls, path: Path) -> "ForeignFile":
        status = path.stat()
        return cls(path=path, size=status.st_size, modified=status.st_mtime_ns)

    def check(self) -> None:
        """Raises SourceChanged."""
        if ForeignFile.of(self.path) != self:
            raise SourceChanged(f"{self.path} changed while the localcloud was using it")


class Disks:
    """Owns the files below `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        # Snapshots whose data is a user's own file.
        self.foreign: dict[str, ForeignFile] = {}
        for folder in ("volumes", "snapshots"):
            (self._directory / folder).mkdir(exist_ok=True)
            for part in (self._directory / folder).glob(".*.part"):
                part.unlink()

    def volume_file(self, volume_id: str) -> Path:
        return self._directory / "volumes" / f"{volume_id}.raw"

    def snapshot_file(self, snapshot_id: str) -> Path:
        """The snapshot's data; for a source OMI that could not be cloned, the user's own file."""
        foreign = self.foreign.get(snapshot_id)
        return foreign.path if foreign else self._directory / "snapshots" / f"{snapshot_id}.raw"

    def adopt_snapshot(self, snapshot_id: str, image: Path) -> None:
        """Make the raw image file `image` a snapshot's data: a clone, else the file in place.

        In place, because copying a large image would delay every start; it is only ever read.
        """
        target = self._directory / "snapshots" / f"{snapshot_id}.raw"
        with open(image, "rb") as reader, open(target, "xb") as writer:
            cloned = files.try_clone(reader.fileno(), writer.fileno())
        if not cloned:
            target.unlink()
            self.foreign[snapshot_id] = ForeignFile.of(image.resolve())

    def take_over_snapshot(self, snapshot_id: str, image: Path) -> None:
        """Make a file of ours a snapshot's data: it is moved."""
        target = self._directory / "snapshots" / f"{snapshot_id}.raw"
        try:
            os.rename(image, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            files.replace_sparse(image, target)
            image.unlink()

    def create_volume(self, volume_id: str, *, size: int, snapshot_id: str) -> None:
        """Make a volume of `size` bytes, from a snapshot unless `snapshot_id` is empty."""
        target = self.volume_file(volume_id)
        if not snapshot_id:
            files.create_sparse(target, size=size)
            return
        files.replace_sparse(self.snapshot_file(snapshot_id), target, size=size)
        foreign = self.foreign.get(snapshot_id)
        if foreign is not None:
            foreign.check()

    def grow_volume(self, volume_id: str, *, size: int) -> None:
        """To `size` bytes."""
        os.truncate(self.volume_file(volume_id), size)

    def create_snapshot(self, snapshot_id: str, source: Path) -> None:
        files.replace_sparse(source, self._directory / "snapshots" / f"{snapshot_id}.raw")

    def delete_volume(self, volume_id: str) -> None:
        self.volume_file(volume_id).unlink(missing_ok=True)

    def delete_snapshot(self, snapshot_id: str) -> None:
        if self.foreign.pop(snapshot_id, None) is None:
            self.snapshot_file(snapshot_id).unlink(missing_ok=True)
