"""ClientToken: a creation that is asked for twice happens once."""

from packer_plugin_osc_chroot.localcloud.errors import ApiError
from packer_plugin_osc_chroot.localcloud.openapi import Json
from packer_plugin_osc_chroot.localcloud.region import Region
from packer_plugin_osc_chroot.localcloud.state import Account


def remembered_id(region: Region, account: Account, action: str, parameters: Json) -> str:
    """The resource that this token made before, empty when there is none.

    Raises ApiError when the token came with other parameters then.
    """
    token = parameters.get("ClientToken", "")
    before = region.client_tokens.get((account.account_id, action, token)) if token else None
    if before is None:
        return ""
    earlier, resource_id = before
    if resource_id not in region.volumes and resource_id not in region.snapshots:
        return ""
    if earlier != parameters:
        raise ApiError(
            "token-mismatch", f"The ClientToken {token} was used with other parameters before."
        )
    return resource_id


def remember_id(
    region: Region, account: Account, action: str, parameters: Json, *, resource_id: str
) -> None:
    token = parameters.get("ClientToken", "")
    if token:
        region.client_tokens[account.account_id, action, token] = (parameters, resource_id)
