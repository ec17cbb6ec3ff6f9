"""The actions on OMIs."""

from packer_plugin_osc_chroot.localcloud import assumptions, copying, filters
from packer_plugin_osc_chroot.localcloud.actions_volumes import check_volume_type, iops_of
from packer_plugin_osc_chroot.localcloud.errors import ApiError
from packer_plugin_osc_chroot.localcloud.openapi import Json
from packer_plugin_osc_chroot.localcloud.permissions import update_permissions
from packer_plugin_osc_chroot.localcloud.region import Region
from packer_plugin_osc_chroot.localcloud.state import Account, Image, new_id

_UNSUPPORTED = {
    "FileLocation": "The localcloud has no buckets to register an OMI from",
    "VmId": "The VM's root volume is this machine's own disk",
    "NoReboot": "The VM's root volume is this machine's own disk",
}
_OF_REGISTERING = ("Architecture", "BlockDeviceMappings", "RootDeviceName")


async def create_image(region: Region, account: Account, parameters: Json) -> Json:
    for name, why in _UNSUPPORTED.items():
        if name in parameters:
            raise ApiError("operation-not-supported", f"{why}: {name} is not simulated.")
    if not parameters.get("ImageName"):
        raise ApiError("missing-parameter", "The parameter ImageName is required.")
    _check_name(region, account, parameters["ImageName"])
    _check_codes_and_modes(parameters)
    copies = "SourceImageId" in parameters or "SourceRegionName" in parameters
    image = (_copied if copies else _registered)(region, account, parameters)
    image.description = parameters.get("Description", image.description)
    image.boot_modes = list(parameters.get("BootModes", image.boot_modes))
    image.product_codes = list(parameters.get("ProductCodes") or image.product_codes)
    image.tpm_mandatory = parameters.get("TpmMandatory", image.tpm_mandatory)
    region.images[image.image_id] = image
    region.start(region.transitions.make_image(image))
    return {"Image": image.view()}


def _check_codes_and_modes(parameters: Json) -> None:
    for name in ("BootModes", "ProductCodes"):
        values = parameters.get(name, [])
        if len(set(values)) < len(values) or "" in values:
            raise ApiError(
                "invalid-parameter-value", f"{name} has an empty value, or one more than once."
            )
    if parameters.get("BootModes") == []:
        raise ApiError("invalid-parameter-value", "BootModes is empty: leave it out, or name one.")


def _copied(region: Region, account: Account, parameters: Json) -> Image:
    for name in _OF_REGISTERING:
        if name in parameters:
            raise ApiError(
                "invalid-parameter-set",
                f"{name} goes with registering an OMI from a snapshot, not with copying one.",
            )
    source_id = copying.check_source(region, parameters, "SourceImageId")
    source = region.image(source_id, account)
    if source.state != "available":
        raise ApiError(
            "invalid-image-state", f"The OMI {source_id} is {source.state}, not available."
        )
    return Image(
        image_id=new_id("ami"),
        account_id=account.account_id,
        account_alias=account.alias,
        name=parameters["ImageName"],
        mappings=copying.copied_mappings(region, account, source_id),
        root_device_name=source.root_device_name,
        source_id=source_id,
        architecture=source.architecture,
        description=source.description,
        boot_modes=list(source.boot_modes),
        product_codes=list(source.product_codes),
        tpm_mandatory=source.tpm_mandatory,
    )


def _registered(region: Region, account: Account, parameters: Json) -> Image:
    for name in ("BlockDeviceMappings", "RootDeviceName"):
        if not parameters.get(name):
            raise ApiError("missing-parameter", f"The parameter {name} is required.")
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
    return Image(
        image_id=new_id("ami"),
        account_id=account.account_id,
        account_alias=account.alias,
        name=parameters["ImageName"],
        mappings=_mappings(region, account, parameters["BlockDeviceMappings"]),
        root_device_name=root,
        architecture=architecture,
        boot_modes=["legacy"],
    )


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
    iops = iops_of(asked, volume_type=found["VolumeType"], size=found["VolumeSize"])
    if found["VolumeType"] == "io1":
        found["Iops"] = iops
    return found


async def delete_image(region: Region, account: Account, parameters: Json) -> Json:
    image = region.image(parameters["ImageId"], account, own=True)
    del region.images[image.image_id]
    return {}


async def update_image(region: Region, account: Account, parameters: Json) -> Json:
    image = region.image(parameters["ImageId"], account, own=True)
    _check_codes_and_modes(parameters)
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
