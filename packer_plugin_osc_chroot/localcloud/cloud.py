"""A running localcloud: one Region with its server, in a thread of this process.

All that it made on the machine is gone when the `with` block ends, whatever is left in the Region.
"""

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from aiohttp import web

from packer_plugin_osc_chroot.journal.directory import STATE_VARIABLE
from packer_plugin_osc_chroot.localcloud import control, saved, state
from packer_plugin_osc_chroot.localcloud.add_source import Source, add_source
from packer_plugin_osc_chroot.localcloud.attacher import Attacher
from packer_plugin_osc_chroot.localcloud.catalogue import AccountEntry, Catalogue, OmiEntry
from packer_plugin_osc_chroot.localcloud.critical_path import Step, critical_path
from packer_plugin_osc_chroot.localcloud.disks import Disks
from packer_plugin_osc_chroot.localcloud.files import GIB, replace_sparse
from packer_plugin_osc_chroot.localcloud.images import (
    TINY_IMAGE_ID,
    can_make_tiny_image,
    tiny_image,
)
from packer_plugin_osc_chroot.localcloud.inventory import Inventory, take_inventory
from packer_plugin_osc_chroot.localcloud.keeper import Keeper, bring_back
from packer_plugin_osc_chroot.localcloud.latency import PRESETS, Latency
from packer_plugin_osc_chroot.localcloud.loop_disks import LoopAttacher
from packer_plugin_osc_chroot.localcloud.nodes import Style
from packer_plugin_osc_chroot.localcloud.openapi import load_document
from packer_plugin_osc_chroot.localcloud.record import Defect, Record, RecordedCall, Transition
from packer_plugin_osc_chroot.localcloud.record_file import RecordFile
from packer_plugin_osc_chroot.localcloud.region import Region
from packer_plugin_osc_chroot.localcloud.remains import Remains, register
from packer_plugin_osc_chroot.localcloud.saved import Saved
from packer_plugin_osc_chroot.localcloud.server import ApiServer
from packer_plugin_osc_chroot.localcloud.signature import SignatureChecker
from packer_plugin_osc_chroot.localcloud.sources import open_source
from packer_plugin_osc_chroot.localcloud.tools import go_on
from packer_plugin_osc_chroot.localcloud.trouble import Trouble, load_trouble
from packer_plugin_osc_chroot.localcloud.trouble_watch import follow

_T = TypeVar("_T")
_HOST = "127.0.0.1"


class LocalCloud:
    """`source_omis` maps OMI ids to what `sources.py` takes; `catalogue` says more, and has more.

    With neither there is a tiny OMI; an empty one of either has none. Linking volumes needs root, and
    so does `own_disk`, which makes the VM's own disk on this machine; `nodes.py` has what `disks` are.
    With `attacher` another machine is the VM, and linked volumes appear there.
    `trouble` may be a file, which is followed: `tell` gets a line each time it is read again, and
    one for whatever of `state` could not be had back, or where `record` cannot be written on.
    `record` is a file that gets every call as a JSON line. What `check` raises, which is called now
    and then, ends the making of images of `source_omis`. Raises SourceError and StateError, and
    ValueError, once entered, for `trouble` with an action that the API does not have.
    """

    def __init__(
        self,
        *,
        latency: str | Latency = "zero",
        source_omis: Mapping[str, Path] | None = None,
        record: Path | None = None,
        trouble: Trouble | Path | None = None,
        catalogue: Catalogue | None = None,
        state: Path | None = None,
        https: bool = False,
        disks: Style = "xvd",
        own_disk: bool = False,
        attacher: Attacher | None = None,
        tell: Callable[[str], None] = lambda text: None,
        check: Callable[[], None] = go_on,
    ) -> None:
        self._latency = PRESETS[latency] if isinstance(latency, str) else latency
        self._catalogue = _catalogue(catalogue, source_omis)
        self._record_file = record
        self._trouble_file = trouble if isinstance(trouble, Path) else None
        self._trouble = trouble if isinstance(trouble, Trouble) else Trouble()
        self._tell = tell
        self._check = check
        self._state = Path(os.path.realpath(state)) if state is not None else None
        self._https = https
        self._style = disks
        self._own_disk = own_disk
        self._attacher = attacher
        self._authorities: Path | None = None
        self._undo = ExitStack()
        self._loop = asyncio.new_event_loop()
        self._inventory: Inventory | None = None

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self._loop.close)
            before = None
            if self._state is not None:
                undo.enter_context(saved.opened(self._state))
                before = saved.read(self._state)
            entries = (self._catalogue or Catalogue()).accounts
            self._accounts = before.accounts if before else [_account(entry) for entry in entries]
            self._account = self._accounts[0]
            self._record = Record(clock=lambda: state.iso(state.now()))
            if self._record_file is not None:
                lines = RecordFile(self._record_file, tell=self._tell)
                undo.callback(lines.close)
                self._record.write = lines.write
            self._document = load_document()
            if self._trouble_file is not None:
                actions = self._document.actions
                self._trouble = load_trouble(self._trouble_file, actions=actions)
            self._trouble.check_actions(self._document.actions)
            self._remains: Remains = register(data=self._state)
            undo.callback(self._remains.remove)
            self._disks = Disks(self._remains.data)
            self._config_file = self._remains.directory / "config.json"
            # osc-sdk-python lets the profile file win over the environment: give it an empty one.
            self._config_file.write_text(json.dumps({"default": {}}))
            sources = self._sources() if before is None else []
            thread = threading.Thread(target=self._loop.run_forever, name="localcloud", daemon=True)
            thread.start()
            undo.callback(thread.join)
            undo.callback(self._loop.call_soon_threadsafe, self._loop.stop)
            self._run(self._open(sources, before))
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
            self._inventory = self.inventory()

    def _run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _read(self, read: Callable[[], _T]) -> _T:
        """Run `read` on the Region's thread."""

        async def coroutine() -> _T:
            return read()

        return self._run(coroutine())

    def _sources(self) -> list[Source]:
        scratch = self._remains.directory
        if self._catalogue is not None:
            return [
                Source(omi, open_source(omi.path, scratch=scratch, name=omi.id, check=self._check))
                for omi in self._catalogue.omis
            ]
        if not can_make_tiny_image():
            return []
        tiny = tiny_image(scratch / "tiny.raw")
        return [Source(OmiEntry(id=TINY_IMAGE_ID, file=str(tiny)), tiny)]

    async def _open(self, sources: Sequence[Source], before: Saved | None) -> None:
        here = LoopAttacher(self._remains, style=self._style)
        self._region = Region(
            accounts=self._accounts,
            disks=self._disks,
            attacher=self._attacher or here,
            latency=self._latency,
            record=self._record,
            trouble=self._trouble,
            before=before,
        )
        for lost in bring_back(self._region, before) if before is not None else ():
            self._tell(f"not brought back: {lost}")
        for source in sources:
            add_source(self._region, source, scratch=self._remains.directory)
        if self._state is not None:
            self._region.write = Keeper(self._region, self._state).write
            await self._region.write()
        if self._own_disk:
            size = self._region.volumes[self._region.root_volume_id].size * GIB
            await self._region.on_disk(here.make_own_disk, size)
        self._region.start(self._region.history.keep())
        if self._trouble_file is not None:
            following = follow(
                self._trouble_file,
                actions=self._document.actions,
                changed=self._region.set_trouble,
                tell=self._tell,
            )
            self._region.start(following)
        checker = SignatureChecker(
            {each.access_key: each.secret_key for each in self._accounts},
            region=self._region.name,
            now=state.now,
            monotonic=time.monotonic,
        )
        server = ApiServer(
            self._region, document=self._document, checker=checker, record=self._record
        )
        self._runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        # The VM's metadata are never served over TLS, so this is there in any case.
        await web.TCPSite(self._runner, _HOST, 0).start()
        self._metadata_url = self.url = f"http://{_HOST}:{self._runner.addresses[0][1]}"
        if self._https:
            # Imported here: it is large, and hardly ever wanted.
            from packer_plugin_osc_chroot.localcloud.certificate import server_context

            context, self._authorities = server_context(self._remains.directory, host=_HOST)
            await web.TCPSite(self._runner, _HOST, 0, ssl_context=context).start()
            self.url = f"https://{_HOST}:{self._runner.addresses[1][1]}"
        self._control = await control.listen(
            self._remains.directory,
            {
                "about": lambda _: self._about(),
                "environment": lambda _: self.environment(),
                "inventory": lambda _: asdict(self._take_inventory()),
                "root-image": lambda image_id: {"file": str(self._root_file(image_id))},
            },
        )

    async def _close(self) -> None:
        await self._control.cleanup()
        await self._runner.cleanup()
        await self._region.close()

    # What others ask it

    def environment(self) -> dict[str, str]:
        """The variables that point clients at this Region."""
        variables = {
            "OSC_ACCESS_KEY": self._account.access_key,
            "OSC_SECRET_KEY": self._account.secret_key,
            "OSC_REGION": self._region.name,
            "OSC_ENDPOINT_API": f"{self.url}/api/v1",
            "OSC_CONFIG_FILE": str(self._config_file),
            "OSC_CHROOT_METADATA_URL": self._metadata_url,
            # What builds here leave is no matter of a real Region, and goes with this one.
            STATE_VARIABLE: str((self._state or self._remains.directory) / "journals"),
        }
        if self._authorities is not None:
            # Of Python's requests; of OpenSSL, curl and Go.
            for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"):
                variables[name] = str(self._authorities)
        return variables

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
        """Of the calls that only read, the newest few thousand."""
        return self._record.calls

    @property
    def calls_made(self) -> int:
        return self._record.calls_made

    def critical_path(self, image_id: str) -> list[Step]:
        """What an OMI's making could not have been quicker than; empty where none was made."""
        return critical_path(self._record.calls, self._record.transitions, image_id)

    @property
    def transitions(self) -> list[Transition]:
        return self._record.transitions

    def set_trouble(self, trouble: Trouble) -> None:
        """From now on. Raises ValueError for trouble with an action that the API does not have."""
        trouble.check_actions(self._document.actions)
        self._read(lambda: self._region.set_trouble(trouble))

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
        return list(self.inventory().left_over)

    def inventory(self) -> Inventory:
        """What exists in the Region. Also after closing: what existed then."""
        return self._inventory or self._read(self._take_inventory)

    def _take_inventory(self) -> Inventory:
        on_machine = [f"mount {path}" for path in self._remains.mounts()]
        on_machine += [f"process {holder}" for holder in self._remains.holders()]
        return take_inventory(self._region, on_machine=on_machine)

    def _about(self) -> dict[str, Any]:
        directory = self._state or self._remains.directory
        return {"url": self.url, "pid": os.getpid(), "directory": str(directory)}

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
        """The raw disk image of an OMI's root volume: read it, do not write to it.

        Raises LookupError for an OMI that does not exist, or has no data yet.
        """
        return self._read(lambda: self._root_file(image_id))

    def _root_file(self, image_id: str) -> Path:
        image = self._region.images.get(image_id)
        if image is None:
            raise LookupError(f"there is no OMI {image_id}")
        file = self._disks.snapshot_file(image.root_snapshot_id())
        if not file.exists():
            raise LookupError(f"the data of OMI {image_id} is not there: it is {image.state}")
        return file

    def snapshot_file(self, snapshot_id: str) -> Path:
        return self._disks.snapshot_file(snapshot_id)

    def volume_file(self, volume_id: str) -> Path:
        return self._disks.volume_file(volume_id)

    def export(self, image_id: str, file: Path) -> None:
        """Write an OMI's root volume as a raw disk image; replaces `file`."""
        replace_sparse(self.root_image(image_id), file)


def _catalogue(
    catalogue: Catalogue | None, source_omis: Mapping[str, Path] | None
) -> Catalogue | None:
    """Both in one; None where neither was given."""
    if source_omis is None:
        return catalogue
    more = [OmiEntry(id=key, file=str(file)) for key, file in source_omis.items()]
    found = catalogue or Catalogue()
    return replace(found, omis=[*found.omis, *more])


def _account(entry: AccountEntry) -> state.Account:
    return state.Account(
        account_id=entry.id or state.new_account_id(),
        alias=entry.alias,
        access_key=entry.access_key or state.new_key(20),
        secret_key=entry.secret_key or state.new_key(40),
        quotas=entry.quotas,
    )


def _names_a_cloud(variable: str) -> bool:
    if variable.startswith("OSC_CHROOT_"):
        return False
    return variable.startswith(("OSC_", "OUTSCALE_"))
