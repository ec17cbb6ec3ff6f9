"""How the Region's resources go from state to state, and what goes wrong on the way.

Each transition runs in the background from the call that set it off. What a caller does to its own
harm (a disk that is taken away in use, written while a snapshot takes it) is recorded as a defect.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from packer_plugin_osc_chroot.localcloud import assumptions
from packer_plugin_osc_chroot.localcloud.attacher import Attachment, NameTaken
from packer_plugin_osc_chroot.localcloud.files import GIB
from packer_plugin_osc_chroot.localcloud.state import (
    Image,
    Link,
    Snapshot,
    Volume,
    VolumeUpdate,
    now,
)
from packer_plugin_osc_chroot.localcloud.watch import NodeWatch

if TYPE_CHECKING:
    from packer_plugin_osc_chroot.localcloud.region import Region

# How often a snapshot's progress moves on.
_PROGRESS_SECONDS = 0.1
# How often an OMI that is copied looks for its snapshots.
_LOOK_SECONDS = 0.02


class Transitions:
    """Used on the Region's thread."""

    def __init__(self, region: "Region") -> None:
        self._region = region
        self._disks = region.disks
        self._record = region.record
        # Those that run: of which volume's or snapshot's data.
        self._copies: dict[asyncio.Future[None], str] = {}
        self._attachments: dict[str, Attachment] = {}
        # Set once a link's disk has appeared, or will not.
        self._settled: dict[str, asyncio.Event] = {}
        # Of links that would stay on their way for ever, and may be forced.
        self._stuck: dict[str, asyncio.Event] = {}
        self._watch = NodeWatch(
            asyncio.get_running_loop(), changed=lambda node: self._read(node.name)
        )

    async def close(self) -> None:
        """Copies go on to their end: what is kept is to be complete."""
        await asyncio.gather(*self._copies, return_exceptions=True)
        self._watch.close()

    def _add_copy(self, source_id: str, copy: "asyncio.Future[None]") -> None:
        """Until it has ended, `source_id` keeps its data."""
        self._copies[copy] = source_id
        copy.add_done_callback(self._copies.pop)

    async def _copies_of(self, *source_ids: str) -> None:
        """Return once no copy of these is running."""
        copies = [copy for copy, source_id in self._copies.items() if source_id in source_ids]
        await asyncio.gather(*copies, return_exceptions=True)

    @contextmanager
    def _timed(self, action: str, resource: Volume | Snapshot | Image, key: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        state = resource.state
        self._record.add_transition(action, key, state=state, seconds=seconds)

    # Volumes

    async def make_volume(self, volume: Volume) -> None:
        end = self._region.hazards.next_end("CreateVolume")
        with self._timed("CreateVolume", volume, volume.volume_id):
            wait = asyncio.sleep(self._region.latency.volume)
            work = asyncio.ensure_future(
                self._region.on_disk(
                    self._disks.create_volume,
                    volume.volume_id,
                    size=volume.size * GIB,
                    snapshot_id=volume.snapshot_id,
                )
            )
            if volume.snapshot_id:
                # Its snapshot's data is not deleted before it has been read.
                self._add_copy(volume.snapshot_id, work)
            _, failure = await asyncio.gather(wait, work, return_exceptions=True)
            if failure is not None:
                self._record.add_defect(f"localcloud: making {volume.volume_id} failed: {failure}")
            await _unless_never(end)
            volume.state = "available" if failure is None and end != "error" else "error"

    async def remove_volume(self, volume: Volume) -> None:
        end = self._region.hazards.next_end("DeleteVolume")
        with self._timed("DeleteVolume", volume, volume.volume_id):
            await asyncio.sleep(self._region.latency.delete_volume)
            await _unless_never(end)
            await self._copies_of(volume.volume_id)
            await self._region.on_disk(self._disks.delete_volume, volume.volume_id)
            del self._region.volumes[volume.volume_id]

    async def update_volume(self, volume: Volume, update: VolumeUpdate) -> None:
        """The disk grows where it is, linked or not; what is on it does not."""
        end = self._region.hazards.next_end("UpdateVolume")
        with self._timed("UpdateVolume", volume, volume.volume_id):
            async for share in _shares(self._region.latency.update_volume):
                update.state, update.progress = "active", int(share * 100)
            await _unless_never(end)
            if end == "error":
                update.state, volume.task_id = "failed", ""
                return
            attachment = volume.link.attachment if volume.link is not None else None
            size = update.target.size * GIB
            await self._region.on_disk(self._disks.grow_volume, volume.volume_id, size=size)
            if attachment is not None:
                await self._region.on_disk(attachment.update_size)
            volume.size, volume.iops = update.target.size, update.target.iops
            volume.volume_type, volume.task_id = update.target.volume_type, ""
            update.state, update.progress, update.completed = "completed", 100, now()

    async def attach(self, volume: Volume, link: Link) -> None:
        end = self._region.hazards.next_end("LinkVolume")
        settled = self._settled[link.slot] = asyncio.Event()
        try:
            with self._timed("LinkVolume", volume, volume.volume_id):
                await asyncio.sleep(self._region.latency.link)
                if end == "never":
                    await self._until_forced(link)
                    return
                if end == "no-disk":
                    if link.state == "attaching":
                        link.state = "attached"
                    return
                if self._region.latency.disk and link.state == "attaching":
                    link.state = "attached"
                    await asyncio.sleep(self._region.latency.disk)
                await self._attach_disk(volume, link)
        finally:
            settled.set()

    async def _attach_disk(self, volume: Volume, link: Link) -> None:
        try:
            file = self._disks.volume_file(volume.volume_id)
            attachment = await self._region.on_disk(
                self._region.attacher.attach, file, slot=link.slot
            )
        except (OSError, NameTaken) as error:
            self._record.add_defect(
                f"localcloud: attaching {volume.volume_id} as {link.slot} failed: {error}"
            )
            # Where it was forced off meanwhile, the unlinking gives the slot back.
            if link.state != "detaching":
                self._region.attacher.release(link.slot)
                volume.link, volume.state = None, "available"
            return
        link.attachment = self._attachments[attachment.name] = attachment
        if attachment.is_here:
            self._watch.add(attachment.node)
        await self._region.on_disk(attachment.update_partitions)
        if link.state == "attaching":
            link.state = "attached"

    async def detach(self, volume: Volume, link: Link) -> None:
        end = self._region.hazards.next_end("UnlinkVolume")
        with self._timed("UnlinkVolume", volume, volume.volume_id):
            await self._settled.pop(link.slot).wait()
            await asyncio.gather(
                asyncio.sleep(self._region.latency.unlink), self._check_unused(volume, link)
            )
            if end == "never":
                await self._until_forced(link)
            await self._check_written(volume.volume_id)
            await self._detach_disk(volume, link)
            self._stuck.pop(link.slot, None)
            volume.link, volume.state = None, "available"

    def force(self, link: Link) -> None:
        """Let a link that is stuck, or will be, go on to its end."""
        self._stuck.setdefault(link.slot, asyncio.Event()).set()

    async def _until_forced(self, link: Link) -> None:
        await self._stuck.setdefault(link.slot, asyncio.Event()).wait()

    async def _detach_disk(self, volume: Volume, link: Link) -> None:
        if link.attachment is None:
            self._region.attacher.release(link.slot)
            return
        del self._attachments[link.attachment.name]
        if not await self._region.on_disk(link.attachment.detach):
            self._record.add_defect(
                f"{volume.volume_id} ({link.attachment.node}) was taken away from a user that still"
                " has it: the kernel keeps the disk until that user is gone"
            )

    async def _check_unused(self, volume: Volume, link: Link) -> None:
        if link.attachment is None:
            return
        users = await self._region.on_disk(link.attachment.users)
        if users:
            self._record.add_defect(
                f"UnlinkVolume of {volume.volume_id} while {link.attachment.node} is in use:"
                f" {', '.join(users)}"
            )

    def _read(self, name: str) -> None:
        """The disk `name` was written: its partitions may be other ones now."""
        attachment = self._attachments.get(name)
        if attachment is not None:
            self._region.start(self._region.on_disk(attachment.update_partitions))

    # Snapshots

    async def take_data(self, snapshot: Snapshot, volume: Volume) -> None:
        """Note what the volume holds now; the copy goes on in the background."""
        flushed = asyncio.ensure_future(self._flush_for(snapshot, volume))
        copy = asyncio.ensure_future(self._copy_after(flushed, snapshot, volume))
        self._add_copy(volume.volume_id, copy)
        await flushed
        self._region.start(self.make_snapshot(snapshot, copy))

    def copy_data(self, snapshot: Snapshot, *, counts: bool) -> None:
        """The same from another snapshot. `counts`: whether CreateSnapshot asked for it."""
        file = self._disks.snapshot_file(snapshot.source_id)
        work = self._region.on_disk(self._disks.create_snapshot, snapshot.snapshot_id, file)
        copy = asyncio.ensure_future(work)
        self._add_copy(snapshot.source_id, copy)
        self._region.start(self.make_snapshot(snapshot, copy, counts=counts))

    async def _flush_for(self, snapshot: Snapshot, volume: Volume) -> None:
        attachment = volume.link.attachment if volume.link is not None else None
        if attachment is None:
            return
        mounts = await self._region.on_disk(attachment.mounts)
        if mounts:
            self._record.add_defect(
                f"CreateSnapshot of {volume.volume_id} while {attachment.node} is mounted on"
                f" {', '.join(mounts)}"
            )
        written = await self._region.on_disk(attachment.flush)
        if written is not None:
            snapshot.writes = attachment, written

    async def _copy_after(
        self, flushed: asyncio.Future[None], snapshot: Snapshot, volume: Volume
    ) -> None:
        await flushed
        source = self._disks.volume_file(volume.volume_id)
        await self._region.on_disk(self._disks.create_snapshot, snapshot.snapshot_id, source)

    async def make_snapshot(
        self, snapshot: Snapshot, copy: asyncio.Future[None], *, counts: bool = True
    ) -> None:
        end = self._region.hazards.next_end("CreateSnapshot") if counts else None
        with self._timed("CreateSnapshot", snapshot, snapshot.snapshot_id):
            await self._progress(snapshot)
            try:
                await copy
            except OSError as error:
                snapshot.state = "error"
                self._record.add_defect(f"localcloud: copying for {snapshot.snapshot_id}: {error}")
                return
            await _unless_never(end)
            if end == "error":
                snapshot.state = "error"
                return
            if not snapshot.source_id:
                await self._check_written(snapshot.volume_id)
            if snapshot.state == "pending":
                snapshot.state, snapshot.progress = "completed", 100

    async def _progress(self, snapshot: Snapshot) -> None:
        latency = self._region.latency
        async for share in _shares(latency.copy if snapshot.source_id else latency.snapshot):
            snapshot.progress = int(share * 100)
            if share >= assumptions.SNAPSHOT_QUEUE_SHARE and snapshot.state == "in-queue":
                snapshot.state = "pending"
        if snapshot.state == "in-queue":
            snapshot.state = "pending"

    async def _check_written(self, volume_id: str) -> None:
        """Record writes to a volume since CreateSnapshot took its data."""
        for snapshot in list(self._region.snapshots.values()):
            if snapshot.volume_id != volume_id or snapshot.writes is None:
                continue
            if snapshot.state == "completed":
                continue
            attachment, before = snapshot.writes
            written = await self._region.on_disk(attachment.flush)
            if written is None or written == before or snapshot.writes is None:
                continue
            snapshot.writes = None
            self._record.add_defect(
                f"{volume_id} ({attachment.node}) was written ({written - before} sectors) between"
                f" CreateSnapshot and the end of {snapshot.snapshot_id}"
            )

    async def remove_snapshot(self, snapshot: Snapshot) -> None:
        end = self._region.hazards.next_end("DeleteSnapshot")
        with self._timed("DeleteSnapshot", snapshot, snapshot.snapshot_id):
            await asyncio.sleep(self._region.latency.delete_snapshot)
            await _unless_never(end)
            # Those that read it, and the one that makes it.
            await self._copies_of(snapshot.snapshot_id, snapshot.source_id or snapshot.volume_id)
            await self._region.on_disk(self._disks.delete_snapshot, snapshot.snapshot_id)
            self._region.snapshots.pop(snapshot.snapshot_id, None)

    # OMIs

    async def make_image(self, image: Image) -> None:
        end = self._region.hazards.next_end("CreateImage")
        with self._timed("CreateImage", image, image.image_id):
            latency = self._region.latency
            await asyncio.sleep(latency.copy if image.source_id else latency.image)
            await _unless_never(end)
            while "pending" in (states := self._states_of_data(image)):
                await asyncio.sleep(_LOOK_SECONDS)
            image.state = "failed" if end == "error" or "error" in states else "available"

    def _states_of_data(self, image: Image) -> set[str]:
        """Of its snapshots, which are on their way too where it is a copy."""
        found = (self._region.snapshots.get(key) for key in image.snapshot_ids())
        states = {snapshot.state for snapshot in found if snapshot is not None}
        return {"pending" if state == "in-queue" else state for state in states}


async def _shares(seconds: float) -> AsyncIterator[float]:
    """How much of this time has passed, every now and then until it is over."""
    started = time.monotonic()
    while (elapsed := time.monotonic() - started) < seconds:
        yield elapsed / seconds
        await asyncio.sleep(min(_PROGRESS_SECONDS, seconds - elapsed))


async def _unless_never(end: str | None) -> None:
    """Wait for ever where it is to stay on its way: until the Region is closed."""
    if end == "never":
        await asyncio.get_running_loop().create_future()
