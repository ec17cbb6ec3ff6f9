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
from packer_plugin_osc_chroot.cloud.client import Cloud, is_forbidden
from packer_plugin_osc_chroot.cloud.metadata import Identity
from packer_plugin_osc_chroot.errors import BuildError, CloudError
from packer_plugin_osc_chroot.host.commands import PROGRAMS, find_program, package_of
from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.resources.image import (
    SourceImage,
    images_named,
    parse_source,
    read_image,
)
from packer_plugin_osc_chroot.resources.snapshot import read_snapshot
from packer_plugin_osc_chroot.ui import Ui

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Facts:
    """What was found. `account_id` is empty where nothing needs it, or it may not be asked for."""

    identity: Identity
    region: str
    account_id: str
    source: SourceImage


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
        _check_file(Path(name), is_wrapped=is_wrapped)


def _check_file(path: Path, *, is_wrapped: bool) -> None:
    hint = "Remove it from copy_files; an empty list copies nothing"
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            return
    except PermissionError:
        if is_wrapped:
            # The wrapper may see it.
            return
        problem = "may not be looked at"
    except OSError as error:
        problem = (error.strerror or "cannot be read").lower()
    else:
        problem = "is not a file"
    raise BuildError(f"copy_files: {path}: {problem}", hint=hint)


def look(cloud: Cloud, config: Config, identity: Identity, *, token: CancelToken, ui: Ui) -> Facts:
    """Ask the API. The first call goes alone: wrong keys must not be tried several times over."""
    vm_id = identity.vm_id
    if cloud.one("ReadVms", "Vms", token=token, VmIds=[vm_id]) is None:
        raise BuildError(
            f"VM {vm_id} (this one) is not shown in Region {cloud.region} to these credentials",
            hint="Check region, and that access_key belongs to the account that owns this VM",
        )
    with _beside(token) as (pool, own):
        image = pool.submit(read_image, cloud, config.source_omi, token=own)
        named = pool.submit(lambda: images_named(cloud, config.omi_name, "", token=own))
        permitted = [
            pool.submit(_check_permission, cloud, action, body, own)
            for action, body in _trials(config, identity).items()
        ]
        found = image.result()
        if found is None:
            raise BuildError(
                f"source_omi {config.source_omi} does not exist in Region {cloud.region}, or these"
                " credentials may not use it",
                hint="Check the id; ids differ between Regions",
            )
        source = parse_source(found)
        if not source.size:
            source = _with_size(cloud, source, token=own)
        account_id = _account_id(cloud, own) if named.result() else ""
        _check_name_free(config.omi_name, named.result(), account_id, ui=ui)
        for check in permitted:
            check.result()
    ui.message(f'Source OMI: {source.image_id} "{source.name}", {source.size} GiB')
    return Facts(identity, cloud.region, account_id, source)


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


def _with_size(cloud: Cloud, source: SourceImage, *, token: CancelToken) -> SourceImage:
    """For an OMI whose mapping does not tell its root's size: that of the snapshot."""
    snapshot = read_snapshot(cloud, source.snapshot_id, token=token)
    if snapshot is None:
        log.info("snapshot %s of the source is not shown", source.snapshot_id)
        return source
    return dataclasses.replace(source, size=int(snapshot.get("VolumeSize") or 0))


def _account_id(cloud: Cloud, token: CancelToken) -> str:
    try:
        accounts = cloud.read("ReadAccounts", token=token).get("Accounts") or []
    except CloudError as error:
        # A user of the account may lack this one permission; a build does not depend on it.
        log.info("the account's id is not known: %s", error)
        return ""
    return str(accounts[0].get("AccountId", "")) if accounts else ""


def _check_name_free(
    name: str, images: list[Mapping[str, Any]], account_id: str, *, ui: Ui
) -> None:
    if images and not account_id:
        ids = ", ".join(str(image.get("ImageId")) for image in images)
        ui.message(f'Cannot tell whether the OMI named "{name}" already ({ids}) is ours')
        return
    for image in images:
        if image.get("AccountId") != account_id:
            continue
        raise BuildError(
            f'omi_name: the account has an OMI named "{name}" already ({image.get("ImageId")})',
            hint="Choose another name, for example with {{timestamp}} in it, or delete that OMI",
        )


def _trials(config: Config, identity: Identity) -> Mapping[str, dict[str, Any]]:
    """Calls to be tried with DryRun. Only a clear refusal of permission says something."""
    return {
        "CreateVolume": {
            "SubregionName": identity.subregion,
            "Size": config.root_volume_size or 10,
        },
        "CreateSnapshot": {"VolumeId": "vol-00000000"},
        "CreateImage": {"ImageName": config.omi_name},
    }


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
