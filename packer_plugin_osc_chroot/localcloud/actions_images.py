"""The actions on OMIs."""

from packer_plugin_osc_chroot.localcloud import assumptions, filters
from packer_plugin_osc_chroot.localcloud.actions_volumes import check_volume_type
from packer_plugin_osc_chroot.localcloud.errors import ApiError
from packer_plugin_osc_chroot.localcloud.openapi import Json
from packer_plugin_osc_chroot.localcloud.permissions import update_permissions
from packer_plugin_osc_chroot.localcloud.region import Region
from packer_plugin_osc_chroot.localcloud.state import Account, Image, new_id


async def create_image(region: Region, account: Account, parameters: Json) -> Json:
    for name in ("FileLocation", "SourceImageId", "SourceRegionName", "VmId", "NoReboot"):
        if name in parameters:
            raise ApiError(
                "operation-not-supported",
                f"The localcloud registers OMIs from snapshots only, not with {name}.",
            )
    for name in ("ImageName", "BlockDeviceMappings", "RootDeviceName"):
        if not parameters.get(name):
            raise ApiError("missing-parameter", f"The parameter {name} is required.")
    name = parameters["ImageName"]
    _check_name(region, account, name)
    root = parameters["RootDeviceName"]
    if root != assumptions.ROOT_DEVICE_NAME:
        raise ApiError(
            "invalid-root-mapping",
            f"RootDeviceName is {root}: it must be {assumptions.ROOT_DEVICE_NAME}.",
        )
    architecture = parameters.get("Architecture", "x86_64")
    if architecture not in assumptions.ARCHITECTURES:
        known = " or ".join(assumptions.ARCHITECTURES)
        raise ApiError(
            "invalid-parameter-value", f"Architecture is {architecture}: it must be {known}."
        )
    image = Image(
        image_id=new_id("ami"),
        account_id=account.account_id,
        account_alias=account.alias,
        name=name,
        mappings=_mappings(region, account, parameters["BlockDeviceMappings"]),
        root_device_name=root,
        architecture=architecture,
        description=parameters.get("Description", ""),
        boot_modes=parameters.get("BootModes", ["legacy"]),
        tpm_mandatory=parameters.get("TpmMandatory", False),
    )
    if parameters.get("ProductCodes"):
        image.product_codes = parameters["ProductCodes"]
    region.images[image.image_id] = image
    region.start(region.transitions.make_image(image))
    return {"Image": image.view()}


def _check_name(region: Region, account: Account, name: str) -> None:
    if not assumptions.IMAGE_NAME.fullmatch(name):
        raise ApiError(
            "invalid-image-name",
            f"ImageName is {name!r}: it must have 3 to 128 alphanumeric characters, underscores,"
            " spaces, parentheses, slashes, periods or dashes.",
        )
    for image in region.images.values():
        if image.name == name and image.account_id == account.account_id:
            raise ApiError("duplicate-name", f"The OMI {image.image_id} has the name {name}.")


def _mappings(region: Region, account: Account, asked: list[Json]) -> list[Json]:
    found = [_mapping(region, account, mapping) for mapping in asked]
    names = [_disk_name(mapping["DeviceName"]) for mapping in found]
    for device_name in names:
        if names.count(device_name) > 1:
            raise ApiError("invalid-bdm", f"The device {device_name} is mapped more than once.")
    roots = [m for m in found if m["DeviceName"] == assumptions.ROOT_DEVICE_NAME]
    if not roots or not roots[0].get("Bsu", {}).get("SnapshotId"):
        raise ApiError(
            "invalid-root-mapping",
            f"The root device {assumptions.ROOT_DEVICE_NAME} must be mapped to a snapshot.",
        )
    return found


def _disk_name(device_name: str) -> str:
    return device_name.replace("/dev/sd", "/dev/xvd", 1)


def _mapping(region: Region, account: Account, asked: Json) -> Json:
    device_name = asked.get("DeviceName", "")
    root = device_name == assumptions.ROOT_DEVICE_NAME
    if not root and not assumptions.LINK_DEVICE_NAME.fullmatch(device_name):
        raise ApiError("invalid-device-name", f"DeviceName is {device_name!r} in a mapping.")
    if "VirtualDeviceName" in asked:
        virtual = asked["VirtualDeviceName"]
        if "Bsu" in asked or not assumptions.VIRTUAL_DEVICE_NAME.fullmatch(virtual):
            raise ApiError(
                "invalid-virtual-name",
                f"VirtualDeviceName is {virtual!r}: it must be ephemeralN, and go without Bsu.",
            )
        return {"DeviceName": device_name, "VirtualDeviceName": virtual}
    if "Bsu" not in asked:
        raise ApiError("invalid-bdm", f"The mapping of {device_name} has no Bsu.")
    return {"DeviceName": device_name, "Bsu": _bsu(region, account, asked["Bsu"], device_name)}


def _bsu(region: Region, account: Account, asked: Json, device_name: str) -> Json:
    found: Json = {
        "DeleteOnVmDeletion": asked.get("DeleteOnVmDeletion", True),
        "VolumeType": asked.get("VolumeType", "standard"),
    }
    check_volume_type(found["VolumeType"])
    least = 1
    if "SnapshotId" in asked:
        snapshot = region.snapshot(asked["SnapshotId"], account)
        if snapshot.state != "completed":
            raise ApiError(
                "invalid-state",
                f"The snapshot {snapshot.snapshot_id} is {snapshot.state}, not completed.",
            )
        least = snapshot.size
        found["SnapshotId"] = snapshot.snapshot_id
    elif "VolumeSize" not in asked:
        raise ApiError("invalid-bdm", f"The mapping of {device_name} has no size and no snapshot.")
    found["VolumeSize"] = asked.get("VolumeSize", least)
    if not least <= found["VolumeSize"] <= assumptions.MAX_VOLUME_SIZE_GIB:
        raise ApiError(
            "invalid-volume-size",
            f"VolumeSize of {device_name} is {found['VolumeSize']}: it must be between {least}"
            f" and {assumptions.MAX_VOLUME_SIZE_GIB} GiB.",
        )
    if "Iops" in asked:
        if found["VolumeType"] != "io1":
            raise ApiError("invalid-iops", f"Iops of {device_name} goes with io1 only.")
        found["Iops"] = asked["Iops"]
    return found


async def delete_image(region: Region, account: Account, parameters: Json) -> Json:
    image = region.image(parameters["ImageId"], account, own=True)
    del region.images[image.image_id]
    return {}


async def update_image(region: Region, account: Account, parameters: Json) -> Json:
    image = region.image(parameters["ImageId"], account, own=True)
    if "PermissionsToLaunch" in parameters:
        update_permissions(image.permissions, parameters["PermissionsToLaunch"])
    image.description = parameters.get("Description", image.description)
    image.product_codes = parameters.get("ProductCodes", image.product_codes)
    return {"Image": image.view()}


async def read_images(region: Region, account: Account, parameters: Json) -> Json:
    images_seen = region.history.seen().images.values()
    views = [image.view() for image in images_seen if region.may_use(image, account)]
    found = filters.select(views, parameters.get("Filters", {}), filters.IMAGES)
    images, following = filters.page(found, parameters)
    return {"Images": images, **following}
