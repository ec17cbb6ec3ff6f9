"""Undoes a dead build from its journal, in the order and with the code of a living one."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from packer_plugin_osc_chroot.cancel import UNDO_SECONDS, CancelToken, following
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.errors import BuildError, Cancelled, UndoError
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.disk import instance_of
from packer_plugin_osc_chroot.host.disk_search import find_again
from packer_plugin_osc_chroot.host.mounts import remove_dirs, unmount_root
from packer_plugin_osc_chroot.host.process import end_family
from packer_plugin_osc_chroot.host.procfs import BUILD_MARK, Family, command_line, read_process
from packer_plugin_osc_chroot.journal.dead import DeadJournal
from packer_plugin_osc_chroot.journal.effects import snapshots_in
from packer_plugin_osc_chroot.journal.story import Effect, Story
from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.resources.former_image import bring_back
from packer_plugin_osc_chroot.resources.image import find_by_snapshot, image_removal
from packer_plugin_osc_chroot.resources.link import undo_link
from packer_plugin_osc_chroot.resources.removal import Attempt, Removal
from packer_plugin_osc_chroot.resources.snapshot import snapshot_removal
from packer_plugin_osc_chroot.resources.source_volume import remove_copy
from packer_plugin_osc_chroot.resources.volume import volume_removal
from packer_plugin_osc_chroot.ui import Ui

log = logging.getLogger(__name__)

# No process has that pid, nor leads that session.
_NOBODY = -1

Step = Callable[[CancelToken], None]


def undo_journal(
    journal: DeadJournal,
    cloud: Cloud,
    *,
    host: Host,
    ui: Ui,
    token: CancelToken,
    seconds: float = UNDO_SECONDS,
) -> list[BuildError]:
    """Undo what it names, and remove it; it stays where something is left, or a cancel came between.

    What `undo_story` gives. Raises OSError.
    """
    failures = undo_story(journal.story, cloud, host=host, ui=ui, token=token, seconds=seconds)
    if not failures:
        journal.remove()
    elif not token.cancelled:
        journal.failed()
    return failures


def undo_story(
    story: Story,
    cloud: Cloud,
    *,
    host: Host,
    ui: Ui,
    token: CancelToken,
    seconds: float = UNDO_SECONDS,
) -> list[BuildError]:
    """Undo all of it whatever fails, each thing within `seconds`; each failure has been shown.

    A cancel ends it where it is, and is one more failure.
    """
    failures: list[BuildError] = []
    for step in _steps(story, cloud, host=host, ui=ui):
        if token.cancelled:
            failures.append(Cancelled(token.reason))
            break
        own = CancelToken(deadline=seconds, reason="undoing took too long")
        try:
            with following(token, own):
                step(own)
        except Exception as error:
            # A defect of ours too: it must neither keep the rest, nor stop each build to come.
            log.info("undoing: %s", error, exc_info=True)
            first = error if isinstance(error, BuildError) else BuildError(_said(error))
            for failure in (first, *first.not_undone):
                ui.error(f"Could not undo: {failure}")
                for line in failure.details:
                    ui.error(f"  {line}")
                failures.append(failure)
    return failures


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, OSError) else f"a defect of the plugin: {error!r}"


def _steps(story: Story, cloud: Cloud, *, host: Host, ui: Ui) -> Iterator[Step]:
    yield lambda token: _end_processes(story, host=host, ui=ui)
    for effect in story.of("CreateImage"):
        name, snapshot_id = effect.traces.get("ImageName", ""), effect.traces.get("SnapshotId", "")
        if source_id := effect.traces.get("SourceImageId"):
            copy = Attempt(resource_id=effect.resource_id, may_stand=True)
            yield partial(_remove_copy, cloud, source_id, name, copy, ui)
        else:
            image = image_removal(cloud, name, story.about.account_id, snapshot_id)
            yield partial(_remove, image, effect, ui)
    for former in story.former:
        # Once the name is free, and before the snapshots: nothing of these is among them.
        yield partial(_bring_back, cloud, former, ui)
    for effect in story.of("CreateSnapshot"):
        yield partial(_remove, snapshot_removal(cloud, _client_token(effect), ui=ui), effect, ui)
    yield lambda token: _unmount(story, host=host, ui=ui, token=token)
    # A volume was asked to be linked once for each name that was tried.
    for effect in {
        each.traces["VolumeId"]: each for each in reversed(story.of("LinkVolume"))
    }.values():
        yield partial(_unlink, story, effect, cloud, host, ui)
    for effect in story.of("CreateVolume"):
        yield partial(_remove, volume_removal(cloud, _client_token(effect), ui=ui), effect, ui)
    yield lambda token: _remove_dirs(story, host=host)


def _remove(removal: Removal, effect: Effect, ui: Ui, token: CancelToken) -> None:
    if not effect.resource_id and {"ClientToken", "ImageName"}.isdisjoint(effect.traces):
        # Looked for by nothing, it would be anybody's.
        log.warning("nothing tells what a call of %s made", effect.action)
        return
    removal.run(Attempt(resource_id=effect.resource_id, may_stand=True), ui=ui, token=token)


def _remove_copy(
    cloud: Cloud, source_id: str, name: str, copy: Attempt, ui: Ui, token: CancelToken
) -> None:
    remove_copy(cloud, source_id, name, copy, ui=ui, token=token)


def _bring_back(cloud: Cloud, image: Mapping[str, Any], ui: Ui, token: CancelToken) -> None:
    """Unless it is there: it had not gone, or has come back already."""
    name, account_id = str(image["ImageName"]), str(image.get("AccountId", ""))
    for snapshot_id in snapshots_in(image)[:1]:
        if find_by_snapshot(cloud, name, account_id, snapshot_id, token=token) is None:
            gone = Attempt(resource_id=str(image["ImageId"]), may_stand=True)
            bring_back(cloud, image, gone, ui=ui, token=token)


def _client_token(effect: Effect) -> str:
    return effect.traces.get("ClientToken", "")


def _end_processes(story: Story, *, host: Host, ui: Ui) -> None:
    """Commands that go on though the build is dead: what they do now nobody would undo."""
    if not story.is_of_this_boot:
        return
    over = threading.Event()
    over.set()
    for pid, started in story.processes:
        process = read_process(pid)
        if process is None or process.started != started or not process.alive:
            continue
        ui.message(f"Ending process {pid} {command_line(pid)}")
        end_family(Family(pid), kill=host.kill, exited=over)
    if not story.about.mark:
        return
    # One that was just being started when the build was killed: its pid was not written down yet.
    marked = Family(_NOBODY, mark=f"{BUILD_MARK}={story.about.mark}")
    for pid in marked.living():
        ui.message(f"Ending process {pid} {command_line(pid)}")
    end_family(marked, kill=host.kill, exited=over)


def _unmount(story: Story, *, host: Host, ui: Ui, token: CancelToken) -> None:
    mount = story.mounted()
    if mount is None or story.disk is None:
        return
    if instance_of(story.disk.path) not in (story.disk.instance, ""):
        # As where another disk has its name now. A mount stays where the disk was torn out.
        return
    ui.say(f"Unmounting {mount.point}...")
    unmount_root(host, mount.point, mount.device, ui=ui, hurry=True, token=token)


def _unlink(
    story: Story, effect: Effect, cloud: Cloud, host: Host, ui: Ui, token: CancelToken
) -> None:
    volume_id, name = effect.traces["VolumeId"], effect.traces.get("DeviceName", "")

    def unlink() -> None:
        undo_link(
            cloud,
            volume_id,
            vm_id=effect.traces.get("VmId", ""),
            name=name,
            disk=_disk(story, volume_id, name),
            host=host,
            timeout=Config.link_timeout,
            ui=ui,
            token=token,
        )

    try:
        unlink()
    except UndoError:
        # A mount that was under way when its build was killed may have come to its end only now.
        if story.mounted() is None:
            raise
        _unmount(story, host=host, ui=ui, token=token)
        unlink()


def _disk(story: Story, volume_id: str, api_name: str) -> Path | None:
    """The disk of the link, which must be free before it is unlinked."""
    if story.is_of_this_boot:
        return story.disk.path if story.disk and _disk_is_there(story) else None
    if story.disk is None:
        return None
    # It may have another node now, and somebody may have mounted it.
    return find_again(volume_id, api_name=api_name, size=story.disk.size)


def _disk_is_there(story: Story) -> bool:
    disk = story.disk
    return disk is not None and story.is_of_this_boot and instance_of(disk.path) == disk.instance


def _remove_dirs(story: Story, *, host: Host) -> None:
    if story.mount is not None:
        remove_dirs(host, story.mount.made)
