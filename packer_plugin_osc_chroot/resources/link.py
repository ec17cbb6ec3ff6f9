"""The volume's link to this VM: a free name picked under a lock shared by all builds here, the disk
found, and everything unlinked again, but never from under a mount."""

import fcntl
import logging
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.client import Cloud, is_ambiguous
from packer_plugin_osc_chroot.cloud.wait import insist, wait_for
from packer_plugin_osc_chroot.errors import BuildError, CloudError, UndoError
from packer_plugin_osc_chroot.host.disk import Disk, find_disk, free_names, mounts_of
from packer_plugin_osc_chroot.phases import undo_token
from packer_plugin_osc_chroot.resources.volume import read_volume
from packer_plugin_osc_chroot.ui import Ui

log = logging.getLogger(__name__)

# World-writable directories come with the sticky bit; /run/lock exists on every Debian and Red Hat.
_LOCK_DIRECTORIES = (Path("/run/lock"), Path("/var/lock"), Path("/tmp"))
_LOCK_NAME = "packer-plugin-osc-chroot.lock"
_LINK_SECONDS = 300.0
_SHOWN_SECONDS = 60.0


@contextmanager
def linked_volume(
    cloud: Cloud,
    volume_id: str,
    *,
    vm_id: str,
    device_path: str,
    size: int,
    token: CancelToken,
    ui: Ui,
) -> Iterator[Disk]:
    """The volume linked to this VM, as its disk; unlinked at the end.

    `device_path`, when set, is the only name tried. `size` in GiB.
    """
    ui.say("Linking the volume to this VM...")
    api_name = ""
    disk_path: Path | None = None
    try:
        api_name = _link(cloud, volume_id, vm_id=vm_id, device_path=device_path, token=token, ui=ui)
        wait_for(
            f"link of volume {volume_id}",
            lambda: read_volume(cloud, volume_id, token=token),
            target=("attached",),
            failed=("detaching", "detached"),
            state=lambda volume: _link_state(volume, vm_id),
            deadline=_LINK_SECONDS,
            token=token,
            ui=ui,
        )
        disk = find_disk(
            volume_id, api_name=api_name, device_path=device_path, size=size, token=token
        )
        disk_path = disk.path
        named = "" if str(disk.path) == api_name else f" (linked as {api_name})"
        ui.message(f"Disk: {disk.path}{named}")
        yield disk
    finally:
        undo = undo_token()
        try:
            _unlink(cloud, volume_id, vm_id=vm_id, disk_path=disk_path, token=undo, ui=ui)
        except BuildError as error:
            raise UndoError(
                f"volume {volume_id} stays linked to {vm_id} as {api_name}: {error.message}",
                left=(f"link of volume {volume_id} to VM {vm_id}",),
                hint=f"Unlink it: osc-cli api UnlinkVolume --VolumeId {volume_id}",
            ) from error


def _link(
    cloud: Cloud, volume_id: str, *, vm_id: str, device_path: str, token: CancelToken, ui: Ui
) -> str:
    """LinkVolume under a free name, until the API shows that name as taken. Returns the name."""
    refused: set[str] = set()
    while True:
        with _link_lock(token):
            taken = _mapped_names(cloud, vm_id, token=token)
            name = _pick(taken, refused, device_path)
            try:
                cloud.change(
                    "LinkVolume", token=token, VolumeId=volume_id, VmId=vm_id, DeviceName=name
                )
            except CloudError as error:
                if is_ambiguous(error) and _is_linked(cloud, volume_id, vm_id, token=token):
                    return name
                if error.status != 409 or device_path:
                    raise
                log.info("%s is taken, trying another name: %s", name, error)
                refused.add(name)
                continue
            wait_for(
                f"link of volume {volume_id} as {name}",
                lambda: read_volume(cloud, volume_id, token=token),
                target=("attaching", "attached"),
                state=lambda volume: _link_state(volume, vm_id),
                deadline=_SHOWN_SECONDS,
                token=token,
                ui=ui,
            )
            return name


def _pick(taken: Collection[str], refused: Collection[str], device_path: str) -> str:
    if device_path:
        return device_path
    name = next((name for name in free_names(taken) if name not in refused), None)
    if name is None:
        raise BuildError(
            "no device name is free on this VM (of /dev/xvdb to z, ba to bz)",
            hint="Unlink volumes that are not needed, or run fewer builds at a time",
        )
    return name


def _mapped_names(cloud: Cloud, vm_id: str, *, token: CancelToken) -> list[str]:
    vm = cloud.one("ReadVms", "Vms", token=token, VmIds=[vm_id])
    mappings = vm.get("BlockDeviceMappings") or [] if vm else []
    return [str(mapping.get("DeviceName", "")) for mapping in mappings]


def _link_state(volume: Mapping[str, Any], vm_id: str) -> str:
    for link in volume.get("LinkedVolumes") or ():
        if link.get("VmId") == vm_id:
            return str(link.get("State", ""))
    return ""


def _is_linked(cloud: Cloud, volume_id: str, vm_id: str, *, token: CancelToken) -> bool:
    volume = read_volume(cloud, volume_id, token=token)
    return volume is not None and _link_state(volume, vm_id) in ("attaching", "attached")


def _unlink(
    cloud: Cloud,
    volume_id: str,
    *,
    vm_id: str,
    disk_path: Path | None,
    token: CancelToken,
    ui: Ui,
) -> None:
    if disk_path is not None and (mounted := mounts_of(disk_path)):
        raise BuildError(f"{disk_path} is still mounted at {', '.join(mounted)}")
    volume = read_volume(cloud, volume_id, token=token)
    if volume is None or not volume.get("LinkedVolumes"):
        return
    ui.say(f"Unlinking volume {volume_id}...")
    insist(
        lambda: cloud.change("UnlinkVolume", token=token, VolumeId=volume_id),
        is_done=lambda: not _is_linked(cloud, volume_id, vm_id, token=token),
        token=token,
    )
    wait_for(
        f"unlinking of volume {volume_id}",
        lambda: read_volume(cloud, volume_id, token=token),
        target=("available", "gone"),
        failed=("error",),
        deadline=_LINK_SECONDS,
        token=token,
        ui=ui,
        missing_is="gone",
    )


@contextmanager
def _link_lock(token: CancelToken) -> Iterator[None]:
    """Held by one build of this VM at a time, whichever user or process it belongs to."""
    directory = next(path for path in _LOCK_DIRECTORIES if os.access(path, os.W_OK | os.X_OK))
    path = directory / _LOCK_NAME
    flags = os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        lock = os.open(path, flags, 0o644)
    except PermissionError:
        # Another user's file in a sticky directory cannot be opened with O_CREAT (protected_regular).
        lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise BuildError(
            f"lock file {path}: {error.strerror}", hint="Remove it if it is not a plain file"
        ) from error
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                token.sleep(0.05)
        yield
    finally:
        os.close(lock)
