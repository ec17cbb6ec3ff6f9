"""What reads show: the Region's resources as they are, or as they were a while ago.

Nothing is kept where reads are not stale. Used on the Region's thread only.
"""

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import TypeVar

from packer_plugin_osc_chroot.localcloud.state import Image, Snapshot, Vm, Volume, VolumeUpdate

_Resource = TypeVar("_Resource", Volume, Snapshot, Image, Vm, VolumeUpdate)
# A state that lasts less may never be seen.
_SAMPLE_SECONDS = 0.02


@dataclass(frozen=True)
class Resources:
    """All that can be read, by id, oldest first."""

    vm: Vm
    volumes: Mapping[str, Volume]
    snapshots: Mapping[str, Snapshot]
    images: Mapping[str, Image]
    volume_updates: Mapping[str, VolumeUpdate]

    def linked_volumes(self) -> list[Volume]:
        """The VM's volumes, its root volume first."""
        return [volume for volume in self.volumes.values() if volume.link is not None]

    def sample(self) -> "Resources":
        """A copy that later changes do not reach."""
        return Resources(
            vm=_sample(self.vm),
            volumes={key: _sample(volume) for key, volume in self.volumes.items()},
            snapshots={key: _sample(snapshot) for key, snapshot in self.snapshots.items()},
            images={key: _sample(image) for key, image in self.images.items()},
            volume_updates={key: _sample(update) for key, update in self.volume_updates.items()},
        )


def _sample(resource: _Resource) -> _Resource:
    """A copy as deep as resources are changed in place."""
    sample = copy(resource)
    sample.tags = dict(resource.tags)
    if isinstance(sample, Volume):
        sample.link = copy(sample.link)
    elif isinstance(sample, Snapshot | Image):
        sample.permissions = copy(sample.permissions)
    return sample


class History:
    """Keeps samples of `live` for `stale` seconds."""

    def __init__(self, live: Resources, *, stale: float) -> None:
        self.live = live
        self.stale = stale
        self._samples: deque[tuple[float, Resources]] = deque()

    def seen(self) -> Resources:
        """What a read shows now. Before the Region is as old as reads are stale: its beginning."""
        if not self._samples:
            return self.live
        self._forget()
        return self._samples[0][1]

    async def keep(self) -> None:
        """Take samples as long as reads are to be stale, which may change meanwhile."""
        while self.stale > 0:
            self._samples.append((time.monotonic(), self.live.sample()))
            self._forget()
            await asyncio.sleep(_SAMPLE_SECONDS)
        self._samples.clear()

    def _forget(self) -> None:
        """Leave the newest sample that is old enough in front."""
        shown = time.monotonic() - self.stale
        while len(self._samples) > 1 and self._samples[1][0] <= shown:
            self._samples.popleft()
