"""Configurations that validate must refuse: wrong types, values, combinations, spellings. Templates and
what they make are in `wrong_texts.py`.

The wrong types and spellings are made from the options table, so a new option gets its own by itself.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.options.declaration import Kind, Option, options_of

GOOD: Mapping[str, Any] = {"source_omi": "ami-12345678", "omi_name": "a good name"}
SCRATCH: Mapping[str, Any] = {
    "omi_name": "from scratch",
    "from_scratch": True,
    "omi_virtualization_type": "hvm",
    "pre_mount_commands": ["mkfs.ext4 {{.Device}}"],
    "root_volume_size": 10,
    "root_device_name": "/dev/sda1",
    "omi_block_device_mappings": [{"device_name": "/dev/sda1"}],
}
FILTER: Mapping[str, Any] = {"filters": {"image-name": "debian-*"}, "owners": ["self"]}
DATA = {"device_name": "/dev/sdb", "volume_size": 10}


@dataclass(frozen=True)
class Wrong:
    """`path` is what the error must be about, `text` what it must hold."""

    path: str
    text: str
    options: Mapping[str, Any]
    environ: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


# Each value that cannot be of the kind, and where inside of it that is seen.
_WRONG_TYPES: Mapping[Kind, tuple[tuple[Any, str], ...]] = {
    Kind.STRING: (([], ""), ({"a": "b"}, ""), ([1], "")),
    Kind.BOOL: (("maybe", ""), ([], ""), ({}, "")),
    Kind.INT: (("ten", ""), (1.5, ""), ([10], "")),
    Kind.DURATION: ((15, ""), ("15", ""), ("soon", ""), (["15m"], "")),
    Kind.STRINGS: (({}, ""), ([["a"]], "[0]"), (["a", {}], "[1]")),
    Kind.TUPLES: (("proc", ""), ({}, ""), ([["a", "b", []]], "[0][2]"), ([7], "[0]")),
    Kind.STRING_MAP: (("x", ""), (5, ""), ({"a": []}, ".a"), (["a"], "")),
    Kind.BLOCK: (("x", ""), (5, ""), (["x"], "")),
    Kind.BLOCKS: (("x", ""), (5, ""), (["x"], "[0]"), ([[]], "[0]")),
}


def inside(row: Option) -> Iterator[tuple[Option, str, Any]]:
    """A row, the path that leads to it, and a way to put a value there."""
    yield row, row.name, lambda value: {row.name: value}
    if row.table is None:
        return
    nested = row.kind is Kind.BLOCKS
    for inner in options_of(row.table):
        base = dict(FILTER) if row.kind is Kind.BLOCK else dict(DATA)
        path = f"{row.name}[0].{inner.name}" if nested else f"{row.name}.{inner.name}"

        def put(
            value: Any,
            name: str = inner.name,
            base: dict[str, Any] = base,
            nested: bool = nested,
        ) -> dict[str, Any]:
            block = {**base, name: value}
            return {row.name: [block] if nested else block}

        yield inner, path, put


def wrong_types() -> Iterator[Wrong]:
    """Every option, nested ones too, given what cannot be its type."""
    for top in options_of(Config):
        for row, path, put in inside(top):
            for value, step in _WRONG_TYPES[row.kind]:
                yield Wrong(path + step, "expected ", {**GOOD, **put(value)})


def misspellings() -> Iterator[Wrong]:
    """Every name, older ones too, with a letter missing or one too many."""
    for top in options_of(Config):
        for row, path, put in inside(top):
            for spelling in row.spellings:
                name = spelling.name
                wrong = name[:2] + name[3:] if len(name) > 4 else name + name[-1]
                options = put("x")
                _rename(options, row.name, wrong)
                expected = f"{path.removesuffix(row.name)}{wrong}"
                yield Wrong(expected, "unknown option; did you mean ", {**GOOD, **options})


def _rename(options: Any, name: str, new: str) -> None:
    if isinstance(options, list):
        for item in options:
            _rename(item, name, new)
    elif name in options:
        options[new] = options.pop(name)
    else:
        for value in options.values():
            _rename(value, name, new)


def _device(**options: Any) -> dict[str, Any]:
    return {**GOOD, "omi_block_device_mappings": [{**DATA, **options}]}


def value_of(path: str, value: Any, text: str) -> Wrong:
    return Wrong(path, text, {**GOOD, path.split("[")[0].split(".")[0]: value})


def wrong_values() -> Iterator[Wrong]:
    """Values of the right type that an option cannot have."""
    yield value_of("region", "Paris", "must be the name of a Region such as eu-west-2")
    yield value_of("region", "eu west", "must be the name of a Region")
    yield value_of("region", "eu-west-2a", 'found the Subregion "eu-west-2a"; write "eu-west-2"')
    yield value_of("subregion", "eu-west-2", "must be the name of a Subregion such as eu-west-2a")
    yield value_of("custom_endpoint_oapi", "ftp://x", "must be an endpoint such as https://")
    yield value_of("custom_endpoint_oapi", "https://a b", "must be an endpoint")
    yield value_of("custom_endpoint_oapi", "https://x:99999", "must be an endpoint")
    yield value_of("metadata_url", "169.254.169.254", "must be an address such as http://")
    yield value_of("metadata_url", "http://", "must be an address")
    yield value_of("metadata_url", "http://me:secret@h", "must be an address such as")
    yield value_of("custom_endpoint_oapi", "https://me:secret@h", "must have no user name in it")
    yield value_of("custom_endpoint_oapi", "https://h/api?x", "must be an endpoint such as")
    for name in ("access_key", "secret_key", "token"):
        pair = {"access_key": "A", "secret_key": "S"}
        for value in ("é", "a\nb", "a{{`\t`}}b"):
            yield Wrong(name, "holds characters that no key has", {**GOOD, **pair, name: value})
    yield value_of("vm_id", "vm-12345678", "must be the id of a VM such as i-1a2b3c4d")
    yield value_of("vm_id", "i-XYZ", "must be the id of a VM")
    yield value_of("source_omi", "debian", "must be the id of an OMI such as ami-1a2b3c4d")
    yield value_of("source_omi", "ami-12", "must be the id of an OMI")
    yield value_of("omi_name", "ab", "must have 3 to 128 characters, found 2")
    yield value_of("omi_name", "a" * 129, "must have 3 to 128 characters, found 129")
    yield value_of("omi_name", "a:b@c", "may hold letters, digits")
    yield value_of("omi_name", "naïve", "found 'ï'")
    yield value_of("omi_name", "{{isotime}}", "found ':'")
    yield value_of(
        "omi_virtualization_type", "paravirtual", "the only type that OUTSCALE registers"
    )
    yield value_of("omi_boot_modes[1]", ["uefi", "bios"], 'must be legacy or uefi, found "bios"')
    yield value_of("boot_mode", "legacy-bios", "must be legacy or uefi")
    yield value_of("omi_product_codes[0]", [""], "must be a product code")
    yield value_of("omi_product_codes[0]", ["a b"], "must be a product code")
    yield value_of("omi_account_ids[0]", ["12345"], "write it as a string")
    yield value_of(
        "omi_account_ids[1]", ["123456789012", "me"], "must be an account id of 12 digits"
    )
    yield value_of("omi_account_ids[0]", ["all"], "the groups take that")
    yield value_of("omi_account_ids[0]", "self", "must be an account id")
    yield value_of("omi_groups[0]", ["public"], "must be all, the only group that there is")
    yield value_of("omi_groups[0]", ["123456789012"], "accounts go to the option for account ids")
    yield value_of("snapshot_account_ids[0]", ["1234567890123"], "must be an account id")
    yield value_of("snapshot_users[0]", ["x"], "must be an account id")
    yield value_of("snapshot_groups[1]", ["all", "none"], "must be all")
    yield value_of("omi_regions[0]", ["Tokyo"], "must be the name of a Region")
    yield value_of("omi_regions[1]", ["eu-west-2", "us-east-2"], "within one Region only")
    yield value_of("ami_regions[1]", ["eu-west-2", "us-east-2"], "within one Region only")
    yield value_of("root_volume_size", -1, "must be 1 to 14901 (GiB), found -1")
    yield value_of("root_volume_size", 14_902, "must be 1 to 14901 (GiB), found 14902")
    yield value_of("root_volume_size", "1e3", 'expected a whole number, found "1e3"')
    yield value_of("root_volume_type", "gp3", "must be standard, gp2 or io1")
    yield value_of("root_volume_type", "GP2", "must be standard, gp2 or io1")
    yield value_of("root_volume_iops", 13_001, "must be 1 to 13000, found 13001")
    yield value_of("root_volume_iops", -5, "must be 1 to 13000, found -5")
    yield value_of("root_device_name", "root", "must be the name of a device")
    yield value_of("mount_path", "mnt/x", "must be an absolute path")
    yield value_of("mount_path", "./{{.Device}}", "must be an absolute path")
    yield value_of("mount_partition", "one", "must be the number of a partition")
    yield value_of("mount_partition", "-1", "must be the number of a partition")
    yield value_of("mount_partition", "/dev/sda1", "must be the number of a partition")
    yield value_of("mount_options[1]", ["noatime", ""], "must be options for mount")
    yield value_of("chroot_mounts[0]", [["proc", "proc"]], "must be three strings")
    yield value_of("chroot_mounts[1]", [["a", "b", "/c"], []], "must be three strings")
    yield value_of("chroot_mounts[0]", [["", "proc", "/proc"]], "found an empty string")
    yield value_of(
        "chroot_mounts[0]", [["proc", "proc", "proc"]], "must name an absolute mount point"
    )
    yield value_of("chroot_mounts[0]", [["bind", "dev", "/dev"]], "must bind an absolute path")
    yield value_of("copy_files[1]", ["/etc/hosts", "resolv.conf"], "must be the absolute path")
    yield value_of("copy_files[0]", ["/"], "must be the absolute path of a file")
    yield value_of("command_wrapper", "sudo", "must hold {{.Command}}")
    yield value_of("device_path", "xvdf", "must be /dev/xvdX or /dev/sdX")
    yield value_of("device_path", "/dev/xvda", "must be /dev/xvdX or /dev/sdX")
    yield value_of("device_path", "/dev/nvme1n1", "must be /dev/xvdX or /dev/sdX")
    yield value_of("nvme_device_path", "nvme1n1", "must be the path of a disk")
    yield value_of("nvme_device_path", "/dev/", "must be the path of a disk")
    yield value_of("volume_timeout", "0s", "must be longer than 0")
    yield value_of("link_timeout", "-5m", "must be longer than 0")
    yield value_of("snapshot_timeout", "4 h", "expected a duration")
    yield value_of("image_timeout", "1d", "expected a duration")
    yield value_of("image_timeout", "0", "must be longer than 0")
    yield value_of("mfa_code", "123456", "takes no code with an access key")
    yield value_of("tags.Name", {"Name": "x" * 256}, "must have at most 255 characters, found 256")
    yield value_of("tags.", {"": "x"}, "must have 1 to 255 characters, found 0")
    yield value_of("snapshot_tags." + "k" * 256, {"k" * 256: "x"}, "must have 1 to 255 characters")
    yield value_of("root_volume_tags.a", {"a": "x" * 300}, "must have at most 255 characters")
    yield value_of("tag[0].key", [{"value": "x"}], "required, and not set")
    yield value_of("tag[0].name", [{"key": "a", "name": "x"}], "unknown option")
    yield value_of("snapshot_tag[0].key", [{"key": [], "value": "x"}], "expected a string")
    yield value_of("root_volume_tag.Name", [{"key": "Name", "value": "x" * 256}], "at most 255")


def wrong_filters() -> Iterator[Wrong]:
    """Mistakes in source_omi_filter."""

    def wrong(step: str, text: str, **options: Any) -> Wrong:
        given = {"omi_name": "abc", "source_omi_filter": {**FILTER, **options}}
        return Wrong(f"source_omi_filter{step}", text, given)

    yield wrong(".owners", "required, and not set", owners=None)
    yield wrong(".owners", "required, and not set", owners=[])
    yield wrong(".owners[0]", "must be an account id of 12 digits", owners=["12345"])
    yield wrong(".owners[0]", "must be an account id, an account alias or self", owners=["a b"])
    yield wrong(".owners[1]", "must be an account id, an account alias", owners=["self", ""])
    yield wrong(".most_recent", "expected true or false", most_recent="newest")
    for name, value, text in (
        ("image-nam", "x", 'unknown filter; did you mean "image-name"?'),
        ("ImageName", "x", 'unknown filter; did you mean "ImageNames"?'),
        ("virtualization_type", "hvm", 'did you mean "virtualization-type"?'),
        ("color", "red", "unknown filter"),
        ("tag:", "x", "must be tag:KEY, found no key"),
        ("virtualization-type", "paravirtual", "must be hvm"),
        ("VirtualizationTypes", "pv", "must be hvm"),
        ("root-device-type", "instance-store", "must be bsu"),
        ("architecture", "arm64", "must be i386 or x86_64"),
        ("state", "deregistered", "must be pending or available or failed"),
        ("boot-mode", "bios", "must be legacy or uefi"),
        ("hypervisor", "kvm", "must be xen"),
        ("is-public", "yes", "must be true or false"),
        ("SecureBoot", "on", "must be true or false"),
        ("block-device-mapping.volume-size", "ten", "must be a whole number"),
        ("BlockDeviceMappingVolumeTypes", "gp3", "must be standard or gp2 or io1"),
        ("image-name", "", "must have a value"),
        ("image-name", [], "expected a string"),
    ):
        yield wrong(f".filters.{name}", text, filters={name: value})
    both = {"image-name": "a", "name": "b"}
    yield wrong(".filters", "are the same filter; give one of them", filters=both)
    yield wrong(".filter[0].name", "required, and not set", filter=[{"value": "x"}])
    yield wrong(".filter.colour", "unknown filter", filter=[{"name": "colour", "value": "x"}])


def wrong_devices() -> Iterator[Wrong]:
    """Mistakes in block device mappings, alone and together."""
    option = "omi_block_device_mappings"

    def wrong(name: str, text: str, **options: Any) -> Wrong:
        return Wrong(f"{option}[0].{name}", text, _device(**options))

    def several(path: str, text: str, *mappings: Mapping[str, Any], **options: Any) -> Wrong:
        return Wrong(path, text, {**GOOD, **options, option: list(mappings)})

    yield wrong("device_name", "required, and not set", device_name=None)
    yield wrong("device_name", "must be the name of a device", device_name="disk1")
    yield wrong("device_name", "must be the name of a device", device_name="/dev/nvme0n1")
    yield wrong("device_name", "else sdX or xvdX", device_name="xvdb1")
    yield wrong("device_name", "must be the name of a device", device_name="/dev/sda2")
    yield wrong("iops", "goes with volume type io1 only", volume_type="gp2", iops=100)
    yield wrong("iops", "required with volume type io1", volume_type="io1")
    yield wrong("iops", "must be 1 to 13000", volume_type="io1", iops=14_000)
    yield wrong("iops", "at most 300 for each GiB, 3000 for", volume_type="io1", iops=3_001)
    yield wrong("volume_type", "required with iops: io1", iops=100)
    yield wrong("volume_type", "must be standard, gp2 or io1", volume_type="ssd")
    yield wrong("volume_size", "required without snapshot_id", volume_size=0)
    yield wrong("volume_size", "must be 1 to 14901", volume_size=20_000)
    yield wrong("snapshot_id", "must be the id of a snapshot", snapshot_id="vol-12345678")
    yield wrong("virtual_name", "must be ephemeral0", virtual_name="swap")
    yield wrong("volume_size", "cannot go with virtual_name", virtual_name="ephemeral0")
    yield wrong("volume_size", "cannot go with no_device", no_device=True)
    yield wrong("volume_sise", 'did you mean "volume_size"?', volume_sise=10)
    yield wrong("encrypted", "unknown option", encrypted=True)
    yield wrong(
        "delete_on_termination",
        "are the same option",
        delete_on_vm_deletion=True,
        delete_on_termination=True,
    )
    again = {**DATA, "device_name": "xvdb"}
    yield several(f"{option}[1].device_name", "the same device", DATA, again)
    yield several(f"{option}[1].iops", "expected a whole number", DATA, {**DATA, "iops": "x"})
    root = {"device_name": "/dev/sda1"}
    for name, value in (
        ("no_device", True),
        ("virtual_name", "ephemeral0"),
        ("snapshot_id", "snap-12345678"),
    ):
        path = f"{option}[0].{name}"
        yield several(path, "cannot be set for the root device", {**root, name: value})
    fast = {**root, "volume_type": "io1"}
    path = f"{option}[0].iops"
    yield several(path, "as the volume built on is gp2", fast, root_volume_type="gp2")
    small = {**root, "volume_size": 5}
    path = f"{option}[0].volume_size"
    yield several(path, "must be at least root_volume_size", small, root_volume_size=10)
    path = f"{option}[0].iops"
    yield several(path, "io1 only", {**root, "iops": 100}, root_volume_type="gp2")
    yield several(
        "root_device_name", "must be the device_name of one", DATA, root_device_name="sdc"
    )
    launched = {"launch_block_device_mappings": [{"device_name": "/dev/sdb"}]}
    path = "launch_block_device_mappings[0].volume_size"
    yield Wrong(path, "required without snapshot_id", {**GOOD, **launched})
    older = {"ami_block_device_mappings": [{"device_name": "/dev/sdb"}]}
    path = "ami_block_device_mappings[0].volume_size"
    yield Wrong(path, "required without snapshot_id", {**GOOD, **older})


def wrong_combinations() -> Iterator[Wrong]:
    """Options that do not go together, or not without another."""
    yield Wrong("source_omi", "neither it nor source_omi_filter", {"omi_name": "abc"})
    yield Wrong("source_omi", "nor from_scratch", {"omi_name": "abc", "from_scratch": False})
    yield Wrong("omi_name", "required, and not set", {"source_omi": "ami-12345678"})
    yield Wrong("omi_name", "required, and not set", {**GOOD, "omi_name": ""})
    yield Wrong("secret_key", "required with access_key", {**GOOD, "access_key": "a"})
    yield Wrong("access_key", "required with secret_key", {**GOOD, "secret_key": "a"})
    yield Wrong("access_key", "required with token", {**GOOD, "token": "t"})
    yield Wrong("x509_cert_path", "required with x509_key_path", {**GOOD, "x509_key_path": "/k"})
    yield Wrong("vm_id", "skip_metadata_api_check", {**GOOD, "skip_metadata_api_check": True})
    places = {"region": "eu-west-2", "subregion": "us-east-2a"}
    yield Wrong("subregion", "must be one of the Region", {**GOOD, **places})
    regions = {**GOOD, "region": "eu-west-2", "omi_regions": ["us-east-2"]}
    yield Wrong("omi_regions[0]", 'must be "eu-west-2", the Region of the build', regions)
    yield Wrong(
        "omi_regions[0]",
        'must be "eu-west-2"',
        {**GOOD, "omi_regions": ["us-east-2"]},
        {"OSC_REGION": "eu-west-2"},
    )
    iops = {**GOOD, "root_volume_type": "gp2", "root_volume_iops": 100}
    yield Wrong("root_volume_iops", "io1 only", iops)
    iops = {**GOOD, "root_volume_type": "io1", "root_volume_iops": 3_001, "root_volume_size": 10}
    yield Wrong("root_volume_iops", "at most 300 for each GiB", iops)
    for name in SCRATCH:
        if name not in ("omi_name", "from_scratch"):
            without = {key: value for key, value in SCRATCH.items() if key != name}
            yield Wrong(name, "required with from_scratch", without)
    yield Wrong("root_volume_iops", "io1 only", {**SCRATCH, "root_volume_iops": 100})
    io1 = {**SCRATCH, "root_volume_type": "io1"}
    yield Wrong("root_volume_iops", "required with volume type io1", io1)
    other = {**SCRATCH, "root_device_name": "xvdf"}
    yield Wrong("root_device_name", "must be the device_name of one", other)
    two = {**SCRATCH, "root_device_name": "xvdf"}
    two["omi_block_device_mappings"] = [{"device_name": "xvdf"}, {"device_name": "/dev/sda1"}]
    yield Wrong("omi_block_device_mappings[1].device_name", "is the same device as", two)
    for own, value in (("omi_name", "abc"), ("source_omi", "ami-12345678"), *_LISTS):
        for row in options_of(Config):
            if row.name == own:
                for older in row.older:
                    given = {**GOOD, own: value, older: value}
                    yield Wrong(older, "are the same option; give one of them", given)
    modes = {**GOOD, "omi_boot_modes": ["uefi"], "boot_mode": "uefi"}
    yield Wrong("boot_mode", "are the same option", modes)


_LISTS: tuple[tuple[str, Any], ...] = (
    ("omi_description", "x"),
    ("omi_virtualization_type", "hvm"),
    ("omi_product_codes", ["0001"]),
    ("omi_account_ids", ["123456789012"]),
    ("omi_groups", ["all"]),
    ("snapshot_account_ids", ["123456789012"]),
    ("omi_regions", ["eu-west-2"]),
    ("omi_block_device_mappings", [DATA]),
    ("source_omi_filter", FILTER),
)


def all_wrong() -> list[Wrong]:
    """All of this module."""
    return [
        *wrong_types(),
        *misspellings(),
        *wrong_values(),
        *wrong_filters(),
        *wrong_devices(),
        *wrong_combinations(),
    ]
