"""The Region: all that exists in it, and who may see and use it.

Every change of state happens on one asyncio thread, so there are no locks; work on disks goes to a
thread pool. The actions of the API (`actions_*.py`) are functions over this class.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from packer_plugin_osc_chroot.localcloud import assumptions
from packer_plugin_osc_chroot.localcloud.attacher import Attacher
from packer_plugin_osc_chroot.localcloud.disks import Disks
from packer_plugin_osc_chroot.localcloud.errors import ApiError
from packer_plugin_osc_chroot.localcloud.hazards import Hazards
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
    VolumeUpdate,
    new_id,
)
from packer_plugin_osc_chroot.localcloud.transitions import Transitions
from packer_plugin_osc_chroot.localcloud.trouble import Trouble

_P = ParamSpec("_P")
_T = TypeVar("_T")
_DISK_THREADS = 8


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
        attacher: Attacher,
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
        self.attacher = attacher
        self.latency = latency
        self.record = record
        self.hazards = Hazards(trouble)
        self.volumes: dict[str, Volume] = {}
        self.snapshots: dict[str, Snapshot] = {}
        self.images: dict[str, Image] = {}
        self.volume_updates: dict[str, VolumeUpdate] = {}
        self.source_ids: set[str] = set()
        self.client_tokens: dict[tuple[str, str, str], tuple[Json, str]] = {}
        if before is None:
            self.vm = self._start_vm(accounts[0])
        else:
            self.vm, self.root_volume_id = before.vm, before.root_volume_id
        live = Resources(
            vm=self.vm,
            volumes=self.volumes,
            snapshots=self.snapshots,
            images=self.images,
            volume_updates=self.volume_updates,
        )
        self.history = History(live, stale=trouble.stale_reads)
        self._tasks: set[asyncio.Task[None]] = set()
        self._writes: set[asyncio.Future[None]] = set()
        self._pool = ThreadPoolExecutor(_DISK_THREADS, thread_name_prefix="localcloud-disk")
        self.transitions = Transitions(self)

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

    @property
    def trouble(self) -> Trouble:
        return self.hazards.trouble

    def set_trouble(self, trouble: Trouble) -> None:
        """From now on; what is counted is counted anew."""
        self.hazards = Hazards(trouble)
        sampled = self.history.stale > 0
        self.history.stale = trouble.stale_reads
        if not sampled and trouble.stale_reads > 0:
            self.start(self.history.keep())

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
        writing.add_done_callback(self._write_ended)

    def _write_ended(self, writing: "asyncio.Future[None]") -> None:
        self._writes.discard(writing)
        if not writing.cancelled() and (error := writing.exception()) is not None:
            self.record.add_defect(f"localcloud: what changed could not be saved: {error}")

    # What a caller may see and use

    def is_being_copied(self, volume: Volume) -> bool:
        """Whether a snapshot of it is on its way."""
        return any(
            snapshot.volume_id == volume.volume_id
            and not snapshot.source_id
            and snapshot.state in ("in-queue", "pending")
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
        """End all transitions and disk work. The disks themselves are removed by their owner.

        Raises StateError where the end could not be saved.
        """
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.transitions.close()
        await asyncio.gather(*self._writes, return_exceptions=True)
        try:
            await self.write()
        finally:
            await asyncio.get_running_loop().run_in_executor(None, self._pool.shutdown)
