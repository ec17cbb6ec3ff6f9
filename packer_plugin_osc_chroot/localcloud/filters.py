"""The filters and pages of the Read… actions.

A filter is a path into the answer's own shape, so that what is filtered by is what is shown.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from packer_plugin_osc_chroot.localcloud import assumptions
from packer_plugin_osc_chroot.localcloud.errors import ApiError
from packer_plugin_osc_chroot.localcloud.openapi import Json

# A filter of the document: the path of what it is compared with. An empty path is something that
# nothing in this Region has, and matches nothing; `=VALUE` is the same for all, as the document says.
Paths = Mapping[str, str]

_SAME_FOR_ALL = "="
# Of a tag: KEY=VALUE.
_TAGS: Paths = {"TagKeys": "Tags.Key", "TagValues": "Tags.Value", "Tags": "Tags.#"}

VOLUMES: Paths = {
    **_TAGS,
    "ClientTokens": "ClientToken",
    "CreationDates": "CreationDate",
    "LinkVolumeDeleteOnVmDeletion": "LinkedVolumes.DeleteOnVmDeletion",
    "LinkVolumeDeviceNames": "LinkedVolumes.DeviceName",
    "LinkVolumeLinkDates": "",
    "LinkVolumeLinkStates": "LinkedVolumes.State",
    "LinkVolumeVmIds": "LinkedVolumes.VmId",
    "SnapshotIds": "SnapshotId",
    "SubregionNames": "SubregionName",
    "VolumeIds": "VolumeId",
    "VolumeSizes": "Size",
    "VolumeStates": "State",
    "VolumeTypes": "VolumeType",
}

SNAPSHOTS: Paths = {
    **_TAGS,
    "AccountAliases": "AccountAlias",
    "AccountIds": "AccountId",
    "ClientTokens": "ClientToken",
    "Descriptions": "Description",
    "FromCreationDate": "CreationDate",
    "PermissionsToCreateVolumeAccountIds": "PermissionsToCreateVolume.AccountIds",
    "PermissionsToCreateVolumeGlobalPermission": "PermissionsToCreateVolume.GlobalPermission",
    "Progresses": "Progress",
    "SnapshotIds": "SnapshotId",
    "States": "State",
    "ToCreationDate": "CreationDate",
    "VolumeIds": "VolumeId",
    "VolumeSizes": "VolumeSize",
}

IMAGES: Paths = {
    **_TAGS,
    "AccountAliases": "AccountAlias",
    "AccountIds": "AccountId",
    "Architectures": "Architecture",
    "BlockDeviceMappingDeleteOnVmDeletion": "BlockDeviceMappings.Bsu.DeleteOnVmDeletion",
    "BlockDeviceMappingDeviceNames": "BlockDeviceMappings.DeviceName",
    "BlockDeviceMappingSnapshotIds": "BlockDeviceMappings.Bsu.SnapshotId",
    "BlockDeviceMappingVolumeSizes": "BlockDeviceMappings.Bsu.VolumeSize",
    "BlockDeviceMappingVolumeTypes": "BlockDeviceMappings.Bsu.VolumeType",
    "BootModes": "BootModes",
    "Descriptions": "Description",
    "FileLocations": "FileLocation",
    "Hypervisors": "=xen",
    "ImageIds": "ImageId",
    "ImageNames": "ImageName",
    "PermissionsToLaunchAccountIds": "PermissionsToLaunch.AccountIds",
    "PermissionsToLaunchGlobalPermission": "PermissionsToLaunch.GlobalPermission",
    "ProductCodeNames": "",
    "ProductCodes": "ProductCodes",
    "RootDeviceNames": "RootDeviceName",
    "RootDeviceTypes": "RootDeviceType",
    "SecureBoot": "SecureBoot",
    "States": "State",
    "TpmMandatory": "TpmMandatory",
    "VirtualizationTypes": "=hvm",
}

VMS: Paths = {
    **_TAGS,
    "Architectures": "Architecture",
    "BlockDeviceMappingDeleteOnVmDeletion": "BlockDeviceMappings.Bsu.DeleteOnVmDeletion",
    "BlockDeviceMappingDeviceNames": "BlockDeviceMappings.DeviceName",
    "BlockDeviceMappingLinkDates": "BlockDeviceMappings.Bsu.LinkDate",
    "BlockDeviceMappingStates": "BlockDeviceMappings.Bsu.State",
    "BlockDeviceMappingVolumeIds": "BlockDeviceMappings.Bsu.VolumeId",
    "BootModes": "BootMode",
    "CreationDates": "CreationDate",
    "ImageIds": "ImageId",
    "IsSourceDestChecked": "IsSourceDestChecked",
    "LaunchNumbers": "LaunchNumber",
    "PrivateIps": "PrivateIp",
    "ProductCodes": "ProductCodes",
    "ReservationIds": "ReservationId",
    "RootDeviceNames": "RootDeviceName",
    "RootDeviceTypes": "RootDeviceType",
    "SubregionNames": "Placement.SubregionName",
    "Tenancies": "Placement.Tenancy",
    "VmIds": "VmId",
    "VmStateNames": "State",
    "VmTypes": "VmType",
}

VM_STATES: Paths = {
    "MaintenanceEventCodes": "MaintenanceEvents.Code",
    "MaintenanceEventDescriptions": "MaintenanceEvents.Description",
    "MaintenanceEventsNotAfter": "MaintenanceEvents.NotAfter",
    "MaintenanceEventsNotBefore": "MaintenanceEvents.NotBefore",
    "SubregionNames": "SubregionName",
    "VmIds": "VmId",
    "VmStates": "VmState",
}

VOLUME_UPDATES: Paths = {"TaskIds": "TaskId", "VolumeIds": "VolumeId"}

QUOTAS: Paths = {
    "Collections": "QuotaCollection",
    "QuotaNames": "Name",
    "ShortDescriptions": "ShortDescription",
}

SUBREGIONS: Paths = {
    "RegionNames": "RegionName",
    "States": "State",
    "SubregionNames": "SubregionName",
}

TAGS: Paths = {
    "Keys": "Key",
    "ResourceIds": "ResourceId",
    "ResourceTypes": "ResourceType",
    "Values": "Value",
}

_BOUNDS: Mapping[str, Callable[[datetime, datetime], bool]] = {
    "FromCreationDate": lambda date, bound: date >= bound,
    "ToCreationDate": lambda date, bound: date <= bound,
}


def select(views: Sequence[Json], filters: Json, paths: Paths) -> list[Json]:
    """Those of `views` that match every filter. The document's schema was checked before."""
    found = list(views)
    for name, wanted in filters.items():
        path = paths.get(name, "")
        matches = _matcher(name, wanted)
        found = [view for view in found if any(matches(value) for value in _values(view, path))]
    return found


def _values(view: Any, path: str) -> Iterator[Any]:
    """All values at `path`; lists on the way are walked through."""
    if path.startswith(_SAME_FOR_ALL):
        yield path.removeprefix(_SAME_FOR_ALL)
        return
    if isinstance(view, list):
        for item in view:
            yield from _values(item, path)
        return
    if not path:
        if not isinstance(view, dict):
            yield view
        return
    name, _, rest = path.partition(".")
    if name == "#":
        yield f"{view['Key']}={view['Value']}"
    elif name in view:
        yield from _values(view[name], rest)


def _matcher(name: str, wanted: Any) -> Callable[[Any], bool]:
    if name in _BOUNDS:
        bound = _date(name, wanted)
        return lambda value: _BOUNDS[name](_date(name, value), bound)
    if not isinstance(wanted, list):
        return lambda value: bool(value == wanted)
    patterns = [_pattern(item) for item in wanted if isinstance(item, str)]
    numbers = [item for item in wanted if not isinstance(item, str)]
    return lambda value: (
        any(pattern.fullmatch(value) for pattern in patterns)
        if isinstance(value, str)
        else value in numbers
    )


def _pattern(text: str) -> re.Pattern[str]:
    parts = text.split(assumptions.FILTER_WILDCARD)
    return re.compile(".*".join(re.escape(part) for part in parts), re.DOTALL)


def _date(name: str, text: str) -> datetime:
    try:
        date = datetime.fromisoformat(text)
        return date if date.tzinfo else date.replace(tzinfo=UTC)
    except ValueError:
        raise ApiError("invalid-filter", f"{name}: {text!r} is not an ISO 8601 date.") from None


def page(views: Sequence[Json], parameters: Json) -> tuple[list[Json], Json]:
    """The page that was asked for, and `NextPageToken` where another follows."""
    size = parameters.get("ResultsPerPage", assumptions.DEFAULT_RESULTS_PER_PAGE)
    if not 1 <= size <= assumptions.MAX_RESULTS_PER_PAGE:
        raise ApiError(
            "invalid-parameter-value",
            f"ResultsPerPage is {size}: it must be between 1 and"
            f" {assumptions.MAX_RESULTS_PER_PAGE}.",
        )
    start = _offset(parameters.get("NextPageToken", ""))
    found = list(views[start : start + size])
    if start + size >= len(views):
        return found, {}
    return found, {"NextPageToken": base64.b64encode(b"%d" % (start + size)).decode()}


def _offset(token: str) -> int:
    if not token:
        return 0
    try:
        return int(base64.b64decode(token, validate=True))
    except (binascii.Error, ValueError):
        raise ApiError("invalid-parameter-value", "NextPageToken is not one of ours.") from None
