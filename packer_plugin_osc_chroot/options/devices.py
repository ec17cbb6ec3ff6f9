"""Device names as the OUTSCALE API writes them. Source: the API document (CreateImage, LinkVolume)."""

import re

ROOT = "/dev/sda1"
"""The only name that a root device can be registered under."""
_NAME = re.compile(r"(?:/dev/)?(?:sd|xvd)([a-z]{1,2})1?")


def letters(name: str) -> str:
    """What tells devices apart: `f` for /dev/xvdf, /dev/sdf and xvdf, `a` for the root device's names,
    and nothing for what is no device name. Of partitions only the first is one, as in /dev/sda1."""
    match = _NAME.fullmatch(name)
    return match[1] if match else ""


def is_linkable(path: str) -> bool:
    """Whether a volume can be linked under this name."""
    return bool(re.fullmatch(r"/dev/(?:sd|xvd)[b-z][a-z]?", path))


def is_mappable(name: str) -> bool:
    """Whether an OMI's device beside the root can have this name, with or without /dev/."""
    return is_linkable(full_name(name))


def full_name(name: str) -> str:
    """The name with its /dev/, as the API wants it."""
    return name if not name or name.startswith("/dev/") else f"/dev/{name}"
