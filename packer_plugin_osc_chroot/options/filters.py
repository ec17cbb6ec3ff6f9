"""The filters that select OMIs: their names and values, older spellings included, as the API's.

Sources: FiltersImage in the OUTSCALE API document; the older names are those of EC2's DescribeImages
and of the older builders.
"""

import dataclasses
import difflib
import enum
import re
from collections.abc import Mapping
from typing import Any

TAG_PREFIX = "tag:"
"""`tag:KEY` selects by the value of one tag."""


class Shape(enum.Enum):
    """What is compared. The API takes lists of texts and numbers."""

    STRINGS = "a text"
    INTEGERS = "a whole number"
    BOOLEAN = "true or false"


@dataclasses.dataclass(frozen=True)
class ApiFilter:
    """A filter of ReadImages. `choices`: the only values that images can have; empty is any.
    `older`: its other names. `renamed`: older values, and what they are called today."""

    name: str
    shape: Shape = Shape.STRINGS
    choices: tuple[str, ...] = ()
    older: tuple[str, ...] = ()
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)


API_FILTERS: tuple[ApiFilter, ...] = (
    ApiFilter("AccountAliases", older=("account-alias", "owner-alias")),
    ApiFilter("AccountIds", older=("account-id", "owner-id")),
    ApiFilter("Architectures", choices=("i386", "x86_64"), older=("architecture",)),
    ApiFilter(
        "BlockDeviceMappingDeleteOnVmDeletion",
        Shape.BOOLEAN,
        older=("block-device-mapping.delete-on-termination",),
    ),
    ApiFilter("BlockDeviceMappingDeviceNames", older=("block-device-mapping.device-name",)),
    ApiFilter("BlockDeviceMappingSnapshotIds", older=("block-device-mapping.snapshot-id",)),
    ApiFilter(
        "BlockDeviceMappingVolumeSizes",
        Shape.INTEGERS,
        older=("block-device-mapping.volume-size",),
    ),
    ApiFilter(
        "BlockDeviceMappingVolumeTypes",
        choices=("standard", "gp2", "io1"),
        older=("block-device-mapping.volume-type",),
    ),
    ApiFilter(
        "BootModes",
        choices=("legacy", "uefi"),
        older=("boot-mode",),
        renamed={"legacy-bios": "legacy"},
    ),
    ApiFilter("Descriptions", older=("description",)),
    ApiFilter("FileLocations", older=("manifest-location", "file-location")),
    ApiFilter("Hypervisors", choices=("xen",), older=("hypervisor",)),
    ApiFilter("ImageIds", older=("image-id",)),
    ApiFilter("ImageNames", older=("image-name", "name")),
    ApiFilter("PermissionsToLaunchAccountIds"),
    ApiFilter("PermissionsToLaunchGlobalPermission", Shape.BOOLEAN, older=("is-public",)),
    ApiFilter("ProductCodeNames"),
    ApiFilter("ProductCodes", older=("product-code",)),
    ApiFilter("RootDeviceNames", older=("root-device-name",)),
    ApiFilter(
        "RootDeviceTypes", choices=("bsu",), older=("root-device-type",), renamed={"ebs": "bsu"}
    ),
    ApiFilter("SecureBoot", Shape.BOOLEAN),
    ApiFilter("States", choices=("pending", "available", "failed"), older=("state",)),
    ApiFilter("TagKeys", older=("tag-key",)),
    ApiFilter("TagValues", older=("tag-value",)),
    ApiFilter("Tags"),
    ApiFilter("TpmMandatory", Shape.BOOLEAN),
    ApiFilter("VirtualizationTypes", choices=("hvm",), older=("virtualization-type",)),
)

_BY_NAME: Mapping[str, ApiFilter] = {
    name: each for each in API_FILTERS for name in (each.name, *each.older)
}
TAGS = _BY_NAME["Tags"]
# JSON's own true and false become digits in a map of strings.
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}


class FilterProblem(Exception):
    """A filter that the API cannot be asked for: what was expected, what was found."""


def api_filter(name: str, value: str) -> tuple[str, Any]:
    """One filter as the API's: its name there, and a list of one value or a boolean.

    Raises FilterProblem. Several of one API name are alternatives to the API: see `wanted_tags`.
    """
    found = _find(name)
    if name.startswith(TAG_PREFIX):
        return found.name, [f"{name.removeprefix(TAG_PREFIX)}={value}"]
    value = found.renamed.get(value, value)
    if not value:
        raise FilterProblem("must have a value, found an empty string")
    if found.shape is Shape.BOOLEAN:
        if value.lower() not in _TRUTHS:
            raise FilterProblem(f'must be true or false, found "{value}"')
        return found.name, _TRUTHS[value.lower()]
    if found.shape is Shape.INTEGERS:
        if not value.isascii() or not value.isdigit() or len(value) > 9:
            raise FilterProblem(f'must be a whole number, found "{value}"')
        return found.name, [int(value)]
    if found.choices and value not in found.choices and "*" not in value:
        expected = " or ".join(found.choices)
        raise FilterProblem(f'must be {expected}, found "{value}": no OMI has that')
    return found.name, [value]


def api_filters(filters: Mapping[str, str]) -> dict[str, Any]:
    """All filters as ReadImages takes them. Raises FilterProblem.

    The API takes several values of one filter, `tag:KEY` included, as alternatives: images must be
    compared with `wanted_tags` too.
    """
    asked: dict[str, Any] = {}
    for name, value in filters.items():
        key, wanted = api_filter(name, value)
        if isinstance(wanted, list):
            asked.setdefault(key, []).extend(wanted)
        else:
            asked[key] = wanted
    return asked


def wanted_tags(filters: Mapping[str, str]) -> dict[str, str]:
    """The tags that an image must all have, by key; `*` in a value stands for any text."""
    return {
        name.removeprefix(TAG_PREFIX): value
        for name, value in filters.items()
        if name.startswith(TAG_PREFIX)
    }


def selects(wanted: str, text: str) -> bool:
    """Whether a filter's value selects a text: `*` stands for any text, nothing else is special."""
    parts = wanted.split("*")
    return re.fullmatch(".*".join(map(re.escape, parts)), text, re.DOTALL) is not None


def filter_problem(pair: tuple[str, str]) -> str | None:
    """What is wrong with a filter's name or value, or None."""
    try:
        api_filter(*pair)
    except FilterProblem as problem:
        return str(problem)
    return None


def repeated_filter(filters: Mapping[str, str]) -> str | None:
    """What is wrong where two names of one filter are given, which must both match: or None."""
    names: dict[str, str] = {}
    for name in filters:
        if name.startswith(TAG_PREFIX) or name not in _BY_NAME:
            continue
        api_name = _BY_NAME[name].name
        if api_name in names:
            return f'"{names[api_name]}" and "{name}" are the same filter; give one of them'
        names[api_name] = name
    return None


def _find(name: str) -> ApiFilter:
    if name.startswith(TAG_PREFIX):
        if name == TAG_PREFIX:
            raise FilterProblem("must be tag:KEY, found no key")
        return TAGS
    if found := _BY_NAME.get(name):
        return found
    near = difflib.get_close_matches(name, [*_BY_NAME, f"{TAG_PREFIX}KEY"], n=1, cutoff=0.6)
    hint = f'did you mean "{near[0]}"?' if near else "see the documentation for what there is"
    raise FilterProblem(f"unknown filter; {hint}")
