"""What the value of one option must look like: each check returns what is wrong, or None.

Sources: the OUTSCALE API document (CreateImage, CreateVolume, LinkVolume, CreateTags) and user guide,
as noted at each.
"""

import posixpath
import re
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from packer_plugin_osc_chroot.options import devices

# CreateImage, ImageName.
_IMAGE_NAME = re.compile(r"[A-Za-z0-9_ ()/.\-]*")
# CreateVolume, Size: at most 14,901 GiB.
MAX_VOLUME_GIB = 14_901
VOLUME_TYPES = ("standard", "gp2", "io1")
# CreateVolume, Iops: at most 13,000, and 300 for each GiB.
MAX_IOPS = 13_000
MAX_IOPS_PER_GIB = 300
# CreateImage, BootModes.
BOOT_MODES = ("legacy", "uefi")
# The document has no limit for CreateImage's Description. This is that of the descriptions and values
# that it has one for (CreateSecurityGroup, CreateTags): beyond it users are warned, not refused.
DESCRIPTION_CHARACTERS = 255
# CreateTags: a key has 1 to 255 characters, a value at most 255.
_MAX_TAG = 255


def text(value: str) -> str | None:
    """What no option's text may hold, wherever it goes: programs and paths end at a NUL, and Packer
    and the API take UTF-8 only."""
    if "\0" in value:
        return "holds a NUL character, which neither a command, a path nor the API can have"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "is no valid UTF-8"
    return None


def key(value: str) -> str | None:
    """Of a key or a token, which is never quoted."""
    # A line end that came along from a file is taken off.
    if all(" " <= char <= "~" for char in value.strip()):
        return None
    return "holds characters that no key has: a line end inside of it, or letters with accents"


def image_name(value: str) -> str | None:
    if bad := sorted({char for char in value if not _IMAGE_NAME.fullmatch(char)}):
        shown = " ".join(repr(char) for char in bad[:10])
        return (
            "may hold letters, digits, spaces and _ ( ) / . - only, "
            f"found {shown} (the function clean_omi_name may help)"
        )
    if not 3 <= len(value) <= 128:
        return f'must have 3 to 128 characters, found {len(value)}: "{value[:128]}"'
    return None


def image_id(value: str) -> str | None:
    return _id(value, "ami", "an OMI")


def snapshot_id(value: str) -> str | None:
    return _id(value, "snap", "a snapshot")


def vm_id(value: str) -> str | None:
    return _id(value, "i", "a VM")


def _id(value: str, prefix: str, what: str) -> str | None:
    if re.fullmatch(rf"{prefix}-[0-9a-f]{{8,17}}", value):
        return None
    return f'must be the id of {what} such as {prefix}-1a2b3c4d, found "{value}"'


def account_id(value: str) -> str | None:
    if re.fullmatch(r"[0-9]{12}", value):
        return None
    if value == "all":
        return 'must be an account id of 12 digits, found "all": the groups take that'
    hint = ""
    if re.fullmatch(r"[0-9]{1,11}", value):
        hint = " (a number loses its leading zeros: write it as a string)"
    return f'must be an account id of 12 digits, found "{value}"{hint}'


def owner(value: str) -> str | None:
    """An account's id, an alias, or `self`."""
    if re.fullmatch(r"[0-9]+", value):
        return account_id(value)
    if value and not any(char.isspace() for char in value):
        return None
    return f'must be an account id, an account alias or self, found "{value}"'


def group(value: str) -> str | None:
    if value == "all":
        return None
    hint = ""
    if re.fullmatch(r"[0-9]{12}", value):
        hint = ": accounts go to the option for account ids"
    return f'must be all, the only group that there is, found "{value}"{hint}'


def region(value: str) -> str | None:
    if re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*-[0-9]+[a-z]", value):
        return f'must be a Region, found the Subregion "{value}"; write "{value[:-1]}"'
    if re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", value):
        return None
    return f'must be the name of a Region such as eu-west-2, found "{value}"'


def subregion(value: str) -> str | None:
    if re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*[a-z]", value):
        return None
    return f'must be the name of a Subregion such as eu-west-2a, found "{value}"'


def url(value: str) -> str | None:
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if good and not any(char.isspace() or char in "?#@" for char in value):
        return None
    return f'must be an address such as http://169.254.169.254, found "{value}"'


def description(value: str) -> str | None:
    if bad := sorted({char for char in value if ord(char) < 0x20 and char not in "\t\n\r"}):
        shown = " ".join(repr(char) for char in bad)
        return f"may hold no control characters, found {shown}"
    return None


def long_description(value: str) -> str | None:
    """What may be wrong with it: for a warning."""
    if len(value) <= DESCRIPTION_CHARACTERS:
        return None
    return (
        f"has {len(value)} characters; more than {DESCRIPTION_CHARACTERS} may be refused by the API"
    )


def virtualization_type(value: str) -> str | None:
    if value == "hvm":
        return None
    return f'must be hvm, the only type that OUTSCALE registers, found "{value}"'


def boot_mode(value: str) -> str | None:
    return _one_of(value, BOOT_MODES)


def product_code(value: str) -> str | None:
    if value and not any(char.isspace() for char in value):
        return None
    return f'must be a product code such as 0001, found "{value}"'


def volume_size(value: int) -> str | None:
    if 1 <= value <= MAX_VOLUME_GIB:
        return None
    return f"must be 1 to {MAX_VOLUME_GIB} (GiB), found {value}"


def volume_type(value: str) -> str | None:
    return _one_of(value, VOLUME_TYPES)


def iops(value: int) -> str | None:
    if 1 <= value <= MAX_IOPS:
        return None
    return f"must be 1 to {MAX_IOPS}, found {value}"


def _one_of(value: str, choices: Sequence[str]) -> str | None:
    if value in choices:
        return None
    return f'must be {", ".join(choices[:-1])} or {choices[-1]}, found "{value}"'


def partition(value: str) -> str | None:
    if re.fullmatch(r"[0-9]{1,3}", value):
        return None
    return f'must be the number of a partition, or 0 for the whole disk, found "{value}"'


def device(value: str) -> str | None:
    if devices.is_linkable(value):
        return None
    return f'must be /dev/xvdX or /dev/sdX, with X one or two letters from b on, found "{value}"'


def mapped_device(value: str) -> str | None:
    if devices.letters(value):
        return None
    return f'must be the name of a device such as /dev/xvdh or sdh, found "{value}"'


def virtual_device(value: str) -> str | None:
    if re.fullmatch(r"ephemeral[0-9]+", value):
        return None
    return f'must be ephemeral0, ephemeral1 and so on, found "{value}"'


def disk_path(value: str) -> str | None:
    if value.startswith("/dev/") and value != "/dev/":
        return None
    return f'must be the path of a disk, such as /dev/nvme1n1, found "{value}"'


def mount_option(value: str) -> str | None:
    if value.strip():
        return None
    return f'must be options for mount, found "{value}"'


def mount_path(value: str) -> str | None:
    # A late template may make the path as a whole.
    if not value.startswith(("/", "{{")):
        return f'must be an absolute path, found "{value}"'
    if "{{" not in value and _is_root(value):
        return f'must be a folder below /, found "{value}": that is the root of this VM'
    return None


def _is_root(path: str) -> bool:
    return posixpath.normpath(path) in ("/", "//")


def file_to_copy(value: str) -> str | None:
    if value.startswith("/") and not _is_root(value):
        return None
    return f'must be the absolute path of a file, found "{value}"'


def mount_triple(value: Sequence[str]) -> str | None:
    if len(value) != 3:
        return f"must be three strings (filesystem type, source, mount point), found {len(value)}"
    kind, source, target = value
    if not kind or not source:
        return "must name a filesystem type and a source, found an empty string"
    if not target.startswith("/"):
        return f'must name an absolute mount point, found "{target}"'
    if _is_root(target):
        return f'must name a mount point below /, found "{target}": that is the image itself'
    if kind == "bind" and not source.startswith("/"):
        return f'must bind an absolute path, found "{source}"'
    return None


def command_wrapper(value: str) -> str | None:
    if ".Command" in value:
        return None
    return f'must hold {{{{.Command}}}}, the command that it wraps, found "{value}"'


def tag(pair: tuple[str, str]) -> str | None:
    key, value = pair
    if not 1 <= len(key) <= _MAX_TAG and "{{" not in key:
        return f"a tag's key must have 1 to {_MAX_TAG} characters, found {len(key)}"
    if len(value) > _MAX_TAG and "{{" not in value:
        return f"a tag's value must have at most {_MAX_TAG} characters, found {len(value)}"
    return None


def tags(values: Mapping[str, str]) -> str | None:
    """The first problem of any tag: for what has been rendered."""
    return next((problem for pair in values.items() if (problem := tag(pair))), None)


def duration(value: float) -> str | None:
    if value > 0:
        return None
    return "must be longer than 0"
