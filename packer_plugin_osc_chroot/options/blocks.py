"""The tables of the nested blocks: what stands inside of one option of `config.Config`."""

import dataclasses
from collections.abc import Mapping

from packer_plugin_osc_chroot.options.declaration import option


@dataclasses.dataclass(frozen=True)
class Tag:
    """One tag, as a block."""

    key: str = option("The tag's key.", default="", required=True)
    value: str = option("The tag's value.", default="")


@dataclasses.dataclass(frozen=True)
class Filter:
    """One filter, as a block."""

    name: str = option("The filter's name.", default="", required=True)
    value: str = option("The value that it selects.", default="")


@dataclasses.dataclass(frozen=True)
class OmiFilter:
    """Selects the source OMI."""

    filters: Mapping[str, str] = option(
        "Filters by name. Names are those of the API's ReadImages, such as `ImageNames`, or the older"
        " ones, such as `image-name`, `virtualization-type`, `tag:KEY`. `*` in a value stands for any"
        " text.",
        default={},
        block="filter",
        pair=Filter,
    )
    owners: tuple[str, ...] = option(
        "The accounts whose OMIs may be selected: account ids, account aliases, or `self`, the"
        " account that builds.",
        default=(),
        required=True,
    )
    most_recent: bool = option(
        "Select the newest where several OMIs match. Otherwise exactly one must.", default=False
    )


@dataclasses.dataclass(frozen=True)
class BlockDevice:
    """One block device mapping. Empty strings and 0 mean "not set"."""

    delete_on_vm_deletion: bool = option(
        "Whether the volume is deleted with its VM.",
        default=False,
        older=("delete_on_termination",),
    )
    device_name: str = option(
        "The device's name, such as `/dev/xvdh` or `sdh`.", default="", required=True
    )
    iops: int = option(
        "I/O operations per second; with the type `io1` only, and required there.", default=0
    )
    no_device: bool = option(
        "Leave out the device of this name that the source OMI has.", default=False
    )
    snapshot_id: str = option("The snapshot that the volume is made from.", default="")
    virtual_name: str = option(
        "The name of a virtual device, `ephemeralN`, in place of a volume.", default=""
    )
    volume_size: int = option(
        "The volume's size, in GiB. Required without `snapshot_id`.", default=0
    )
    volume_type: str = option("The volume's type: `standard`, `gp2` or `io1`.", default="")

    @property
    def name(self) -> str:
        """The device's name as the API wants it, `/dev/` included."""
        if not self.device_name or self.device_name.startswith("/dev/"):
            return self.device_name
        return f"/dev/{self.device_name}"
