"""What a build finds out before it makes anything: this host, this VM, the account, the source OMI.

Everything that can be known to fail is said here, while there is nothing to undo.
"""

import dataclasses
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.account import account_id_if_shown
from packer_plugin_osc_chroot.cloud.client import Cloud, is_forbidden
from packer_plugin_osc_chroot.cloud.metadata import Identity
from packer_plugin_osc_chroot.errors import BuildError, CloudError
from packer_plugin_osc_chroot.host.commands import PROGRAMS, find_program, package_of
from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.resources.image import SourceImage, images_named, parse_source
from packer_plugin_osc_chroot.resources.sharing import image_permissions, snapshot_permissions
from packer_plugin_osc_chroot.resources.snapshot import read_snapshot
from packer_plugin_osc_chroot.source import Wanted, find_source, wanted_by
from packer_plugin_osc_chroot.ui import Ui

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Facts:
    """What was found. `account_id` is empty where these credentials may not ask for it.

    There is no `source` where the build is from scratch.
    """

    identity: Identity
    region: str
    account_id: str
    source: SourceImage | None

    @property
    def foreign_source(self) -> SourceImage | None:
        """The source OMI where it is, or may be, another account's."""
        if self.source is None or self.source.account_id == self.account_id:
            return None
        return self.source


def check_host(config: Config, *, is_wrapped: bool) -> None:
    """Raises BuildError when this machine cannot build."""
    if not is_wrapped and os.geteuid() != 0:
        raise BuildError(
            "osc-chroot needs root to mount and chroot, and runs as a normal user",
            hint='Run packer as root, or set command_wrapper = "sudo {{.Command}}"',
        )
    for program in PROGRAMS:
        if find_program(program) is None:
            raise BuildError(
                f"the program {program} is not on this machine",
                hint=f"Install the package {package_of(program)}",
            )
    for name in config.files:
        check_copied(Path(name), is_wrapped=is_wrapped)


def check_copied(path: Path, *, is_wrapped: bool) -> None:
    """Raises BuildError where one of copy_files cannot be copied."""
    hint = "Remove it from copy_files; an empty list copies nothing"
    try:
        if stat.S_IFMT(os.stat(path).st_mode) in (stat.S_IFREG, stat.S_IFDIR):
            return
    except PermissionError:
        if is_wrapped:
            # The wrapper may see it.
            return
        problem = "may not be looked at"
    except OSError as error:
        problem = (error.strerror or "cannot be read").lower()
    else:
        problem = "is neither a file nor a folder"
    raise BuildError(f"copy_files: {path}: {problem}", hint=hint)


def look(
    cloud: Cloud,
    config: Config,
    identity: Identity,
    *,
    check_region: bool,
    token: CancelToken,
    ui: Ui,
) -> Facts:
    """Ask the API. The first call goes alone: wrong keys must not be tried several times over.

    `check_region`: the Region must be one that the API lists.
    """
    identity = _find_vm(cloud, identity, token=token)
    with _beside(token) as (pool, own):
        account = pool.submit(account_id_if_shown, cloud, token=own)
        image = None
        if wanted := wanted_source(config):
            image = pool.submit(find_source, cloud, wanted, account_id=account.result, token=own)
        named = pool.submit(lambda: images_named(cloud, config.omi_name, "", token=own))
        checks = [
            pool.submit(_check_permission, cloud, action, body, own)
            for action, body in _trials(config, identity).items()
        ]
        if check_region:
            checks.append(pool.submit(_check_region, cloud, own))
        source = None
        if image is not None:
            source = parse_source(image.result())
            if not source.size:
                source = _with_size(cloud, source, token=own)
        account_id = account.result()
        for former in _check_name(config, named.result(), account_id, ui=ui):
            checks.append(
                pool.submit(_check_permission, cloud, "DeleteImage", {"ImageId": former}, own)
            )
        for check in checks:
            check.result()
    if source is None:
        ui.message("Building from scratch, on an empty volume")
    else:
        ui.message(f'Source OMI: {source.image_id} "{source.name}", {source.size} GiB')
    return Facts(identity, cloud.region, account_id, source)


def _find_vm(cloud: Cloud, identity: Identity, *, token: CancelToken) -> Identity:
    """This VM as the API knows it, with its Subregion."""
    vm_id = identity.vm_id
    vm = cloud.one("ReadVms", "Vms", token=token, VmIds=[vm_id])
    if vm is None:
        raise BuildError(
            f"VM {vm_id} (this one) is not shown in Region {cloud.region} to these credentials",
            hint="Check region, and that access_key belongs to the account that owns this VM",
        )
    subregion = str((vm.get("Placement") or {}).get("SubregionName") or "")
    if not identity.subregion and not subregion:
        raise BuildError(
            f"subregion: the API does not tell in which Subregion VM {vm_id} is", hint="Set it"
        )
    if identity.subregion and subregion not in ("", identity.subregion):
        raise BuildError(
            f"subregion: VM {vm_id} (this one) is in {subregion}, expected {identity.subregion}",
            hint="Correct subregion or vm_id, or leave them out",
        )
    return Identity(vm_id, identity.subregion or subregion)


def wanted_source(config: Config) -> Wanted | None:
    """What OMI to look for; None for a build from scratch."""
    if config.from_scratch:
        return None
    chosen = config.source_omi_filter
    if chosen is None:
        return Wanted(config.source_omi)
    return wanted_by(chosen, image_id=config.source_omi)


def _with_size(cloud: Cloud, source: SourceImage, *, token: CancelToken) -> SourceImage:
    """For an OMI whose mapping does not tell its root's size: that of the snapshot."""
    snapshot = read_snapshot(cloud, source.snapshot_id, token=token)
    if snapshot is None:
        log.info("snapshot %s of the source is not shown", source.snapshot_id)
        return source
    return dataclasses.replace(source, size=int(snapshot.get("VolumeSize") or 0))


def _check_region(cloud: Cloud, token: CancelToken) -> None:
    regions = cloud.read("ReadRegions", token=token).get("Regions") or []
    known = sorted(str(region.get("RegionName")) for region in regions)
    if cloud.region not in known:
        raise BuildError(
            f"region: the API knows no Region {cloud.region}, but {', '.join(known) or 'none'}",
            hint="Correct region, or set skip_region_validation = true",
        )


@contextmanager
def _beside(token: CancelToken) -> Iterator[tuple[ThreadPoolExecutor, CancelToken]]:
    """Threads for the block, and the token for what they do: a failure of the block ends them all.

    The pool waits for its threads, and one of them may be repeating a call for minutes.
    """
    own = CancelToken()
    with (
        token.on_cancel(own.cancel),
        ThreadPoolExecutor(max_workers=8, thread_name_prefix="look") as pool,
    ):
        try:
            yield pool, own
        except BaseException:
            own.cancel()
            pool.shutdown(wait=False, cancel_futures=True)
            # Where the build was cancelled, that has its reason.
            token.check()
            raise


def _check_name(
    config: Config, images: list[Mapping[str, Any]], account_id: str, *, ui: Ui
) -> list[str]:
    """The ids of the account's OMIs that are in the way of the new name, which will be replaced.

    Raises BuildError where they are not to be, or where nobody knows whose they are.
    """
    name, ids = config.omi_name, ", ".join(str(image.get("ImageId")) for image in images)
    if images and not account_id:
        if config.replaces:
            raise BuildError(
                f'force_deregister: whether the OMI named "{name}" ({ids}) is this account\'s is not'
                " known: these credentials may not call ReadAccounts",
                hint="Ask the account's owner for that permission, or choose another omi_name",
            )
        ui.message(f'Cannot tell whether the OMI named "{name}" already ({ids}) is ours')
        return []
    own = [str(image["ImageId"]) for image in images if image.get("AccountId") == account_id]
    if own and not config.replaces:
        raise BuildError(
            f'omi_name: the account has an OMI named "{name}" already ({", ".join(own)})',
            hint="Choose another name, for example with {{timestamp}} in it, delete that OMI, or"
            " have it replaced with force_deregister = true",
        )
    for image_id in own:
        ui.message(f'OMI {image_id} is named "{name}" already, and will be replaced')
    return own


def _trials(config: Config, identity: Identity) -> Mapping[str, dict[str, Any]]:
    """Calls to be tried with DryRun. Only a clear refusal of permission says something."""
    trials: dict[str, dict[str, Any]] = {
        "CreateVolume": {
            "SubregionName": identity.subregion,
            "Size": config.root_volume_size or 10,
        },
        "CreateSnapshot": {"VolumeId": "vol-00000000"},
        "CreateImage": {"ImageName": config.omi_name},
    }
    if sharing := image_permissions(config):
        trials["UpdateImage"] = {
            "ImageId": "ami-00000000",
            "PermissionsToLaunch": sharing.additions(),
        }
    if sharing := snapshot_permissions(config):
        trials["UpdateSnapshot"] = {
            "SnapshotId": "snap-00000000",
            "PermissionsToCreateVolume": sharing.additions(),
        }
    return trials


def _check_permission(cloud: Cloud, action: str, body: dict[str, Any], token: CancelToken) -> None:
    """Keys and clock are good by now: what is refused here is a permission."""
    try:
        cloud.trial(action, token=token, **body)
    except CloudError as error:
        if is_forbidden(error):
            raise BuildError(
                f"these credentials may not call {action}, which a build needs",
                hint="Ask the account's owner for the permission",
                details=[error.message],
            ) from error
        log.info("DryRun of %s: %s", action, error)
