"""Turns options and facts into requests, and renders what is known late. No I/O."""

import dataclasses
import json
from collections.abc import Callable, Mapping

from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.host.disk import Disk
from packer_plugin_osc_chroot.host.mounts import ExtraMount
from packer_plugin_osc_chroot.look import Facts
from packer_plugin_osc_chroot.options import checks
from packer_plugin_osc_chroot.options.config import DEFAULT_COMMAND_WRAPPER, Config
from packer_plugin_osc_chroot.resources.image import ImageRequest, SourceImage
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
    "ID": "",
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


@dataclasses.dataclass(frozen=True)
class Late:
    """Renders late options; `source` data is the documentation's build template data."""

    scope: Scope
    data: Mapping[str, object]

    def text(self, option: str, source: str, **more: object) -> str:
        """Raises BuildError naming the option."""
        try:
            return compile_template(source).render(self.scope, Fields(**self.data, **more))
        except TemplateError as error:
            raise BuildError(f"{option}: {error}") from error

    def tags(self, option: str, tags: Mapping[str, str] | None) -> dict[str, str]:
        rendered = {
            self.text(option, key): self.text(f'{option}["{key}"]', value)
            for key, value in (tags or {}).items()
        }
        if problem := checks.tags(rendered):
            raise BuildError(f"{option}: {problem}")
        return rendered


def late_data(facts: Facts) -> Mapping[str, object]:
    return {
        "BuildRegion": facts.region,
        "SourceOMI": facts.source.image_id,
        "SourceOMIName": facts.source.name,
        "SourceOMITags": StringMap(facts.source.tags),
    }


def plan_build(config: Config, facts: Facts, late: Late) -> Plan:
    """Raises BuildError where options and facts do not go together."""
    source = facts.source
    size = _plan_size(config, source)
    volume_type = config.root_volume_type or source.volume_type
    if volume_type == "io1" and source.volume_type != "io1":
        raise BuildError(
            f"root_volume_type: io1 needs a source OMI whose root is io1, {source.image_id} has"
            f" {source.volume_type}",
            hint="Choose gp2 or standard",
        )
    iops = source.iops if volume_type == "io1" else 0
    tags = late.tags("tags", config.tags)
    _try_late_texts(config, late)
    return Plan(
        volume=VolumeRequest(
            subregion=facts.identity.subregion,
            snapshot_id=source.snapshot_id,
            size=size,
            type=volume_type,
            iops=iops,
            tags=late.tags("root_volume_tags", config.root_volume_tags),
        ),
        image=_plan_image(config, source, late, size=size, volume_type=volume_type, iops=iops),
        tags=tags,
        # As Packer's users know it: the OMI's tags go to its snapshot too, snapshot_tags win there.
        snapshot_tags={**tags, **late.tags("snapshot_tags", config.snapshot_tags)},
        snapshot_description=f"Root of {config.omi_name}, made by packer from {source.image_id}"[
            :255
        ],
    )


def _try_late_texts(config: Config, late: Late) -> None:
    """Render what needs the disk with a made-up one, while there is nothing to undo."""
    late.text("mount_path", config.mount_path, Device="xvdf")
    for command in config.pre_mount_commands:
        late.text("pre_mount_commands", command, Device="/dev/xvdf")
    for command in config.post_mount_commands:
        late.text("post_mount_commands", command, Device="/dev/xvdf", MountPath="/mnt/xvdf")


def _plan_size(config: Config, source: SourceImage) -> int:
    if not config.root_volume_size:
        return source.size
    if config.root_volume_size < source.size:
        raise BuildError(
            f"root_volume_size: {config.root_volume_size} GiB is smaller than the root of"
            f" {source.image_id}, {source.size} GiB",
            hint=f"Set {source.size} or more, or leave it out",
        )
    return config.root_volume_size


def _plan_image(
    config: Config, source: SourceImage, late: Late, *, size: int, volume_type: str, iops: int
) -> ImageRequest:
    source_bsu = source.root.get("Bsu") or {}
    bsu: dict[str, object] = {
        "DeleteOnVmDeletion": bool(source_bsu.get("DeleteOnVmDeletion", True)),
        "VolumeSize": size,
        "VolumeType": volume_type,
    }
    if iops:
        bsu["Iops"] = iops
    return ImageRequest(
        name=config.omi_name,
        description=late.text("omi_description", config.omi_description),
        architecture=source.architecture,
        root={"DeviceName": "/dev/sda1", "Bsu": bsu},
        other_mappings=source.other_mappings,
    )


def plan_extra_mounts(config: Config) -> tuple[ExtraMount, ...]:
    return tuple(ExtraMount(*triple) for triple in config.mounts)


def plan_mount_path(config: Config, late: Late, disk: Disk) -> str:
    path = late.text("mount_path", config.mount_path, Device=disk.name)
    if not path.startswith("/") or path.rstrip("/") == "":
        raise BuildError(f'mount_path: must be an absolute path below /, found "{path}"')
    return path


def plan_wrapper(config: Config, scope: Scope) -> Callable[[str], str] | None:
    """What to put around privileged commands; None where nothing is.

    The command goes in as it is: it is never taken for template text itself.
    """
    if config.command_wrapper.strip() in ("", DEFAULT_COMMAND_WRAPPER, "{{ .Command }}"):
        return None
    template = compile_template(config.command_wrapper)

    def wrap(command: str) -> str:
        try:
            return template.render(scope, Fields(Command=Literal(command)))
        except TemplateError as error:
            raise BuildError(f"command_wrapper: {error}") from error

    return wrap


def plan_hook_data(
    facts: Facts, *, disk: Disk, mount_path: str, environ: Mapping[str, str]
) -> dict[str, str]:
    """What provisioners see as `build.NAME`: strings only, since a list or map breaks HCL2 builds."""
    return {
        **_CORE_DATA,
        "PackerRunUUID": environ.get("PACKER_RUN_UUID", ""),
        "BuildRegion": facts.region,
        "Device": str(disk.path),
        "MountPath": mount_path,
        "SourceOMI": facts.source.image_id,
        "SourceOMIName": facts.source.name,
        "SourceOMITags": json.dumps(dict(facts.source.tags), sort_keys=True),
    }
