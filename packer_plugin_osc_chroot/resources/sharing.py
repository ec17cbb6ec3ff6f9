"""Who else may use the new OMI and its snapshot: permissions, added in one call for each resource."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.client import Cloud, is_forbidden
from packer_plugin_osc_chroot.errors import CloudError
from packer_plugin_osc_chroot.options.config import Config

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Permissions:
    """Accounts by id, or everybody. False where there is nothing to permit."""

    account_ids: tuple[str, ...] = ()
    everybody: bool = False

    def __bool__(self) -> bool:
        return bool(self.account_ids) or self.everybody

    def additions(self) -> dict[str, Any]:
        """As the API takes them (PermissionsOnResourceCreation)."""
        added: dict[str, Any] = {}
        if self.account_ids:
            added["AccountIds"] = list(self.account_ids)
        if self.everybody:
            added["GlobalPermission"] = True
        return {"Additions": added}


def image_permissions(config: Config) -> Permissions:
    """Who is to launch VMs from the new OMI."""
    everybody = config.global_permission or "all" in config.omi_groups
    return Permissions(_once(config.omi_account_ids), everybody)


def snapshot_permissions(config: Config) -> Permissions:
    """Who is to create volumes from the new OMI's snapshot."""
    return Permissions(_once(config.snapshot_account_ids), "all" in config.snapshot_groups)


def _once(account_ids: tuple[str, ...]) -> tuple[str, ...]:
    # The API may refuse what is given twice, and that would be at the end of the build.
    return tuple(dict.fromkeys(account_ids))


def parse_permissions(shown: Mapping[str, Any] | None) -> Permissions:
    """What the API shows of a resource (PermissionsOnResource)."""
    shown = shown or {}
    return Permissions(
        account_ids=tuple(str(each) for each in shown.get("AccountIds") or ()),
        everybody=bool(shown.get("GlobalPermission")),
    )


def share_image(
    cloud: Cloud,
    image_id: str,
    permissions: Permissions,
    *,
    asked_by: str = "omi_account_ids, omi_groups, global_permission",
    token: CancelToken,
) -> None:
    """Let others launch VMs from the OMI. Raises CloudError naming the options that asked for it."""
    with _naming(asked_by):
        cloud.change(
            "UpdateImage",
            token=token,
            ImageId=image_id,
            PermissionsToLaunch=permissions.additions(),
        )


def share_snapshot(
    cloud: Cloud, snapshot_id: str, permissions: Permissions, *, token: CancelToken
) -> None:
    """Let others create volumes from the snapshot. Raises CloudError naming the options."""
    with _naming("snapshot_account_ids, snapshot_groups"):
        cloud.change(
            "UpdateSnapshot",
            token=token,
            SnapshotId=snapshot_id,
            PermissionsToCreateVolume=permissions.additions(),
        )


@contextmanager
def _naming(options: str) -> Iterator[None]:
    try:
        yield
    except CloudError as error:
        if options:
            error.message = f"{options}: {error.message}"
        raise


def taken_early(change: Callable[[], None]) -> bool:
    """Try a change of a resource that is still pending, so that it costs no time of its own.

    Whether the API takes that is not documented: False where it refuses, and it is to be tried
    again once the resource is complete. Raises CloudError for what waiting cannot help.
    """
    try:
        change()
    except CloudError as error:
        if not 400 <= error.status < 500 or is_forbidden(error):
            raise
        log.info("not before it is complete: %s", error)
        return False
    return True
