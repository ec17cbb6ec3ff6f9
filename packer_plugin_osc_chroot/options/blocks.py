"""The tables of the nested blocks: what stands inside of one option of `config.Config`."""

import dataclasses
from collections.abc import Iterator, Mapping

from packer_plugin_osc_chroot.options import checks, devices
from packer_plugin_osc_chroot.options.declaration import Block, option
from packer_plugin_osc_chroot.options.decode import holds_unknown
from packer_plugin_osc_chroot.options.filters import filter_problem, repeated_filter


@dataclasses.dataclass(frozen=True)
class Tag(Block):
    """One tag, as a block."""

    key: str = option("The tag's key.", default="", required=True)
    value: str = option("The tag's value.", default="")


@dataclasses.dataclass(frozen=True)
class Filter(Block):
    """One filter, as a block."""

    name: str = option("The filter's name.", default="", required=True)
    value: str = option("What it selects.", default="")


@dataclasses.dataclass(frozen=True)
class OmiFilter(Block):
    """Selects the source OMI."""

    filters: Mapping[str, str] = option(
        "Filters by name: `image-name`, `architecture`, `tag:KEY` and the other older names, or the"
        " API's own of ReadImages, such as `ImageNames`. `*` in a value stands for any text. All"
        " must match.",
        default={},
        check=repeated_filter,
        each=filter_problem,
        block="filter",
        pair=Filter,
    )
    owners: tuple[str, ...] = option(
        "The accounts whose OMIs may be selected: account ids, account aliases, or `self` for the"
        " account that builds.",
        default=(),
        required=True,
        each=checks.owner,
    )
    most_recent: bool = option(
        "Select the newest where several OMIs match. Otherwise exactly one must.", default=False
    )


@dataclasses.dataclass(frozen=True)
class BlockDevice(Block):
    """One block device mapping. Empty strings and 0 mean "not set"."""

    delete_on_vm_deletion: bool = option(
        "Whether the volume is deleted with its VM.",
        default=False,
        older=("delete_on_termination",),
    )
    device_name: str = option(
        "The device's name, such as `/dev/xvdh` or `sdh`; the root device is `/dev/sda1`.",
        default="",
        required=True,
        check=checks.mapped_device,
    )
    iops: int = option(
        f"I/O operations per second, up to {checks.MAX_IOPS} and {checks.MAX_IOPS_PER_GIB} for each"
        " GiB. For the volume type `io1`, and required there.",
        default=0,
        check=checks.iops,
    )
    no_device: bool = option(
        "Leave out the device of this name that the source OMI has.", default=False
    )
    snapshot_id: str = option(
        "The snapshot that the volume is made from.", default="", check=checks.snapshot_id
    )
    virtual_name: str = option(
        "The name of a virtual device, `ephemeral0` and so on, in place of a volume.",
        default="",
        check=checks.virtual_device,
    )
    volume_size: int = option(
        "The volume's size, in GiB. Required without `snapshot_id`, but for the root device.",
        default=0,
        check=checks.volume_size,
    )
    volume_type: str = option(
        "The volume's type: `standard`, `gp2` or `io1`.",
        default="",
        default_text="`standard`, for the root device the type of the volume built on",
        check=checks.volume_type,
    )

    @property
    def name(self) -> str:
        """The device's name as the API wants it, `/dev/` included."""
        return devices.full_name(self.device_name)

    def problems(self) -> Iterator[tuple[str, str]]:
        volume = [
            name
            for name in ("iops", "snapshot_id", "volume_size", "volume_type")
            if getattr(self, name)
        ]
        if self.no_device:
            for name in (*volume, *(["virtual_name"] if self.virtual_name else [])):
                yield name, "cannot go with no_device, which leaves the device out"
            return
        if self.virtual_name:
            for name in volume:
                yield name, "cannot go with virtual_name, which stands in place of a volume"
            return
        # What is not set here may be the root device's, which other options give.
        if self.volume_type and self.iops:
            if problem := iops_problem(self.volume_type, self.iops, self.volume_size):
                yield "iops", problem


def iops_problem(volume_type: str, iops: int, size: int) -> str | None:
    """What is wrong with the IOPS of a volume of that type and size (GiB, 0: not known)."""
    if holds_unknown(volume_type):
        return None
    if volume_type != "io1":
        if not iops:
            return None
        found = f'"{volume_type}"' if volume_type else "none"
        return f"goes with volume type io1 only, found {found}; remove it, or set io1"
    if not iops:
        return f"required with volume type io1: 1 to {checks.MAX_IOPS}"
    if size and iops > size * checks.MAX_IOPS_PER_GIB:
        return (
            f"must be at most {checks.MAX_IOPS_PER_GIB} for each GiB, {size * checks.MAX_IOPS_PER_GIB}"
            f" for {size} GiB, found {iops}"
        )
    return None
