"""The volume's link to this VM: a free name picked under a lock shared by all builds here, the disk
found, and everything unlinked again, but never from under a mount."""

import dataclasses
import logging
import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from packer_plugin_osc_chroot.cancel import CancelToken, undo_token
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.cloud.pace import Pace, Sign
from packer_plugin_osc_chroot.cloud.wait import SETTLE_SECONDS, insist, sent_once, wait_for
from packer_plugin_osc_chroot.errors import BuildError, Cancelled, CloudError, UndoError
from packer_plugin_osc_chroot.host import holders
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.device_names import VM_VOLUMES, free_names
from packer_plugin_osc_chroot.host.disk import (
    GIB,
    Disk,
    block_size,
    check_unused,
    disks,
    instance_of,
    is_claimed,
    mounts_of,
)
from packer_plugin_osc_chroot.host.disk_search import (
    UnprovedDisk,
    check_content,
    find_disk,
)
from packer_plugin_osc_chroot.host.link_lock import appearing, link_lock, own_disk
from packer_plugin_osc_chroot.host.rootfs import Files, LocalFiles
from packer_plugin_osc_chroot.host.uevents import disk_sign
from packer_plugin_osc_chroot.options.devices import letters
from packer_plugin_osc_chroot.resources.removal import Attempt
from packer_plugin_osc_chroot.resources.snapshot import pending_snapshot
from packer_plugin_osc_chroot.resources.volume import read_volume
from packer_plugin_osc_chroot.ui import Ui
from packer_plugin_osc_chroot.undoing import undoing

log = logging.getLogger(__name__)

_SHOWN_SECONDS = 60.0
# A link that takes less than that is waited for under the lock.
_QUICK_SECONDS = 0.08
_API_KNOWS_SECONDS = 0.03
# Seconds between two looks whether the disk is still in use, and before the user is told of it.
_FREE_EVERY = 0.1
_FREE_TELL = 10.0


@contextmanager
def linked_volume(
    cloud: Cloud,
    volume_id: str,
    *,
    vm_id: str,
    device_path: str,
    nvme_device_path: str = "",
    size: int,
    is_empty: bool = False,
    host: Host,
    timeout: float,
    token: CancelToken,
    ui: Ui,
) -> Iterator[Disk]:
    """The volume linked to this VM, as its disk; unlinked at the end.

    `device_path`, when set, is the only name tried. `size` in GiB, `timeout` in seconds. `is_empty`:
    the volume is new and has nothing on it.
    """
    ui.say("Linking the volume to this VM...")
    attempt = _Attempt(
        device_path=device_path, nvme_device_path=nvme_device_path, size=size, timeout=timeout
    )

    def undo() -> None:
        # Sent once a link may stand, whatever a read shows: it may be an old one.
        if attempt.may_stand:
            undo_link(
                cloud,
                volume_id,
                vm_id=vm_id,
                name=attempt.name,
                disk=attempt.disk_path,
                host=host,
                timeout=timeout,
                ui=ui,
                token=undo_token(),
            )

    with undoing(undo):
        try:
            disk = _linked_disk(
                cloud, volume_id, attempt, vm_id=vm_id, alone=False, token=token, ui=ui
            )
        except UnprovedDisk as error:
            ui.message(f"{error.message}: linking again, with no other build beside")
            _unlink(cloud, volume_id, vm_id=vm_id, timeout=timeout, token=token, ui=ui)
            attempt.may_stand = False
            disk = _linked_disk(
                cloud, volume_id, attempt, vm_id=vm_id, alone=True, token=token, ui=ui
            )
        with own_disk(disk.path, token=token, ui=ui):
            # Not before: the undoing waits until nothing has it.
            attempt.disk_path = disk.path
            check_unused(LocalFiles("/"), disk.path, token=token)
            check_content(host, disk, is_empty=is_empty, token=token)
            cloud.journal.disk(disk.path, instance_of(disk.path), size=size)
            named = "" if str(disk.path) == disk.api_name else f" (linked as {disk.api_name})"
            ui.message(f"Disk: {disk.path}{named}")
            yield disk


def undo_link(
    cloud: Cloud,
    volume_id: str,
    *,
    vm_id: str,
    name: str,
    disk: Path | None,
    host: Host,
    timeout: float,
    ui: Ui,
    token: CancelToken,
) -> None:
    """Unlink a volume, once nothing has its disk; `timeout` in seconds. Raises UndoError."""
    try:
        if disk is not None:
            _await_free(host, disk, token=token, ui=ui)
        _unlink(cloud, volume_id, vm_id=vm_id, disk=disk, timeout=timeout, token=token, ui=ui)
    except BuildError as error:
        raise UndoError(
            f"volume {volume_id} stays linked to {vm_id} as {name}: {error.message}",
            left=(f"link of volume {volume_id} to VM {vm_id}",),
            hint=f"Unlink it: osc-cli api UnlinkVolume --VolumeId {volume_id}",
        ) from error


@dataclasses.dataclass
class _Attempt(Attempt):
    """A link that is being made: the name last asked for and when, the disk once it is known."""

    device_path: str = ""
    nvme_device_path: str = ""
    size: int = 0
    timeout: float = 0.0
    name: str = ""
    sent: float = 0.0
    taken: Collection[str] = ()
    disks_before: Mapping[Path, str] = dataclasses.field(default_factory=dict)
    disk_path: Path | None = None


def _linked_disk(
    cloud: Cloud,
    volume_id: str,
    attempt: _Attempt,
    *,
    vm_id: str,
    alone: bool,
    token: CancelToken,
    ui: Ui,
) -> Disk:
    """Link and find the disk; `alone`: while no other build does. Raises UnprovedDisk."""
    with appearing(token, ui=ui, alone=alone) as others:
        with disk_sign(lambda: _is_there(attempt)) as sign:
            pace = _link(cloud, volume_id, attempt, vm_id=vm_id, sign=sign, token=token, ui=ui)
            if pace is not None:
                wait_for(
                    f"link of volume {volume_id}",
                    lambda: read_volume(cloud, volume_id, token=token),
                    target=("attached",),
                    failed=("detaching", "detached"),
                    state=lambda volume: _link_state(volume, vm_id),
                    deadline=attempt.timeout,
                    option="link_timeout",
                    token=token,
                    ui=ui,
                    pace=pace,
                )

        def is_alone() -> bool:
            """No other build here links, and whoever else uses the VM has linked nothing since."""
            return others.is_alone() and not (
                set(_mapped_names(cloud, vm_id, token=token)) - {*attempt.taken, attempt.name}
            )

        return find_disk(
            volume_id,
            api_name=attempt.name,
            nvme_device_path=attempt.nvme_device_path,
            size=attempt.size,
            before=attempt.disks_before,
            is_alone=is_alone,
            seconds=attempt.timeout - (time.monotonic() - attempt.sent),
            token=token,
        )


def _link(
    cloud: Cloud,
    volume_id: str,
    attempt: _Attempt,
    *,
    vm_id: str,
    sign: Sign,
    token: CancelToken,
    ui: Ui,
) -> Pace | None:
    """LinkVolume under a free name, until the API shows that name as taken.

    Returns the pace of what is still to be waited for; None where the volume is attached already.
    """
    refusals: dict[str, CloudError] = {}
    while True:
        with link_lock(token, ui=ui):
            attempt.taken = _mapped_names(cloud, vm_id, token=token)
            attempt.name = _pick(attempt.taken, refusals, attempt.device_path)
            attempt.disks_before = disks()
            attempt.sent = time.monotonic()
            try:
                with attempt.sending():
                    _send_link(cloud, volume_id, attempt.name, vm_id=vm_id, token=token)
            except CloudError as error:
                if len(attempt.taken) >= VM_VOLUMES:
                    raise _is_full(vm_id, attempt.taken) from error
                if attempt.device_path or not _is_about_the_name(error):
                    raise
                log.info("%s cannot be had, trying another name: %s", attempt.name, error)
                refusals[attempt.name] = error
                continue
            pace = cloud.pace("link", sign=sign)
            if pace.may_end_within(_QUICK_SECONDS) and sign(_QUICK_SECONDS, token):
                # Then one look is enough, once the API knows what the kernel does.
                token.sleep(_API_KNOWS_SECONDS)
            volume = wait_for(
                f"link of volume {volume_id} as {attempt.name}",
                lambda: read_volume(cloud, volume_id, token=token),
                target=("attaching", "attached"),
                state=lambda volume: _link_state(volume, vm_id),
                deadline=_SHOWN_SECONDS,
                token=token,
                ui=ui,
                pace=Pace(first=0.0),
            )
        if _link_state(volume, vm_id) != "attached":
            return pace
        pace.ended()
        return None


def _is_there(attempt: "_Attempt") -> bool:
    """Whether a disk by the link's own name is here: a sign, where `find_disk` proves."""
    x = letters(attempt.name)
    if not x:
        return False
    for name in (f"xvd{x}", f"disk/by-id/scsi-0QEMU_QEMU_HARDDISK_sd{x}"):
        node = Path(os.path.realpath(f"/dev/{name}"))
        if block_size(node) == attempt.size * GIB:
            return attempt.disks_before.get(node) != instance_of(node)
    return False


def _send_link(cloud: Cloud, volume_id: str, name: str, *, vm_id: str, token: CancelToken) -> None:
    def send() -> bool:
        cloud.change("LinkVolume", token=token, VolumeId=volume_id, VmId=vm_id, DeviceName=name)
        return True

    def find() -> bool | None:
        return True if _is_linked(cloud, volume_id, vm_id, token=token) else None

    sent_once(send, find, token=token)


def _is_about_the_name(error: CloudError) -> bool:
    """Device conflict, device in use, invalid device name (the SDK's table of the API's errors)."""
    return bool({"9003", "9004", "4019"} & set(error.codes))


def _pick(taken: Collection[str], refusals: Mapping[str, CloudError], device_path: str) -> str:
    if device_path:
        return device_path
    name = next((name for name in free_names(taken) if name not in refusals), None)
    if name is None and refusals:
        # Every name was refused: the API's words say more than ours.
        raise list(refusals.values())[-1]
    if name is None:
        raise BuildError(
            "no device name is free on this VM (of /dev/xvdb to z, ba to bz)",
            hint="Unlink volumes that are not needed, or run fewer builds at a time",
        )
    return name


def _is_full(vm_id: str, taken: Collection[str]) -> BuildError:
    return BuildError(
        f"VM {vm_id} (this one) holds {len(taken)} volumes, and no VM holds more than {VM_VOLUMES}",
        hint="Unlink volumes that are not needed, or run fewer builds at a time",
        details=[f"linked: {', '.join(sorted(taken))}"],
    )


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


def _await_free(host: Host, disk: Path, *, token: CancelToken, ui: Ui) -> None:
    """Wait until the kernel lets go of the disk. Raises BuildError where it cannot be unlinked.

    A filesystem that was unmounted may still be writing, when no table of mounts shows it any more; and
    a mount that outlived who asked for it is shown late.
    """
    begun = told = time.monotonic()
    with holders.machine_files(host) as files:
        while True:
            if mounted := mounts_of(disk):
                raise BuildError(f"{disk} is still mounted at {', '.join(mounted)}")
            try:
                if not _is_claimed(files, disk, token=token):
                    return
                token.sleep(_FREE_EVERY)
            except Cancelled:
                raise BuildError(
                    f"{disk} is still in use after {time.monotonic() - begun:.0f} s, though it is"
                    " not mounted here (a filesystem that still writes, a mount in another namespace,"
                    " swap, RAID, a volume group)"
                ) from None
            if time.monotonic() - told >= _FREE_TELL:
                told = time.monotonic()
                ui.message(f"{disk} is still in use: not unlinked yet ({told - begun:.0f} s)")


def _is_claimed(files: Files, disk: Path, *, token: CancelToken) -> bool:
    """Where the wrapper cannot start the helper, undoing does without: we look ourselves.

    A disk that we may not open counts as free then. It is not mounted here, and what kept the helper
    from starting kept the build from mounting it.
    """
    try:
        return is_claimed(files, disk, token=token)
    except Cancelled:
        raise
    except BuildError as error:
        log.info("whether %s is claimed: %s", disk, error)
        return is_claimed(LocalFiles("/"), disk, token=token)


def _unlink(
    cloud: Cloud,
    volume_id: str,
    *,
    vm_id: str,
    disk: Path | None = None,
    timeout: float,
    token: CancelToken,
    ui: Ui,
) -> None:
    ui.say(f"Unlinking volume {volume_id}...")
    gone_since: float | None = None

    def is_done() -> bool:
        nonlocal gone_since
        if _is_linked(cloud, volume_id, vm_id, token=token):
            gone_since = None
            return False
        gone_since = gone_since or time.monotonic()
        return time.monotonic() - gone_since > SETTLE_SECONDS

    insist(
        lambda: cloud.change("UnlinkVolume", token=token, VolumeId=volume_id),
        is_done=is_done,
        token=token,
        held_up=lambda: pending_snapshot(cloud, volume_id, token=token),
        tell=ui.message,
    )
    with disk_sign(lambda: disk is not None and block_size(disk) is None) as sign:
        wait_for(
            f"unlinking of volume {volume_id}",
            lambda: read_volume(cloud, volume_id, token=token),
            target=("available", "gone"),
            failed=("error",),
            deadline=timeout,
            option="link_timeout",
            token=token,
            ui=ui,
            missing_is="gone",
            pace=cloud.pace("unlink", sign=sign if disk is not None else None),
        )
