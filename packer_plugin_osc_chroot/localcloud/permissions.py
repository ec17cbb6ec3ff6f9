"""Changing who may use a snapshot or an OMI."""

from packer_plugin_osc_chroot.localcloud import assumptions
from packer_plugin_osc_chroot.localcloud.errors import ApiError
from packer_plugin_osc_chroot.localcloud.openapi import Json
from packer_plugin_osc_chroot.localcloud.state import Permissions


def update_permissions(permissions: Permissions, change: Json) -> None:
    """Apply `Additions` or `Removals`, of which exactly one is to be there."""
    if len(change) != 1:
        raise ApiError(
            "invalid-parameter-set", "Exactly one of Additions and Removals is to be given."
        )
    for asked in change.values():
        for account_id in asked.get("AccountIds", []):
            if not assumptions.ACCOUNT_ID.fullmatch(account_id):
                raise ApiError(
                    "invalid-parameter-value", f"{account_id!r} is no account id: 12 digits."
                )
    additions, removals = change.get("Additions", {}), change.get("Removals", {})
    permissions.account_ids = [
        account_id
        for account_id in dict.fromkeys(
            [*permissions.account_ids, *additions.get("AccountIds", [])]
        )
        if account_id not in removals.get("AccountIds", [])
    ]
    if additions.get("GlobalPermission"):
        permissions.everybody = True
    if removals.get("GlobalPermission"):
        permissions.everybody = False
