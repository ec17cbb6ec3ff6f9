"""The options of the builder: this table, and nothing else, says what a template may hold."""

import dataclasses
from collections.abc import Mapping

from packer_plugin_osc_chroot.options import checks
from packer_plugin_osc_chroot.options.blocks import BlockDevice, OmiFilter, Tag
from packer_plugin_osc_chroot.options.declaration import option

BUILDER_KIND = "builder"
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
DEFAULT_SCRATCH_VOLUME_TYPE = "gp2"


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
class AccessOptions:
    """How the API is reached, and by whom: options of the builder and of the data sources alike."""

    access_key: str = option(
        "The access key of your OUTSCALE account. Default: the environment's `OSC_ACCESS_KEY`"
        " (or `OUTSCALE_ACCESSKEYID`), then the profile file (`~/.osc/config.json`).",
        default="",
        check=checks.key,
        secret=True,
    )
    secret_key: str = option(
        "The secret key that belongs to `access_key`. Default: the environment's `OSC_SECRET_KEY`"
        " (or `OUTSCALE_SECRETKEYID`), then the profile file.",
        default="",
        check=checks.key,
        secret=True,
    )
    token: str = option(
        "The session token that belongs to a temporary `access_key`.",
        default="",
        check=checks.key,
        secret=True,
    )
    mfa_code: str = option(
        "Refused: the OUTSCALE API takes no code of a multi-factor authentication device with an"
        " access key. Accounts that ask for more than a key take a client certificate.",
        default="",
        secret=True,
    )
    profile: str = option(
        "The profile to use of the profile file. Default: the environment's `OSC_PROFILE`, then"
        " `default`.",
        default="",
    )
    x509_cert_path: str = option(
        "A file (PEM) with the client certificate to show to the API. Default: the environment's"
        " `OSC_X509_CLIENT_CERT` (or `OUTSCALE_X509CERT`), then the profile file.",
        default="",
    )
    x509_key_path: str = option(
        "A file (PEM) with the private key of `x509_cert_path`. Default: the environment's"
        " `OSC_X509_CLIENT_KEY` (or `OUTSCALE_X509KEY`), then the profile file.",
        default="",
    )
    region: str = option(
        "The Region, such as `eu-west-2`; builds are in the one that this VM runs in. Default: the"
        " environment's `OSC_REGION` (or `OUTSCALE_REGION`), the profile file, then the VM's"
        " metadata.",
        default="",
        check=checks.region,
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
        " `OSC_TLS_SKIP_VERIFY=true` does the same, and so does `tls_skip_verify` in the profile file.",
        default=False,
    )


@dataclasses.dataclass(frozen=True)
class Config(AccessOptions):
    """One build's options, checked. Those with `fields` still hold templates.

    Empty strings and 0 mean "not set", as they do for Packer's own builders. Durations are in
    seconds.
    """

    skip_region_validation: bool = option(
        "Do not ask the API whether it knows the Region.", default=False
    )
    vm_id: str = option(
        "The id of the VM that packer runs on, for where its metadata service is out of reach. With"
        " it the service is not asked; `region` is needed then.",
        default="",
        default_text="what the metadata service says",
        check=checks.vm_id,
    )
    subregion: str = option(
        "The Subregion of the VM that packer runs on, such as `eu-west-2a`.",
        default="",
        default_text="what the metadata service or, with `vm_id`, the API says",
        check=checks.subregion,
    )
    metadata_url: str = option(
        "The address of the VM's metadata service, which is not asked with `vm_id`. The environment's"
        " `OSC_CHROOT_METADATA_URL` does the same.",
        default="",
        default_text="`http://169.254.169.254`",
        check=checks.url,
    )
    skip_metadata_api_check: bool = option(
        "Do not ask the VM's metadata service; `vm_id` is required then, with which it is not asked"
        " anyway.",
        default=False,
    )
    source_omi: str = option(
        "The id of the OMI to start from. Its root volume must be a BSU volume. It or"
        " `source_omi_filter` is required, unless `from_scratch` is set.",
        default="",
        check=checks.image_id,
        older=("source_ami",),
    )
    source_omi_filter: OmiFilter | None = option(
        "Selects the OMI to start from. With `source_omi` too, that OMI must match.",
        older=("source_ami_filter",),
    )
    from_scratch: bool = option(
        "Start from an empty volume, not from an OMI. Then `root_volume_size`,"
        " `omi_virtualization_type`, `pre_mount_commands` (which partition it and make its"
        " filesystems), `root_device_name` and `omi_block_device_mappings` are required.",
        default=False,
    )
    omi_name: str = option(
        "The name of the new OMI: 3 to 128 letters, digits, spaces and `_ ( ) / . -`, unique in"
        " your account. `{{timestamp}}` in it helps.",
        default="",
        required=True,
        check=checks.image_name,
        older=("ami_name",),
    )
    omi_description: str = option(
        "The new OMI's description.",
        default="",
        check=checks.description,
        fields=BUILD_FIELDS,
        older=("ami_description",),
    )
    omi_virtualization_type: str = option(
        "The new OMI's virtualization type: `hvm`, the only one that OUTSCALE registers.",
        default="",
        default_text="`hvm`",
        older=("ami_virtualization_type",),
        check=checks.virtualization_type,
    )
    omi_boot_modes: tuple[str, ...] = option(
        "The boot modes of the new OMI: `legacy`, `uefi` or both.",
        default=(),
        default_text="the source OMI's",
        single="boot_mode",
        each=checks.boot_mode,
    )
    omi_product_codes: tuple[str, ...] = option(
        "The product codes of the new OMI.",
        default=(),
        default_text="the source OMI's",
        older=("product_codes", "ami_product_codes"),
        each=checks.product_code,
    )
    omi_account_ids: tuple[str, ...] = option(
        "The accounts that may launch VMs from the new OMI.",
        default=(),
        older=("ami_users",),
        each=checks.account_id,
    )
    omi_groups: tuple[str, ...] = option(
        "The groups that may launch VMs from the new OMI. There is `all`, which makes it public.",
        default=(),
        older=("ami_groups",),
        each=checks.group,
    )
    global_permission: bool = option(
        "Make the new OMI public, as `all` in `omi_groups` does.", default=False
    )
    snapshot_account_ids: tuple[str, ...] = option(
        "The accounts that may make volumes from the new OMI's snapshot.",
        default=(),
        older=("snapshot_users",),
        each=checks.account_id,
    )
    snapshot_groups: tuple[str, ...] = option(
        "The groups that may make volumes from the new OMI's snapshot. There is `all`, which makes"
        " it public.",
        default=(),
        each=checks.group,
    )
    omi_regions: tuple[str, ...] = option(
        "The Regions that the new OMI is wanted in. OUTSCALE copies within one Region only, so this"
        " can only hold the Region of the build.",
        default=(),
        older=("ami_regions",),
        each=checks.region,
    )
    omi_block_device_mappings: tuple[BlockDevice, ...] = option(
        "The block devices of VMs launched from the new OMI. They stand beside those of the source"
        " OMI, or in place of those with the same name. One for the root device says how its volume"
        " is to be made from the new snapshot.",
        default=(),
        older=("ami_block_device_mappings",),
    )
    launch_block_device_mappings: tuple[BlockDevice, ...] = option(
        "The block devices of the VM that other builders launch for the build, and nothing of the new"
        " OMI. This builder launches none: they are checked, and ignored with a warning. What VMs of"
        " the new OMI get goes into `omi_block_device_mappings`.",
        default=(),
    )
    tags: Mapping[str, str] | None = option(
        "Tags of the new OMI. Keys and values are templates.",
        fields=BUILD_FIELDS,
        block="tag",
        pair=Tag,
        each=checks.tag,
    )
    snapshot_tags: Mapping[str, str] | None = option(
        "Tags of the new OMI's snapshot, beside those of the OMI; where both have a key, these win."
        " Keys and values are templates.",
        fields=BUILD_FIELDS,
        block="snapshot_tag",
        pair=Tag,
        each=checks.tag,
    )
    root_volume_tags: Mapping[str, str] | None = option(
        "Tags of the volume that is built on. Keys and values are templates.",
        fields=BUILD_FIELDS,
        block="root_volume_tag",
        pair=Tag,
        each=checks.tag,
    )
    root_volume_size: int = option(
        "The size of the root volume, in GiB. It cannot be smaller than the source OMI's. In a larger"
        " one, partition and filesystem stay as they are: cloud-init enlarges them where an OMI boots"
        " with it, or a provisioner does (`growpart`, `resize2fs`).",
        default=0,
        default_text="the size of the source OMI's root snapshot",
        check=checks.volume_size,
    )
    root_volume_type: str = option(
        "The type of the root volume: `standard`, `gp2` or `io1`.",
        default="",
        default_text="the source OMI's, `gp2` with `from_scratch`",
        check=checks.volume_type,
    )
    root_volume_iops: int = option(
        "The IOPS of a root volume of the type `io1`.",
        default=0,
        default_text="the source OMI's, where its root is `io1` too",
        check=checks.iops,
    )
    root_device_name: str = option(
        "Which of `omi_block_device_mappings` is the root device. OUTSCALE registers it as"
        " `/dev/sda1` whatever its name here.",
        default="",
        check=checks.mapped_device,
    )
    mount_path: str = option(
        "Where the root filesystem is mounted on this VM. `{{.Device}}` is the disk's name, such"
        " as `xvdf`. The default is that of Packer's older chroot builders, whose scripts may rely on"
        " it: nothing of Amazon is there.",
        default=DEFAULT_MOUNT_PATH,
        fields=(*BUILD_FIELDS, "Device"),
        check=checks.mount_path,
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
        each=checks.mount_option,
    )
    chroot_mounts: tuple[tuple[str, ...], ...] | None = option(
        "What to mount inside the chroot: lists of a filesystem type, a source and a mount point."
        " The type `bind` binds a directory of this VM. An empty list means the default.",
        default_text="`/proc`, `/sys`, `/dev` (bound), `/dev/pts`, `/proc/sys/fs/binfmt_misc`",
        each=checks.mount_triple,
    )
    copy_files: tuple[str, ...] | None = option(
        "Files and folders of this VM that stand at the same path in the chroot while provisioners"
        " run. What the image had there is put back afterwards. An empty list copies nothing.",
        default_text="`/etc/resolv.conf`, and nothing with `from_scratch`",
        each=checks.file_to_copy,
    )
    command_wrapper: str = option(
        "A template around each command that needs privileges, mounts and copies included, such as"
        " `sudo {{.Command}}`.",
        default=DEFAULT_COMMAND_WRAPPER,
        fields=("Command",),
        check=checks.command_wrapper,
    )
    device_path: str = option(
        "The device name to link the volume as. Its disk is found under whatever name this VM gives"
        " it.",
        default="",
        default_text="a free one",
        check=checks.device,
    )
    nvme_device_path: str = option(
        "The path of the disk on this VM, where it is not found by itself: `/dev/nvme1n1`. Needs"
        " `device_path` only where the volume is to be linked under a certain name.",
        default="",
        check=checks.disk_path,
    )
    pre_mount_commands: tuple[str, ...] = option(
        "Shell commands that run on this VM, with Packer's environment, after the volume is linked and"
        " before it is mounted."
        " `{{.Device}}` is the disk's path, `{{.PartitionDevice}}` that of the partition which"
        " `mount_partition` names (`{{.Device}}1` is another device where the disk's name ends in a"
        " digit).",
        default=(),
        fields=(*BUILD_FIELDS, "Device", "PartitionDevice"),
    )
    post_mount_commands: tuple[str, ...] = option(
        "Shell commands that run on this VM, with Packer's environment, after the root filesystem is"
        " mounted and before `chroot_mounts` and `copy_files`. `{{.Device}}` is the disk's path,"
        " `{{.PartitionDevice}}` the root partition's, `{{.MountPath}}` where it is mounted.",
        default=(),
        fields=(*BUILD_FIELDS, "Device", "PartitionDevice", "MountPath"),
    )
    force_deregister: bool = option(
        "Replace an OMI of that name that your account has. It stays until the new snapshot is"
        " complete, and comes back if registering the new OMI fails. `packer build -force` does the"
        " same.",
        default=False,
    )
    force_delete_snapshot: bool = option(
        "With `force_deregister`: delete the snapshots of the replaced OMI too, unless something else"
        " uses them.",
        default=False,
    )
    volume_timeout: float = option(
        "The longest wait for a volume to be created.", default=900.0, check=checks.duration
    )
    link_timeout: float = option(
        "The longest wait for the volume to be linked, and to be unlinked.",
        default=300.0,
        check=checks.duration,
    )
    snapshot_timeout: float = option(
        "The longest wait for the snapshot to be complete.",
        default=4 * 3600.0,
        check=checks.duration,
    )
    image_timeout: float = option(
        "The longest wait for an OMI to be available; that of a source OMI which is copied first"
        " too.",
        default=3600.0,
        check=checks.duration,
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
        """`copy_files` with its default; like the Go builder's, that is nothing from scratch."""
        if self.copy_files is None:
            return () if self.from_scratch else DEFAULT_COPY_FILES
        return self.copy_files

    @property
    def replaces(self) -> bool:
        """Whether the account's OMI of the new one's name is replaced."""
        return self.force_deregister or self.packer.force
