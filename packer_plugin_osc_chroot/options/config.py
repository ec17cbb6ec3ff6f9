"""The options of the builder: this table, and nothing else, says what a template may hold."""

import dataclasses
from collections.abc import Mapping

from packer_plugin_osc_chroot.options import checks
from packer_plugin_osc_chroot.options.declaration import option

COMPONENT_KIND = "builder"
COMPONENT_NAME = "osc-chroot"

# What late options may refer to: the documentation's build template data.
BUILD_FIELDS = ("BuildRegion", "SourceOMI", "SourceOMIName", "SourceOMITags")

DEFAULT_CHROOT_MOUNTS = (
    ("proc", "proc", "/proc"),
    ("sysfs", "sysfs", "/sys"),
    ("bind", "/dev", "/dev"),
    ("devpts", "devpts", "/dev/pts"),
    ("binfmt_misc", "binfmt_misc", "/proc/sys/fs/binfmt_misc"),
)
DEFAULT_COPY_FILES = ("/etc/resolv.conf",)
DEFAULT_COMMAND_WRAPPER = "{{.Command}}"
DEFAULT_MOUNT_PATH = "/mnt/packer-amazon-chroot-volumes/{{.Device}}"


@dataclasses.dataclass(frozen=True)
class Packer:
    """What Packer itself says of a build, beside the options."""

    build_name: str = ""
    builder_type: str = COMPONENT_NAME
    core_version: str = ""
    template_path: str = ""
    debug: bool = False
    force: bool = False
    # cleanup, abort, ask, run-cleanup-provisioner; empty is cleanup.
    on_error: str = ""
    user_variables: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # Names of those user variables whose values must not be shown (JSON templates only).
    sensitive_variables: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Config:
    """One build's options, checked. Those marked `late` still hold templates.

    Empty strings and 0 mean "not set", as they do for Packer's own builders.
    """

    access_key: str = option(
        "The access key of your OUTSCALE account. Default: the environment's `OSC_ACCESS_KEY`"
        " (or `OUTSCALE_ACCESSKEYID`), then the profile file (`~/.osc/config.json`).",
        default="",
        secret=True,
    )
    secret_key: str = option(
        "The secret key that belongs to `access_key`. Default: the environment's `OSC_SECRET_KEY`"
        " (or `OUTSCALE_SECRETKEYID`), then the profile file.",
        default="",
        secret=True,
    )
    region: str = option(
        "The Region to build in, such as `eu-west-2`: the one this VM runs in. Default: the"
        " environment's `OSC_REGION` (or `OUTSCALE_REGION`), the profile file, then the VM's"
        " metadata.",
        default="",
    )
    custom_endpoint_oapi: str = option(
        "Another endpoint of the OUTSCALE API than the Region's own, with or without scheme, port"
        " and path: `https://api.example.com/api/v1`, `api.example.com`. Without a path, `/api/v1`"
        " is added. The older form `outscale.com/oapi/latest` stands for"
        " `https://api.REGION.outscale.com/oapi/latest`. Default: the environment's"
        " `OSC_ENDPOINT_API` (or `OUTSCALE_OAPI_URL`), then the profile file.",
        default="",
    )
    insecure_skip_tls_verify: bool = option(
        "Accept any TLS certificate from the endpoint. For test endpoints only. The environment's"
        " `OSC_TLS_SKIP_VERIFY=true` does the same.",
        default=False,
    )
    source_omi: str = option(
        "The id of the OMI to start from. Its root volume must be a BSU volume.",
        default="",
        required=True,
        check=checks.image_id,
    )
    omi_name: str = option(
        "The name of the new OMI: 3 to 128 letters, digits, spaces and `_ ( ) / . -`, unique in"
        " your account. `{{timestamp}}` in it helps.",
        default="",
        required=True,
        check=checks.image_name,
    )
    omi_description: str = option("The new OMI's description.", default="", fields=BUILD_FIELDS)
    tags: Mapping[str, str] | None = option(
        "Tags of the new OMI. Keys and values are templates.",
        fields=BUILD_FIELDS,
        check=checks.tags,
    )
    snapshot_tags: Mapping[str, str] | None = option(
        "Tags of the new OMI's snapshot. Keys and values are templates.",
        fields=BUILD_FIELDS,
        check=checks.tags,
    )
    root_volume_tags: Mapping[str, str] | None = option(
        "Tags of the volume that is built on. Keys and values are templates.",
        fields=BUILD_FIELDS,
        check=checks.tags,
    )
    root_volume_size: int = option(
        "The size of the root volume, in GiB. It cannot be smaller than the source OMI's.",
        default=0,
        default_text="the size of the source OMI's root snapshot",
        check=checks.volume_size,
    )
    root_volume_type: str = option(
        "The type of the root volume: `standard`, `gp2` or `io1`. `io1` needs a source OMI whose"
        " root is `io1` too, and takes its IOPS.",
        default="",
        default_text="the source OMI's",
        check=checks.volume_type,
    )
    mount_path: str = option(
        "Where the root filesystem is mounted on this VM. `{{.Device}}` is the disk's name, such"
        " as `xvdf`.",
        default=DEFAULT_MOUNT_PATH,
        fields=(*BUILD_FIELDS, "Device"),
        check=checks.absolute_path,
    )
    mount_partition: str = option(
        "The number of the partition that holds `/`; `0` stands for the whole disk.",
        default="",
        default_text="`1`, or the whole disk where it has no partition table",
        check=checks.partition,
    )
    mount_options: tuple[str, ...] = option(
        "Options for mounting the root filesystem, each given to `mount` with `-o`.",
        default=(),
        check=checks.options_to_mount,
    )
    chroot_mounts: tuple[tuple[str, ...], ...] | None = option(
        "What to mount inside the chroot: lists of a filesystem type, a source and a mount point."
        " The type `bind` binds a directory of this VM. An empty list means the default.",
        default_text="`/proc`, `/sys`, `/dev` (bound), `/dev/pts`, `/proc/sys/fs/binfmt_misc`",
        check=checks.mount_triples,
    )
    copy_files: tuple[str, ...] | None = option(
        "Files and folders of this VM that stand at the same path in the chroot while provisioners"
        " run. What the image had there is put back afterwards. An empty list copies nothing.",
        default_text="`/etc/resolv.conf`",
        check=checks.absolute_paths,
    )
    command_wrapper: str = option(
        "A template around each command that needs privileges, mounts and copies included, such as"
        " `sudo {{.Command}}`.",
        default=DEFAULT_COMMAND_WRAPPER,
        fields=("Command",),
        check=checks.command_wrapper,
    )
    device_path: str = option(
        "The device name to link the volume as, and the path where it is found.",
        default="",
        default_text="a free one, found by itself",
        check=checks.device,
    )
    pre_mount_commands: tuple[str, ...] = option(
        "Shell commands that run on this VM after the volume is linked and before it is mounted."
        " `{{.Device}}` is the disk's path.",
        default=(),
        fields=(*BUILD_FIELDS, "Device"),
    )
    post_mount_commands: tuple[str, ...] = option(
        "Shell commands that run on this VM after the root filesystem is mounted and before"
        " `chroot_mounts` and `copy_files`. `{{.Device}}` is the disk's path, `{{.MountPath}}`"
        " where it is mounted.",
        default=(),
        fields=(*BUILD_FIELDS, "Device", "MountPath"),
    )
    packer: Packer = dataclasses.field(default_factory=Packer)

    @property
    def mounts(self) -> tuple[tuple[str, ...], ...]:
        """`chroot_mounts` with its default; like the Go builder's, an empty list means that too."""
        return self.chroot_mounts or DEFAULT_CHROOT_MOUNTS

    @property
    def partition_number(self) -> int | None:
        """`mount_partition` as a number; None where it is not set."""
        return int(self.mount_partition) if self.mount_partition else None

    @property
    def files(self) -> tuple[str, ...]:
        """`copy_files` with its default."""
        return DEFAULT_COPY_FILES if self.copy_files is None else self.copy_files
