"""Turns options and facts into requests, and renders what is known late. No I/O."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.host.disk import Disk
from packer_plugin_osc_chroot.host.mounts import ExtraMount
from packer_plugin_osc_chroot.look import Facts
from packer_plugin_osc_chroot.mappings import (
    RootVolume,
    find_root,
    plan_other_mappings,
    plan_root_mapping,
    unknown_removals,
)
from packer_plugin_osc_chroot.options import checks
from packer_plugin_osc_chroot.options.blocks import BlockDevice, iops_problem
from packer_plugin_osc_chroot.options.config import (
    DEFAULT_COMMAND_WRAPPER,
    DEFAULT_SCRATCH_VOLUME_TYPE,
    Config,
)
from packer_plugin_osc_chroot.resources.image import ImageRequest, SourceImage
from packer_plugin_osc_chroot.resources.sharing import (
    Permissions,
    image_permissions,
    snapshot_permissions,
)
from packer_plugin_osc_chroot.resources.volume import VolumeRequest
from packer_plugin_osc_chroot.template.engine import (
    Fields,
    Literal,
    Scope,
    StringMap,
    TemplateError,
    compile_template,
)

# What core expects in a hook's data. A chroot has no address and no connection; a name that is
# missing here would show as an error text in templates (see the SDK's PopulateProvisionHookData).
_CORE_DATA: Mapping[str, str] = {
    "ConnType": "chroot",
    "Host": "",
    "PackerHTTPAddr": "ERR_HTTP_ADDR_NOT_IMPLEMENTED_BY_BUILDER",
    "PackerHTTPIP": "ERR_HTTP_IP_NOT_IMPLEMENTED_BY_BUILDER",
    "PackerHTTPPort": "ERR_HTTP_PORT_NOT_IMPLEMENTED_BY_BUILDER",
    "Password": "",
    "Port": "0",
    "SSHAgentAuth": "false",
    "SSHPrivateKey": "",
    "SSHPrivateKeyFile": "",
    "SSHPublicKey": "",
    "User": "root",
    "WinRMPassword": "",
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that is decided once the facts are known."""

    volume: VolumeRequest
    image: ImageRequest
    tags: Mapping[str, str]
    snapshot_tags: Mapping[str, str]
    snapshot_description: str
    image_permissions: Permissions
    snapshot_permissions: Permissions


@dataclasses.dataclass(frozen=True)
class Late:
    """Renders late options; `data` is the documentation's build template data.

    `warn` is told once of each option that shows what has no value.
    """

    scope: Scope
    data: Mapping[str, object]
    warn: Callable[[str], None]
    _warned: set[str] = dataclasses.field(default_factory=set)

    def text(self, option: str, source: str, **more: object) -> str:
        """Raises BuildError naming the option."""
        try:
            data = Fields(**self.data, **more)
            rendered = compile_template(source).render_reporting(self.scope, data)
        except TemplateError as error:
            raise BuildError(f"{option}: {error}") from error
        _check_rendered(option, rendered.text, checks.text)
        if rendered.missing:
            what = f'{option}: {", ".join(rendered.missing)} has no value, "<no value>" is in its place'
            if what not in self._warned:
                self._warned.add(what)
                self.warn(f"Warning: {what}")
        return rendered.text

    def tags(self, option: str, tags: Mapping[str, str] | None) -> dict[str, str]:
        rendered: dict[str, str] = {}
        for key, value in (tags or {}).items():
            name = self.text(option, key)
            if name in rendered:
                self.warn(
                    f'Warning: {option}: "{key}" is "{name}", which is given before; this one counts'
                )
            rendered[name] = self.text(f'{option}["{key}"]', value)
        if problem := checks.tags(rendered):
            raise BuildError(f"{option}: {problem}")
        return rendered


def _check_rendered(option: str, text: str, check: Callable[[str], str | None]) -> None:
    if problem := check(text):
        raise BuildError(f"{option}: {problem}")


def late_data(facts: Facts) -> Mapping[str, object]:
    """The documentation's build template data; empty texts for a source that there is not."""
    source = facts.source
    return {
        "BuildRegion": facts.region,
        "SourceOMI": source.image_id if source else "",
        "SourceOMIName": source.name if source else "",
        "SourceOMITags": StringMap(source.tags if source else {}),
    }


def plan_build(config: Config, facts: Facts, late: Late) -> Plan:
    """Raises BuildError where options and facts do not go together."""
    _check_regions(config, facts.region)
    source = facts.source
    path, device = find_root(config.omi_block_device_mappings, config.root_device_name)
    root = _plan_root_volume(config, source, device)
    tags = late.tags("tags", config.tags)
    _try_late_texts(config, late)
    origin = source.image_id if source else "scratch"
    return Plan(
        volume=VolumeRequest(
            subregion=facts.identity.subregion,
            snapshot_id=source.snapshot_id if source else "",
            size=root.size,
            type=root.type,
            iops=root.iops,
            tags=late.tags("root_volume_tags", config.root_volume_tags),
        ),
        image=_plan_image(config, source, late, root=root, path=path, device=device),
        tags=tags,
        # As Packer's users know it: the OMI's tags go to its snapshot too, snapshot_tags win there.
        snapshot_tags={**tags, **late.tags("snapshot_tags", config.snapshot_tags)},
        snapshot_description=f"Root of {config.omi_name}, made by packer from {origin}"[:255],
        image_permissions=image_permissions(config),
        snapshot_permissions=snapshot_permissions(config),
    )


def _try_late_texts(config: Config, late: Late) -> None:
    """Render what needs the disk with a made-up one, while there is nothing to undo."""
    plan_mount_path(config, late, "xvdf")
    for command in config.pre_mount_commands:
        late.text("pre_mount_commands", command, Device="/dev/xvdf", PartitionDevice="/dev/xvdf1")
    for command in config.post_mount_commands:
        late.text(
            "post_mount_commands",
            command,
            Device="/dev/xvdf",
            PartitionDevice="/dev/xvdf1",
            MountPath="/mnt/xvdf",
        )


def _check_regions(config: Config, region: str) -> None:
    for i, wanted in enumerate(config.omi_regions):
        if wanted != region:
            raise BuildError(
                f"omi_regions[{i}]: {wanted} is not the Region of this build, {region}: OUTSCALE"
                " copies OMIs within one Region only",
                hint=f"Leave it out, and build in {wanted} too",
            )


def _plan_root_volume(
    config: Config, source: SourceImage | None, device: BlockDevice
) -> RootVolume:
    """`device` is the template's mapping of the root, which a build from scratch starts from."""
    if source is None:
        size = config.root_volume_size or device.volume_size
        volume_type = config.root_volume_type or device.volume_type or DEFAULT_SCRATCH_VOLUME_TYPE
        given = device.iops
    else:
        size = _plan_size(config, source)
        volume_type = config.root_volume_type or source.volume_type
        given = source.iops if source.volume_type == "io1" else 0
    if volume_type != "io1":
        if config.root_volume_iops:
            problem = iops_problem(volume_type, config.root_volume_iops, size)
            raise BuildError(f"root_volume_iops: {problem}")
        return RootVolume(size, volume_type, 0)
    iops = config.root_volume_iops or given
    most = min(checks.MAX_IOPS, checks.MAX_IOPS_PER_GIB * size)
    if not 0 < iops <= most:
        raise BuildError(
            f"root_volume_iops: a root volume of {size} GiB and the type io1 needs 1 to {most}"
            f" IOPS, found {iops or 'none'}",
            hint="Set root_volume_iops, or choose gp2 or standard",
        )
    return RootVolume(size, volume_type, iops)


def _plan_size(config: Config, source: SourceImage) -> int:
    if not config.root_volume_size:
        if not source.size:
            raise BuildError(
                f"source_omi {source.image_id}: the API tells neither its root's size nor that of"
                f" its snapshot {source.snapshot_id}",
                hint="Set root_volume_size, not smaller than that",
            )
        return source.size
    if config.root_volume_size < source.size:
        raise BuildError(
            f"root_volume_size: {config.root_volume_size} GiB is smaller than the root of"
            f" {source.image_id}, {source.size} GiB",
            hint=f"Set {source.size} or more, or leave it out",
        )
    return config.root_volume_size


def _plan_image(
    config: Config,
    source: SourceImage | None,
    late: Late,
    *,
    root: RootVolume,
    path: str,
    device: BlockDevice,
) -> ImageRequest:
    """`device`, at `path`, is the template's mapping of the root."""
    kept = (source.root.get("Bsu") or {}) if source else {}
    description = late.text("omi_description", config.omi_description)
    _check_rendered("omi_description", description, checks.description)
    if description != config.omi_description and (doubt := checks.long_description(description)):
        late.warn(f"Warning: omi_description: {doubt}")
    others = source.other_mappings if source else ()
    for unknown in unknown_removals(others, config.omi_block_device_mappings):
        late.warn(f"Warning: {unknown}.no_device: there is no such device to leave out")
    return ImageRequest(
        name=config.omi_name,
        description=description,
        architecture=source.architecture if source else "x86_64",
        root=plan_root_mapping(
            root,
            path,
            device,
            delete_on_vm_deletion=bool(kept.get("DeleteOnVmDeletion", True)),
        ),
        other_mappings=plan_other_mappings(others, config.omi_block_device_mappings, path),
        # CreateImage may refuse what is given twice, and that would be at the end of the build.
        boot_modes=tuple(dict.fromkeys(config.omi_boot_modes))
        or (source.boot_modes if source else ()),
        product_codes=tuple(dict.fromkeys(config.omi_product_codes))
        or (source.product_codes if source else ()),
        tpm_mandatory=source is not None and source.tpm_mandatory,
    )


def plan_extra_mounts(config: Config) -> tuple[ExtraMount, ...]:
    return tuple(ExtraMount(*triple) for triple in config.mounts)


def plan_mount_path(config: Config, late: Late, device: str) -> str:
    """Where the disk called `device` is mounted."""
    path = late.text("mount_path", config.mount_path, Device=device)
    _check_rendered("mount_path", path, checks.mount_path)
    return path


def plan_wrapper(config: Config, scope: Scope) -> Callable[[str], str] | None:
    """What to put around privileged commands; None where nothing is.

    The command goes in as it is: it is never taken for template text itself. Raises BuildError.
    """
    if config.command_wrapper.strip() in ("", DEFAULT_COMMAND_WRAPPER, "{{ .Command }}"):
        return None
    template = compile_template(config.command_wrapper)

    def wrap(command: str) -> str:
        try:
            wrapped = template.render(scope, Fields(Command=Literal(command)))
        except TemplateError as error:
            raise BuildError(f"command_wrapper: {error}") from error
        _check_rendered("command_wrapper", wrapped, checks.text)
        return wrapped

    # While there is nothing to undo.
    wrap("true")
    return wrap


def plan_hook_data(
    late: Late,
    *,
    volume_id: str,
    disk: Disk,
    partition: Path,
    mount_path: str,
    environ: Mapping[str, str],
) -> dict[str, str]:
    """What provisioners see as `build.NAME`: strings only, since a list or map breaks HCL2 builds.

    Core's `ID` is that of what is provisioned: of a VM for other builders, of the volume here.
    """
    found = {
        name: json.dumps(dict(value), sort_keys=True)
        if isinstance(value, StringMap)
        else str(value)
        for name, value in late.data.items()
    }
    return {
        **_CORE_DATA,
        **found,
        "ID": volume_id,
        "PackerRunUUID": environ.get("PACKER_RUN_UUID", ""),
        "Device": str(disk.path),
        "PartitionDevice": str(partition),
        "MountPath": mount_path,
    }
