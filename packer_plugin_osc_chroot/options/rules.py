"""What options must be together: rules over several of them, known without a network.

A rule says nothing about an option that has an error of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from packer_plugin_osc_chroot.options import checks, devices
from packer_plugin_osc_chroot.options.blocks import BlockDevice, iops_problem
from packer_plugin_osc_chroot.options.config import DEFAULT_SCRATCH_VOLUME_TYPE
from packer_plugin_osc_chroot.options.decode import holds_unknown
from packer_plugin_osc_chroot.options.report import Report

_MAPPINGS = "omi_block_device_mappings"
_LAUNCH_MAPPINGS = "launch_block_device_mappings"


class Rules:
    """The rules over one configuration.

    `values` are decoded, by name; what is not set is missing. `region` is the Region of the build,
    empty where it is not known yet. `is_forced`: `packer build -force`.
    """

    def __init__(
        self, values: Mapping[str, Any], *, region: str, is_forced: bool, report: Report
    ) -> None:
        self._values = values
        self._region = "" if holds_unknown(region) else region
        self._is_forced = is_forced
        self._report = report
        self._is_from_scratch = bool(values.get("from_scratch"))

    def check(self) -> None:
        self._check_source()
        self._check_root_volume()
        self._check_mappings()
        self._check_vm()
        self._check_regions()
        self._check_replacing()
        self._check_description()

    def _get(self, name: str) -> Any:
        """The option's value; None where it is not set, or has an error."""
        return None if self._report.has_failed(name) else self._values.get(name) or None

    def _require(self, name: str, because: str) -> None:
        if not self._values.get(name) and not self._report.has_failed(name):
            self._report.error(name, f"required {because}, and not set")

    def _check_source(self) -> None:
        names = ("source_omi", "source_omi_filter")
        is_set = [name for name in names if self._values.get(name)]
        if self._is_from_scratch:
            for name in is_set:
                self._report.warn(name, "ignored with from_scratch, which starts from no OMI")
            for name in (
                "omi_virtualization_type",
                "pre_mount_commands",
                "root_volume_size",
                "root_device_name",
                _MAPPINGS,
            ):
                self._require(name, "with from_scratch")
        elif not is_set and not any(self._report.has_failed(name) for name in names):
            self._report.error(
                "source_omi",
                "required, and neither it nor source_omi_filter nor from_scratch is set",
            )

    def _check_root_volume(self) -> None:
        names = ("root_volume_iops", "root_volume_type", "root_volume_size")
        if any(self._report.has_failed(name) for name in names):
            return
        iops, volume_type, size = (self._get(name) for name in names)
        if self._is_from_scratch:
            # The root's mapping says what these options do not.
            root = self._root_mapping()
            if root is None or holds_unknown((root.device_name, root.volume_type)):
                return
            volume_type = volume_type or root.volume_type or DEFAULT_SCRATCH_VOLUME_TYPE
            iops = iops or (root.iops if volume_type == "io1" else 0)
        # Without a type, or without IOPS, the source OMI's may fit: the build knows.
        if volume_type and (iops or self._is_from_scratch):
            if problem := iops_problem(volume_type, iops or 0, size or 0):
                self._report.error("root_volume_iops", problem)

    def _root_mapping(self) -> BlockDevice | None:
        """The mapping that `root_device_name` names."""
        root = devices.letters(self._get("root_device_name") or "")
        mappings: Sequence[BlockDevice] = self._get(_MAPPINGS) or ()
        return next((each for each in mappings if devices.letters(each.device_name) == root), None)

    def _check_mappings(self) -> None:
        mappings: tuple[BlockDevice, ...] = self._values.get(_MAPPINGS) or ()
        root_name = self._get("root_device_name") or ""
        default = "" if self._is_from_scratch else devices.ROOT
        if self._report.has_failed("root_device_name"):
            default = ""
        if root_name and mappings and not holds_unknown(root_name):
            if not self._is_root_there(root_name, mappings):
                root_name = default = ""
        elif root_name and not mappings and not self._is_from_scratch:
            self._report.warn("root_device_name", f"ignored without {_MAPPINGS}")
        # Where it is not known which is the root, none can be judged.
        if root := devices.letters(root_name or default):
            self._check_each_mapping(_MAPPINGS, mappings, root)
        launched = self._values.get(_LAUNCH_MAPPINGS) or ()
        if launched:
            self._report.warn(
                _LAUNCH_MAPPINGS,
                "ignored: they are those of a VM launched for the build, and this builder launches"
                f" none; what VMs of the new OMI get goes in {_MAPPINGS}",
            )
        self._check_each_mapping(_LAUNCH_MAPPINGS, launched, devices.letters(devices.ROOT))

    def _is_root_there(self, root_name: str, mappings: Sequence[BlockDevice]) -> bool:
        names = [device.device_name for device in mappings]
        root = devices.letters(root_name)
        # One with an error, or not known yet, may be it.
        if all(devices.letters(name) not in ("", root) for name in names):
            self._report.error(
                "root_device_name",
                f'must be the device_name of one of {_MAPPINGS}, found "{root_name}"; there is'
                f" {', '.join(names)}",
            )
            return False
        if devices.full_name(root_name) != devices.ROOT:
            self._report.warn(
                "root_device_name",
                f'"{root_name}" is registered as {devices.ROOT}, the only name that OUTSCALE has for'
                f" root devices; write {devices.ROOT} here and in the mapping",
            )
        return True

    def _check_each_mapping(self, option: str, mappings: Sequence[BlockDevice], root: str) -> None:
        taken: dict[str, str] = {}
        for i, device in enumerate(mappings):
            path = f"{option}[{i}]"
            letters = devices.letters(device.device_name)
            if not letters or self._report.has_failed(f"{path}.device_name"):
                continue
            is_root = letters == root
            # Whatever the root is called here, it takes the root's name.
            letters = devices.letters(devices.ROOT) if is_root else letters
            if letters in taken:
                self._report.error(
                    f"{path}.device_name",
                    f'"{device.device_name}" is the same device as {taken[letters]}; give each once',
                )
                continue
            taken[letters] = f'"{device.device_name}" of [{i}]'
            for name, problem in (
                self._root_problems(device) if is_root else _other_problems(device)
            ):
                if not self._report.has_failed(f"{path}.{name}"):
                    self._report.error(f"{path}.{name}", problem)
            if device.no_device and self._is_from_scratch and not is_root:
                self._report.warn(
                    f"{path}.no_device", "ignored with from_scratch: there is no source OMI"
                )

    def _root_problems(self, device: BlockDevice) -> Iterator[tuple[str, str]]:
        for name in ("no_device", "virtual_name", "snapshot_id"):
            if getattr(device, name):
                yield name, "cannot be set for the root device, which gets the new snapshot"
        size = self._get("root_volume_size") or 0
        if device.volume_size and device.volume_size < size:
            problem = f"must be at least root_volume_size, {size} GiB, found {device.volume_size}"
            yield "volume_size", problem
        volume_type = self._get("root_volume_type") or ""
        if device.iops and not device.volume_type and volume_type:
            if found := iops_problem(volume_type, device.iops, device.volume_size or size):
                yield "iops", found
        if device.volume_type == "io1" and not device.iops and volume_type not in ("", "io1"):
            yield "iops", f"required with volume type io1, as the volume built on is {volume_type}"

    def _check_vm(self) -> None:
        if self._values.get("skip_metadata_api_check"):
            self._require("vm_id", "with skip_metadata_api_check")
        region, subregion = self._get("region"), self._get("subregion")
        if region and subregion and not holds_unknown((region, subregion)):
            if subregion[:-1] != region:
                self._report.error(
                    "subregion", f'must be one of the Region "{region}", found "{subregion}"'
                )

    def _check_regions(self) -> None:
        regions: tuple[str, ...] = self._get("omi_regions") or ()
        known = [each for each in regions if not holds_unknown(each)]
        # Where the build's Region is not known, only one can be it.
        region = self._region or (known[0] if known else "")
        for i, each in enumerate(regions):
            if not holds_unknown(each) and each != region:
                self._report.error(
                    f"omi_regions[{i}]",
                    f'must be "{region}", the Region of the build, found "{each}": OUTSCALE copies'
                    " OMIs within one Region only; build once in each",
                )

    def _check_description(self) -> None:
        description = self._get("omi_description") or ""
        if "{{" not in description and (doubt := checks.long_description(description)):
            self._report.warn("omi_description", doubt)

    def _check_replacing(self) -> None:
        replaces = self._values.get("force_deregister") or self._is_forced
        if self._values.get("force_delete_snapshot") and not replaces:
            self._report.warn(
                "force_delete_snapshot", "ignored without force_deregister: no OMI is replaced"
            )


def _other_problems(device: BlockDevice) -> Iterator[tuple[str, str]]:
    if not devices.is_mappable(device.device_name):
        problem = (
            f"must be {devices.ROOT} for the root device, else sdX or xvdX with X one or two letters"
            f' from b on, found "{device.device_name}"'
        )
        yield "device_name", problem
    if device.no_device or device.virtual_name:
        return
    if device.iops and not device.volume_type:
        yield "volume_type", "required with iops: io1"
    if device.volume_type == "io1" and not device.iops:
        yield "iops", "required with volume type io1"
    if not device.volume_size and not device.snapshot_id:
        yield "volume_size", "required without snapshot_id"
