"""The form of what the API answers, as far as it is used: a name has the same type wherever it stands
(the official OpenAPI document, 1.42). An answer of another form is no answer, whoever gave it.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

Check = Callable[[Any], bool]


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _are(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


_WORDS: Mapping[Check, str] = {
    _is_id: "an id",
    _is_text: "a text",
    _is_number: "a whole number",
    _is_flag: "true or false",
    _is_object: "an object",
    (_are_texts := _are(_is_text)): "a list of texts",
    (_are_objects := _are(_is_object)): "a list of objects",
}
_NAMES: Mapping[Check, tuple[str, ...]] = {
    _is_id: ("AccountId", "ImageId", "SnapshotId", "VmId", "VolumeId"),
    _is_text: (
        *(
            "AccountAlias",
            "Architecture",
            "ClientToken",
            "CreationDate",
            "Description",
            "DeviceName",
        ),
        *("ImageName", "Key", "NextPageToken", "RegionName", "RootDeviceName", "RootDeviceType"),
        *("State", "SubregionName", "Value", "VirtualDeviceName", "VolumeType"),
    ),
    _is_number: ("Iops", "Progress", "Size", "VolumeSize"),
    _is_flag: ("DeleteOnVmDeletion", "GlobalPermission", "TpmMandatory"),
    _is_object: (
        *("Bsu", "Image", "PermissionsToCreateVolume", "PermissionsToLaunch", "Placement"),
        *("Snapshot", "Volume"),
    ),
    _are_texts: ("AccountIds", "BootModes", "ProductCodes"),
    _are_objects: (
        *("Accounts", "BlockDeviceMappings", "Images", "LinkedVolumes", "Regions", "Snapshots"),
        *("Tags", "Vms", "Volumes"),
    ),
}
_CHECKS: Mapping[str, Check] = {name: check for check, names in _NAMES.items() for name in names}
# What each object of such a list has.
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "Images": ("ImageId",),
    "Snapshots": ("SnapshotId",),
    "Tags": ("Key", "Value"),
    "Vms": ("VmId",),
    "Volumes": ("VolumeId",),
}


def misshapen(answer: dict[str, Any]) -> str:
    """What of an answer is of another form, or empty. Names with null are taken out."""
    return _misshapen(answer, "")


def _misshapen(part: dict[str, Any], at: str) -> str:
    for name in [name for name, value in part.items() if value is None]:
        del part[name]
    for name, value in part.items():
        check = _CHECKS.get(name)
        if check is None:
            continue
        if not check(value):
            return f"{at}{name} is {_shown(value)}, expected {_WORDS[check]}"
        inner = value if check is _are_objects else [value] if check is _is_object else []
        for each in inner:
            if problem := _misshapen(each, f"{at}{name}."):
                return problem
            if missing := next((x for x in _NEEDED.get(name, ()) if x not in each), ""):
                return f"{at}{name} has an object without {missing}"
    return ""


def _shown(value: Any) -> str:
    text = ascii(value) if not isinstance(value, dict | list) else f"a {type(value).__name__}"
    return text if len(text) <= 40 else f"{text[:37]}..."
