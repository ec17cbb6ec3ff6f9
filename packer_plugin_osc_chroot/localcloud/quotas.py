"""Quotas: how much of each kind an account may have."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from packer_plugin_osc_chroot.localcloud import assumptions
from packer_plugin_osc_chroot.localcloud.errors import ApiError
from packer_plugin_osc_chroot.localcloud.openapi import Json


@dataclass(frozen=True)
class Quotas:
    """0 stands for no limit. `volumes_gib` is the sum of all volumes' sizes.

    `running_snapshots` are those that are not completed yet.
    """

    volumes: int = 0
    volumes_gib: int = 0
    snapshots: int = 0
    running_snapshots: int = 0

    def __post_init__(self) -> None:
        for each in fields(self):
            if getattr(self, each.name) < 0:
                raise ValueError(f"quota {each.name} is {getattr(self, each.name)}: 0 or more")


def check_quota(quotas: Quotas, used: Mapping[str, int], name: str, *, more: int = 1) -> None:
    """Raises ApiError where `more` would not fit."""
    limit: int = getattr(quotas, name)
    if limit and used[name] + more > limit:
        raise ApiError(
            assumptions.QUOTA_ERRORS[name],
            f"The quota of {name} of this account is {limit}, and {used[name]} are in use.",
        )


def quota_views(quotas: Quotas, used: Mapping[str, int], *, account_id: str) -> list[Json]:
    """In the document's shape."""
    return [
        {
            "AccountId": account_id,
            "Description": f"How many {each.name.replace('_', ' ')} the account may have.",
            "MaxValue": getattr(quotas, each.name),
            "Name": each.name,
            "QuotaCollection": assumptions.QUOTA_COLLECTION,
            "ShortDescription": each.name.replace("_", " "),
            "UsedValue": used[each.name],
        }
        for each in fields(quotas)
    ]
