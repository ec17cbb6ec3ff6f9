"""A running localcloud: one Region with its server, in a thread of this process.

All that it made on the machine is gone when the `with` block ends, whatever is left in the Region.
"""

import asyncio
import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from aiohttp import web

from packer_plugin_osc_chroot.localcloud import assumptions, state
from packer_plugin_osc_chroot.localcloud.disks import Disks
from packer_plugin_osc_chroot.localcloud.files import copy_sparse, gibibytes
from packer_plugin_osc_chroot.localcloud.images import (
    TINY_IMAGE_ID,
    can_make_tiny_image,
    tiny_image,
)
from packer_plugin_osc_chroot.localcloud.latency import PRESETS, Latency
from packer_plugin_osc_chroot.localcloud.openapi import load_document
from packer_plugin_osc_chroot.localcloud.record import Defect, Record, RecordedCall
from packer_plugin_osc_chroot.localcloud.region import Region
from packer_plugin_osc_chroot.localcloud.remains import Remains, register
from packer_plugin_osc_chroot.localcloud.server import ApiServer
from packer_plugin_osc_chroot.localcloud.signature import SignatureChecker
from packer_plugin_osc_chroot.localcloud.trouble import Trouble

_T = TypeVar("_T")
_HOST = "127.0.0.1"


class LocalCloud:
    """`source_omis` maps OMI ids to raw disk images; None makes a tiny one, `{}` has none.

    Linking volumes needs root. `record` is a file that gets every call as a JSON line. Raises
    ValueError, once entered, for `trouble` with an action that the API does not have.
    """

    def __init__(
        self,
        *,
        latency: str | Latency = "zero",
        source_omis: Mapping[str, Path] | None = None,
        record: Path | None = None,
        trouble: Trouble | None = None,
    ) -> None:
        self._latency = PRESETS[latency] if isinstance(latency, str) else latency
        self._source_omis = source_omis
        self._record_file = record
        self._trouble = trouble or Trouble()
        self._account = state.Account(
            account_id=f"{secrets.randbelow(10**12):012}",
            alias="localcloud",
            access_key="".join(secrets.choice(_KEY_LETTERS) for _ in range(20)),
            secret_key="".join(secrets.choice(_KEY_LETTERS) for _ in range(40)),
        )
        self._undo = ExitStack()
        self._loop = asyncio.new_event_loop()
        self._leftovers: list[str] | None = None

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self._loop.close)
            stream = None
            if self._record_file is not None:
                stream = undo.enter_context(open(self._record_file, "w", encoding="utf-8"))
            self._record = Record(clock=lambda: state.iso(state.now()), stream=stream)
            self._document = load_document()
            self._trouble.check_actions(self._document.actions)
            self._remains: Remains = register()
            undo.callback(self._remains.remove)
            self._disks = Disks(self._remains)
            self._config_file = self._remains.directory / "config.json"
            # osc-sdk-python lets the profile file win over the environment: give it an empty one.
            self._config_file.write_text(json.dumps({"default": {}}))
            sources = self._sources()
            thread = threading.Thread(target=self._loop.run_forever, name="localcloud", daemon=True)
            thread.start()
            undo.callback(thread.join)
            undo.callback(self._loop.call_soon_threadsafe, self._loop.stop)
            self._run(self._open(sources))
            undo.callback(lambda: self._run(self._close()))
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._undo:
            self._leftovers = self.leftovers()

    def _run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _read(self, read: Callable[[], _T]) -> _T:
        """Run `read` on the Region's thread."""

        async def coroutine() -> _T:
            return read()

        return self._run(coroutine())

    def _sources(self) -> Mapping[str, Path]:
        if self._source_omis is not None:
            return self._source_omis
        if not can_make_tiny_image():
            return {}
        return {TINY_IMAGE_ID: tiny_image(self._remains.directory / "tiny.raw")}

    async def _open(self, sources: Mapping[str, Path]) -> None:
        self._region = Region(
            account=self._account,
            disks=self._disks,
            latency=self._latency,
            record=self._record,
            trouble=self._trouble,
        )
        for image_id, file in sources.items():
            self._add_source(image_id, file)
        self._region.start(self._region.history.keep())
        checker = SignatureChecker(
            {self._account.access_key: self._account.secret_key},
            region=self._region.name,
            now=state.now,
            monotonic=time.monotonic,
        )
        server = ApiServer(
            self._region, document=self._document, checker=checker, record=self._record
        )
        self._runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, _HOST, 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://{_HOST}:{port}"

    def _add_source(self, image_id: str, file: Path) -> None:
        snapshot = state.Snapshot(
            snapshot_id=state.new_id("snap"),
            account_id=self._account.account_id,
            account_alias=self._account.alias,
            size=gibibytes(file.stat().st_size),
            description=f"root volume of {image_id}",
            state="completed",
            progress=100,
        )
        self._disks.adopt_snapshot(snapshot.snapshot_id, file)
        bsu = {
            "DeleteOnVmDeletion": True,
            "SnapshotId": snapshot.snapshot_id,
            "VolumeSize": snapshot.size,
            "VolumeType": "standard",
        }
        image = state.Image(
            image_id=image_id,
            account_id=self._account.account_id,
            account_alias=self._account.alias,
            name=f"source {image_id}",
            mappings=[{"Bsu": bsu, "DeviceName": assumptions.ROOT_DEVICE_NAME}],
            root_device_name=assumptions.ROOT_DEVICE_NAME,
            boot_modes=["legacy"],
            state="available",
        )
        self._region.snapshots[snapshot.snapshot_id] = snapshot
        self._region.images[image_id] = image
        self._region.source_ids |= {snapshot.snapshot_id, image_id}

    async def _close(self) -> None:
        await self._runner.cleanup()
        await self._region.close()

    # What others ask it

    def environment(self) -> dict[str, str]:
        """The variables that point clients at this Region."""
        return {
            "OSC_ACCESS_KEY": self._account.access_key,
            "OSC_SECRET_KEY": self._account.secret_key,
            "OSC_REGION": self._region.name,
            "OSC_ENDPOINT_API": f"{self.url}/api/v1",
            "OSC_CONFIG_FILE": str(self._config_file),
            "OSC_CHROOT_METADATA_URL": self.url,
        }

    def child_environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """`base` for a command that is to see this Region and no real one."""
        kept = {name: value for name, value in base.items() if not _names_a_cloud(name)}
        if getattr(sys, "frozen", False):
            # PyInstaller's start put the bundle's libraries here, and kept what was there before.
            kept.pop("LD_LIBRARY_PATH", None)
            if "LD_LIBRARY_PATH_ORIG" in kept:
                kept["LD_LIBRARY_PATH"] = kept.pop("LD_LIBRARY_PATH_ORIG")
        # A proxy does not reach this machine's loopback.
        for name in ("no_proxy", "NO_PROXY"):
            kept[name] = ",".join(part for part in (base.get(name, ""), _HOST) if part)
        return {**kept, **self.environment()}

    @property
    def defects(self) -> list[Defect]:
        """What callers did wrong, and faults of the localcloud itself. Complete when closed."""
        return self._record.defects

    @property
    def record(self) -> list[RecordedCall]:
        return self._record.calls

    @property
    def vm_id(self) -> str:
        return self._region.vm.vm_id

    @property
    def subregion(self) -> str:
        return self._region.vm.subregion

    def leftovers(self) -> list[str]:
        """What a caller left: volumes, links, snapshots of no OMI, mounts, processes in them.

        Also after closing.
        """
        if self._leftovers is not None:
            return list(self._leftovers)
        return self._read(self._find_leftovers)

    def _find_leftovers(self) -> list[str]:
        region = self._region
        found = []
        for volume in region.volumes.values():
            if volume.volume_id == region.root_volume_id or volume.state == "deleting":
                continue
            link = volume.link
            linked = f", {link.state} as {link.device_name}" if link is not None else ""
            found.append(f"volume {volume.volume_id} ({volume.state}{linked})")
        used = {key for image in region.images.values() for key in image.snapshot_ids()}
        for snapshot in region.snapshots.values():
            if snapshot.state == "deleting" or snapshot.snapshot_id in used | region.source_ids:
                continue
            found.append(f"snapshot {snapshot.snapshot_id} ({snapshot.state}) belongs to no OMI")
        found += [f"mount {path}" for path in self._remains.mounts()]
        found += [f"process {holder}" for holder in self._remains.holders()]
        return found

    def ended_at_start(self) -> list[str]:
        """Processes that were still in disks of localclouds that had been killed."""
        return [str(holder) for holder in self._remains.ended]

    def images(self) -> list[state.Image]:
        """The OMIs that callers made, oldest first."""
        return self._read(
            lambda: [
                image
                for image in self._region.images.values()
                if image.image_id not in self._region.source_ids
            ]
        )

    def snapshots(self) -> list[state.Snapshot]:
        """The snapshots that callers made, oldest first."""
        return self._read(
            lambda: [
                snapshot
                for snapshot in self._region.snapshots.values()
                if snapshot.snapshot_id not in self._region.source_ids
            ]
        )

    def root_image(self, image_id: str) -> Path:
        """The raw disk image of an OMI's root volume: read it, do not write to it."""
        root = self._read(lambda: self._region.images[image_id].root_snapshot_id())
        return self.snapshot_file(root)

    def snapshot_file(self, snapshot_id: str) -> Path:
        return self._disks.snapshot_file(snapshot_id)

    def volume_file(self, volume_id: str) -> Path:
        return self._disks.volume_file(volume_id)

    def export(self, image_id: str, file: Path) -> None:
        """Write an OMI's root volume as a raw disk image; replaces `file`."""
        part = file.with_name(f".{file.name}.part")
        part.unlink(missing_ok=True)
        try:
            copy_sparse(self.root_image(image_id), part)
            os.replace(part, file)
        finally:
            part.unlink(missing_ok=True)


_KEY_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def _names_a_cloud(variable: str) -> bool:
    if variable.startswith("OSC_CHROOT_"):
        return False
    return variable.startswith(("OSC_", "OUTSCALE_"))
