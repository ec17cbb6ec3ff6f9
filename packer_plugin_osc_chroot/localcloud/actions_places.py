"""The actions that tell where one is: the VM, the account, the Region and its Subregions."""

from packer_plugin_osc_chroot.localcloud import assumptions, filters
from packer_plugin_osc_chroot.localcloud.openapi import Json
from packer_plugin_osc_chroot.localcloud.quotas import quota_views
from packer_plugin_osc_chroot.localcloud.region import Region
from packer_plugin_osc_chroot.localcloud.state import Account


async def read_vms(region: Region, account: Account, parameters: Json) -> Json:
    seen = region.history.seen()
    views = []
    if seen.vm.account_id == account.account_id:
        views.append(seen.vm.view(seen.linked_volumes()))
    found = filters.select(views, parameters.get("Filters", {}), filters.VMS)
    vms, following = filters.page(found, parameters)
    return {"Vms": vms, **following}


async def read_vms_state(region: Region, account: Account, parameters: Json) -> Json:
    seen = region.history.seen()
    views: list[Json] = []
    if seen.vm.account_id == account.account_id:
        views.append(
            {
                "MaintenanceEvents": [],
                "SubregionName": seen.vm.subregion,
                "VmId": seen.vm.vm_id,
                "VmState": assumptions.VM_STATE,
            }
        )
    found = filters.select(views, parameters.get("Filters", {}), filters.VM_STATES)
    states, following = filters.page(found, parameters)
    return {"VmStates": states, **following}


async def read_accounts(region: Region, account: Account, parameters: Json) -> Json:
    return {"Accounts": [account.view()]}


async def read_quotas(region: Region, account: Account, parameters: Json) -> Json:
    views = quota_views(account.quotas, region.used(account), account_id=account.account_id)
    asked = dict(parameters.get("Filters", {}))
    if not {"global"} & set(asked.pop("QuotaTypes", ["global"])):
        return {"QuotaTypes": []}
    found = filters.select(views, asked, filters.QUOTAS)
    quotas, following = filters.page(found, parameters)
    return {"QuotaTypes": [{"QuotaType": "global", "Quotas": quotas}], **following}


async def read_regions(region: Region, account: Account | None, parameters: Json) -> Json:
    endpoint = f"api.{region.name}.outscale.com"
    return {"Regions": [{"RegionName": region.name, "Endpoint": endpoint}]}


async def read_subregions(region: Region, account: Account, parameters: Json) -> Json:
    views: list[Json] = [
        {
            "RegionName": region.name,
            "SubregionName": name,
            "State": "available",
            "LocationCode": code,
        }
        for name, code in zip(region.subregions, assumptions.LOCATION_CODES, strict=True)
    ]
    found = filters.select(views, parameters.get("Filters", {}), filters.SUBREGIONS)
    subregions, following = filters.page(found, parameters)
    return {"Subregions": subregions, **following}
