"""The Region: all that exists in it, and how its resources go from state to state.

Every change of state happens on one asyncio thread, so there are no locks; work on disks goes to a
thread pool. The actions of the API (`actions_*.py`) are functions over this class.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from packer_plugin_osc_chroot.localcloud import assumptions
from packer_plugin_osc_chroot.localcloud.disks import Attachment, Disks
from packer_plugin_osc_chroot.localcloud.errors import ApiError
from packer_plugin_osc_chroot.localcloud.files import GIB
from packer_plugin_osc_chroot.localcloud.history import History, Resources
from packer_plugin_osc_chroot.localcloud.latency import Latency
from packer_plugin_osc_chroot.localcloud.openapi import Json
from packer_plugin_osc_chroot.localcloud.record import Record
from packer_plugin_osc_chroot.localcloud.saved import Saved
from packer_plugin_osc_chroot.localcloud.state import (
    Account,
    Image,
    Link,
    Snapshot,
    Vm,
    Volume,
    new_id,
)
from packer_plugin_osc_chroot.localcloud.trouble import Trouble
from packer_plugin_osc_chroot.localcloud.watch import NodeWatch

_P = ParamSpec("_P")
_T = TypeVar("_T")
_DISK_THREADS = 8
# How often a snapshot's progress moves on.
_PROGRESS_SECONDS = 0.1


async def _nowhere() -> None:
    """For a Region that is not kept."""


class Region:
    """Made, used and closed on the thread of its event loop."""

    name = assumptions.REGION_NAME
    subregions = assumptions.SUBREGION_NAMES

    def __init__(
        self,
        *,
        accounts: Sequence[Account],
        disks: Disks,
        latency: Latency,
        record: Record,
        trouble: Trouble,
        before: Saved | None = None,
    ) -> None:
        """`accounts` by their keys; the VM is the first one's. `before` is a Region to go on with."""
        self.accounts = {account.access_key: account for account in accounts}
        # Has what changed written where the Region is kept (see `keeper.py`).
        self.write: Callable[[], Awaitable[None]] = _nowhere
        self.disks = disks
        self.latency = latency
        self.record = record
        self.trouble = trouble
        self.volumes: dict[str, Volume] = {}
        self.snapshots: dict[str, Snapshot] = {}
        self.images: dict[str, Image] = {}
        self.source_ids: set[str] = set()
        self.client_tokens: dict[tuple[str, str, str], tuple[Json, str]] = {}
        if before is None:
            self.vm = self._start_vm(accounts[0])
        else:
            self.vm, self.root_volume_id = before.vm, before.root_volume_id
        live = Resources(
            vm=self.vm, volumes=self.volumes, snapshots=self.snapshots, images=self.images
        )
        self.history = History(live, stale=trouble.stale_reads)
        self._tasks: set[asyncio.Task[None]] = set()
        self._writes: set[asyncio.Future[None]] = set()
        self._copies: dict[str, list[asyncio.Future[None]]] = {}
        self._attachments: dict[str, Attachment] = {}
        self._pool = ThreadPoolExecutor(_DISK_THREADS, thread_name_prefix="localcloud-disk")
        self._watch = NodeWatch(
            asyncio.get_running_loop(), changed=lambda node: self._read(node.name)
        )

    def _start_vm(self, account: Account) -> Vm:
        vm = Vm(
            vm_id=new_id("i"),
            account_id=account.account_id,
            subregion=self.subregions[0],
            image_id=new_id("ami"),
        )
        # The root volume is this machine's own disk: it has no file, and cannot be unlinked.
        root = Volume(
            volume_id=new_id("vol"),
            account_id=account.account_id,
            subregion=vm.subregion,
            size=10,
            volume_type="gp2",
            iops=assumptions.DEFAULT_IOPS,
            state="in-use",
            link=Link(
                vm_id=vm.vm_id,
                device_name=assumptions.ROOT_DEVICE_NAME,
                slot="",
                state="attached",
            ),
        )
        self.volumes[root.volume_id] = root
        self.root_volume_id = root.volume_id
        return vm

    async def on_disk(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run `work` in the thread pool."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: work(*args, **kwargs))

    def start(self, transition: Coroutine[Any, Any, None]) -> None:
        """Run a transition in the background; a failure of ours is recorded as a defect."""
        task = asyncio.create_task(transition)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        if task.exception() is not None:
            self.record.add_defect(f"localcloud: a transition failed: {task.exception()!r}")
        writing = asyncio.ensure_future(self.write())
        self._writes.add(writing)
        writing.add_done_callback(self._writes.discard)

    # Volumes

    async def make_volume(self, volume: Volume) -> None:
        wait = asyncio.sleep(self.latency.volume)
        work = self.on_disk(
            self.disks.create_volume,
            volume.volume_id,
            size=volume.size * GIB,
            snapshot_id=volume.snapshot_id,
        )
        _, failure = await asyncio.gather(wait, work, return_exceptions=True)
        volume.state = "available" if failure is None else "error"
        if failure is not None:
            self.record.add_defect(f"localcloud: making {volume.volume_id} failed: {failure}")

    async def remove_volume(self, volume: Volume) -> None:
        await asyncio.sleep(self.latency.delete)
        await asyncio.gather(*self._copies.pop(volume.volume_id, []), return_exceptions=True)
        await self.on_disk(self.disks.delete_volume, volume.volume_id)
        del self.volumes[volume.volume_id]

    async def attach(self, volume: Volume, link: Link) -> None:
        await asyncio.sleep(self.latency.link)
        try:
            attachment = await self.on_disk(self.disks.attach, volume.volume_id, name=link.slot)
        except OSError as error:
            self.disks.release(link.slot)
            volume.link, volume.state = None, "available"
            self.record.add_defect(
                f"localcloud: attaching {volume.volume_id} as {link.slot} failed: {error}"
            )
            return
        self._attachments[link.slot] = attachment
        self._watch.add(attachment.node)
        await self.on_disk(self.disks.update_partitions, attachment)
        link.attachment, link.state = attachment, "attached"

    async def detach(self, volume: Volume, link: Link) -> None:
        attachment = link.attachment
        assert attachment is not None
        wait = asyncio.sleep(self.latency.unlink)
        await asyncio.gather(wait, self._check_unused(volume, attachment))
        await self._check_written(volume.volume_id)
        del self._attachments[link.slot]
        if not await self.on_disk(self.disks.detach, attachment):
            self.record.add_defect(
                f"{volume.volume_id} ({attachment.node}) was taken away from a user that still"
                " has it: the kernel keeps the disk until that user is gone"
            )
        volume.link, volume.state = None, "available"

    async def _check_unused(self, volume: Volume, attachment: Attachment) -> None:
        users = await self.on_disk(self.disks.users_of, attachment)
        if users:
            self.record.add_defect(
                f"UnlinkVolume of {volume.volume_id} while {attachment.node} is in use:"
                f" {', '.join(users)}"
            )

    def _read(self, slot: str) -> None:
        """The disk at `slot` was written: its partitions may be other ones now."""
        attachment = self._attachments.get(slot)
        if attachment is not None:
            self.start(self.on_disk(self.disks.update_partitions, attachment))

    # Snapshots

    async def take_data(self, snapshot: Snapshot, volume: Volume) -> None:
        """Note what the volume holds now; the copy goes on in the background."""
        flushed = asyncio.ensure_future(self._flush_for(snapshot, volume))
        copy = asyncio.ensure_future(self._copy_after(flushed, snapshot, volume))
        self._copies.setdefault(volume.volume_id, []).append(copy)
        await flushed
        self.start(self.make_snapshot(snapshot, copy))

    async def _flush_for(self, snapshot: Snapshot, volume: Volume) -> None:
        attachment = volume.link.attachment if volume.link is not None else None
        if attachment is None:
            return
        mounts = await self.on_disk(self.disks.mounts_of, attachment)
        if mounts:
            self.record.add_defect(
                f"CreateSnapshot of {volume.volume_id} while {attachment.node} is mounted on"
                f" {', '.join(mounts)}"
            )
        written = await self.on_disk(self.disks.flush, attachment)
        if written is not None:
            snapshot.writes = attachment, written

    async def _copy_after(
        self, flushed: asyncio.Future[None], snapshot: Snapshot, volume: Volume
    ) -> None:
        await flushed
        source = self.disks.volume_file(volume.volume_id)
        await self.on_disk(self.disks.create_snapshot, snapshot.snapshot_id, source)

    async def make_snapshot(self, snapshot: Snapshot, copy: asyncio.Future[None]) -> None:
        started = time.monotonic()
        duration = self.latency.snapshot
        while (elapsed := time.monotonic() - started) < duration:
            share = elapsed / duration
            snapshot.progress = int(share * 100)
            if share >= assumptions.SNAPSHOT_QUEUE_SHARE:
                snapshot.state = "pending"
            await asyncio.sleep(min(_PROGRESS_SECONDS, duration - elapsed))
        snapshot.state = "pending"
        try:
            await copy
        except OSError as error:
            snapshot.state = "error"
            self.record.add_defect(f"localcloud: copying for {snapshot.snapshot_id}: {error}")
            return
        await self._check_written(snapshot.volume_id)
        if snapshot.state == "pending":
            snapshot.state, snapshot.progress = "completed", 100

    async def _check_written(self, volume_id: str) -> None:
        """Record writes to a volume since CreateSnapshot took its data."""
        for snapshot in list(self.snapshots.values()):
            if snapshot.volume_id != volume_id or snapshot.writes is None:
                continue
            if snapshot.state == "completed":
                continue
            attachment, before = snapshot.writes
            written = await self.on_disk(self.disks.flush, attachment)
            if written is None or written == before or snapshot.writes is None:
                continue
            snapshot.writes = None
            self.record.add_defect(
                f"{volume_id} ({attachment.node}) was written ({written - before} sectors) between"
                f" CreateSnapshot and the end of {snapshot.snapshot_id}"
            )

    async def remove_snapshot(self, snapshot: Snapshot) -> None:
        await asyncio.sleep(self.latency.delete)
        for copies in list(self._copies.values()):
            await asyncio.gather(*copies, return_exceptions=True)
        await self.on_disk(self.disks.delete_snapshot, snapshot.snapshot_id)
        self.snapshots.pop(snapshot.snapshot_id, None)

    # OMIs

    async def make_image(self, image: Image) -> None:
        await asyncio.sleep(self.latency.image)
        image.state = "available"

    # What a caller may see and use

    def is_being_copied(self, volume: Volume) -> bool:
        """Whether a snapshot of it is on its way."""
        return any(
            snapshot.volume_id == volume.volume_id and snapshot.state in ("in-queue", "pending")
            for snapshot in self.snapshots.values()
        )

    def volume(self, volume_id: str, account: Account) -> Volume:
        found = self.volumes.get(volume_id)
        if found is None or found.account_id != account.account_id:
            raise ApiError("no-such-volume", f"The volume {volume_id} does not exist.")
        return found

    def snapshot(self, snapshot_id: str, account: Account, *, own: bool = False) -> Snapshot:
        """A snapshot that the account may use, or with `own` change."""
        found = self.snapshots.get(snapshot_id)
        if found is None or not self.may_use(found, account):
            raise ApiError("no-such-snapshot", f"The snapshot {snapshot_id} does not exist.")
        if own and found.account_id != account.account_id:
            raise ApiError("access-denied", f"{snapshot_id} belongs to another account.")
        return found

    def image(self, image_id: str, account: Account, *, own: bool = False) -> Image:
        found = self.images.get(image_id)
        if found is None or not self.may_use(found, account):
            raise ApiError("no-such-image", f"The OMI {image_id} does not exist.")
        if own and found.account_id != account.account_id:
            raise ApiError("access-denied", f"{image_id} belongs to another account.")
        return found

    def used(self, account: Account) -> dict[str, int]:
        """How much of each quota the account uses."""
        key = account.account_id
        volumes = [each for each in self.volumes.values() if each.account_id == key]
        snapshots = [each for each in self.snapshots.values() if each.account_id == key]
        running = [each for each in snapshots if each.state in ("in-queue", "pending")]
        return {
            "volumes": len(volumes),
            "volumes_gib": sum(volume.size for volume in volumes),
            "snapshots": len(snapshots),
            "running_snapshots": len(running),
        }

    @staticmethod
    def may_use(resource: Snapshot | Image, account: Account) -> bool:
        if resource.account_id == account.account_id:
            return True
        return resource.permissions.allows(account.account_id)

    async def close(self) -> None:
        """End all transitions and disk work. The disks themselves are removed by their owner."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Copies go on to their end in the pool: what is kept is to be complete.
        copies = [copy for copies in self._copies.values() for copy in copies]
        await asyncio.gather(*copies, *self._writes, return_exceptions=True)
        await self.write()
        self._watch.close()
        await asyncio.get_running_loop().run_in_executor(None, self._pool.shutdown)
