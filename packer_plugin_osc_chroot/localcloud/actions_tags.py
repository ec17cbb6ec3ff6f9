"""The actions on tags."""

from packer_plugin_osc_chroot.localcloud import assumptions, filters
from packer_plugin_osc_chroot.localcloud.errors import ApiError
from packer_plugin_osc_chroot.localcloud.history import Resources
from packer_plugin_osc_chroot.localcloud.openapi import Json
from packer_plugin_osc_chroot.localcloud.region import Region
from packer_plugin_osc_chroot.localcloud.state import Account, Image, Snapshot, Vm, Volume

_Tagged = Volume | Snapshot | Image | Vm


def _own(resources: Resources, account: Account) -> dict[str, tuple[str, _Tagged]]:
    """The account's own resources: their type's name and themselves by id."""
    found: dict[str, tuple[str, _Tagged]] = {resources.vm.vm_id: ("instance", resources.vm)}
    found |= {key: ("volume", volume) for key, volume in resources.volumes.items()}
    found |= {key: ("snapshot", snapshot) for key, snapshot in resources.snapshots.items()}
    found |= {key: ("image", image) for key, image in resources.images.items()}
    return {
        key: (kind, resource)
        for key, (kind, resource) in found.items()
        if resource.account_id == account.account_id
    }


def _tagged(region: Region, account: Account, parameters: Json) -> list[_Tagged]:
    own = _own(region.history.live, account)
    for resource_id in parameters["ResourceIds"]:
        if resource_id not in own:
            raise ApiError("no-such-resource", f"The resource {resource_id} does not exist.")
    return [own[resource_id][1] for resource_id in parameters["ResourceIds"]]


async def create_tags(region: Region, account: Account, parameters: Json) -> Json:
    resources = _tagged(region, account, parameters)
    for tag in parameters["Tags"]:
        if not 1 <= len(tag["Key"]) <= assumptions.MAX_TAG_LENGTH:
            raise ApiError("invalid-tag-key", f"The tag key {tag['Key']!r} is too long or empty.")
        if len(tag["Value"]) > assumptions.MAX_TAG_LENGTH:
            raise ApiError("invalid-tag-value-length", f"The value of {tag['Key']} is too long.")
    for resource in resources:
        resource.tags.update({tag["Key"]: tag["Value"] for tag in parameters["Tags"]})
    return {}


async def delete_tags(region: Region, account: Account, parameters: Json) -> Json:
    for resource in _tagged(region, account, parameters):
        for tag in parameters["Tags"]:
            if tag["Value"] in ("", resource.tags.get(tag["Key"])):
                resource.tags.pop(tag["Key"], None)
    return {}


async def read_tags(region: Region, account: Account, parameters: Json) -> Json:
    views = [
        {"Key": key, "Value": value, "ResourceId": resource_id, "ResourceType": kind}
        for resource_id, (kind, resource) in _own(region.history.seen(), account).items()
        for key, value in resource.tags.items()
    ]
    found = filters.select(views, parameters.get("Filters", {}), filters.TAGS)
    tags, following = filters.page(found, parameters)
    return {"Tags": tags, **following}
