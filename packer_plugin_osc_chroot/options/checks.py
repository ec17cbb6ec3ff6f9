"""What the value of one option must look like: each check returns what is wrong, or None.

Sources: the OUTSCALE API document (CreateImage, CreateVolume) and user guide, as noted at each.
"""

import re
from collections.abc import Mapping, Sequence

from packer_plugin_osc_chroot.options.decode import UNKNOWN

# CreateImage, ImageName.
_IMAGE_NAME = re.compile(r"[A-Za-z0-9_ ()/.\-]*")
# CreateVolume, Size: 1 to 14,901 GiB.
MAX_VOLUME_GIB = 14_901
VOLUME_TYPES = ("standard", "gp2", "io1")


def image_name(value: str) -> str | None:
    if UNKNOWN in value:
        return None
    if bad := sorted({char for char in value if not _IMAGE_NAME.fullmatch(char)}):
        shown = " ".join(repr(char) for char in bad)
        return (
            "may hold letters, digits, spaces and _ ( ) / . - only, "
            f"found {shown} (the function clean_omi_name may help)"
        )
    if not 3 <= len(value) <= 128:
        return f'must have 3 to 128 characters, found {len(value)}: "{value}"'
    return None


def image_id(value: str) -> str | None:
    if UNKNOWN in value or re.fullmatch(r"ami-[0-9a-f]{8,}", value):
        return None
    return f'must be the id of an OMI such as ami-1a2b3c4d, found "{value}"'


def volume_size(value: int) -> str | None:
    if 0 <= value <= MAX_VOLUME_GIB:
        return None
    return f"must be 1 to {MAX_VOLUME_GIB} (GiB), found {value}"


def volume_type(value: str) -> str | None:
    if value in VOLUME_TYPES or UNKNOWN in value:
        return None
    return f'must be {", ".join(VOLUME_TYPES[:-1])} or {VOLUME_TYPES[-1]}, found "{value}"'


def partition(value: str) -> str | None:
    if re.fullmatch(r"[0-9]{1,3}", value) or UNKNOWN in value:
        return None
    return f'must be the number of a partition, or 0 for the whole disk, found "{value}"'


def device(value: str) -> str | None:
    # LinkVolume, DeviceName.
    if re.fullmatch(r"/dev/(sd|xvd)[b-z][a-z]?", value) or UNKNOWN in value:
        return None
    return f'must be /dev/xvdX or /dev/sdX, with X one or two letters from b on, found "{value}"'


def options_to_mount(values: Sequence[str]) -> str | None:
    for i, value in enumerate(values):
        if not value.strip():
            return f"must hold options for mount, found an empty string at [{i}]"
    return None


def absolute_path(value: str) -> str | None:
    if value.startswith(("/", "{{")) or UNKNOWN in value:
        return None
    return f'must be an absolute path, found "{value}"'


def absolute_paths(values: Sequence[str]) -> str | None:
    for i, value in enumerate(values):
        if not value.startswith("/") and UNKNOWN not in value:
            return f'must hold absolute paths, found "{value}" at [{i}]'
    return None


def mount_triples(values: Sequence[Sequence[str]]) -> str | None:
    for i, value in enumerate(values):
        if any(UNKNOWN in item for item in value):
            continue
        if len(value) != 3:
            return (
                "must hold lists of three strings (filesystem type, source, mount point), "
                f"found {len(value)} at [{i}]"
            )
        kind, source, target = value
        if not kind or not source:
            return f"must name a filesystem type and a source, found an empty string at [{i}]"
        if not target.startswith("/"):
            return f'must name an absolute mount point, found "{target}" at [{i}]'
        if kind == "bind" and not source.startswith("/"):
            return f'must bind an absolute path, found "{source}" at [{i}]'
    return None


def command_wrapper(value: str) -> str | None:
    if ".Command" in value or UNKNOWN in value:
        return None
    return f'must hold {{{{.Command}}}}, the command that it wraps, found "{value}"'


def tags(values: Mapping[str, str]) -> str | None:
    # CreateTags: a key has 1 to 255 characters, a value at most 255.
    for key, value in values.items():
        if not 1 <= len(key) <= 255:
            return f"must have keys of 1 to 255 characters, found {len(key)}"
        if len(value) > 255 and "{{" not in value:
            return f'must have values of at most 255 characters, "{key}" has {len(value)}'
    return None
