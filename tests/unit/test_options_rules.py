"""What Prepare makes of right configurations: older spellings, blocks, weak types, warnings."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from wrong_configurations import GOOD, SCRATCH

from packer_plugin_osc_chroot.options.blocks import BlockDevice, OmiFilter
from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.options.declaration import Kind, Option, options_of
from packer_plugin_osc_chroot.options.prepare import Prepared, prepare


def prepared(
    options: Mapping[str, Any], environ: Mapping[str, str] | None = None, *, force: bool = False
) -> Prepared:
    packer = {"packer_build_name": "web", "packer_force": force}
    return prepare([options, packer], started_at=datetime.now(UTC), environ=environ or {})


def config(options: Mapping[str, Any]) -> Config:
    result = prepared(options)
    assert result.errors == () and result.config is not None
    return result.config


def test_building_from_scratch_as_older_templates_do_it() -> None:
    result = prepared(
        {
            "ami_name": "scratch {{timestamp}}",
            "from_scratch": "true",
            "ami_virtualization_type": "hvm",
            "pre_mount_commands": ["mkfs.ext4 {{.Device}}1"],
            "root_volume_size": "15",
            "root_device_name": "xvdf",
            "ami_block_device_mappings": [
                {"device_name": "xvdf", "delete_on_termination": True, "volume_type": "gp2"}
            ],
        }
    )
    assert result.errors == () and result.config is not None
    (device,) = result.config.omi_block_device_mappings
    assert device == BlockDevice(device_name="xvdf", delete_on_vm_deletion=True, volume_type="gp2")
    assert device.name == "/dev/xvdf"
    assert result.config.root_volume_size == 15
    warned = [warning.split(":")[0] for warning in result.warnings]
    assert warned == [
        "ami_name",
        "ami_virtualization_type",
        "ami_block_device_mappings",
        "ami_block_device_mappings[0].delete_on_termination",
        "root_device_name",
    ]
    assert 'write "omi_name"' in result.warnings[0]
    assert "registered as /dev/sda1" in result.warnings[-1]


@pytest.mark.parametrize(
    ("row", "older"), [(row, older) for row in options_of(Config) for older in row.older]
)
def test_older_spellings_mean_the_same(row: Option, older: str) -> None:
    values: dict[str, Any] = {
        "source_omi": "ami-87654321",
        "source_omi_filter": {"filters": {}, "owners": ["self"]},
        "omi_name": "another",
        "omi_description": "text",
        "omi_virtualization_type": "hvm",
        "omi_block_device_mappings": [{"device_name": "sdb", "volume_size": 1}],
        "omi_account_ids": ["123456789012"],
        "snapshot_account_ids": ["123456789012"],
        "omi_groups": ["all"],
        "omi_regions": ["eu-west-2"],
        "omi_product_codes": ["0001"],
    }
    base = {name: value for name, value in GOOD.items() if name != row.name}
    today = config({**base, row.name: values[row.name]})
    result = prepared({**base, older: values[row.name]})
    assert result.config == today
    assert any(warning.startswith(f"{older}: an older spelling") for warning in result.warnings)


def test_tag_blocks_join_the_maps() -> None:
    found = config(
        {
            **GOOD,
            "tags": {"a": "1", "b": "2"},
            "tag": [{"key": "b", "value": "{{.SourceOMI}}"}, {"key": "c", "value": ""}],
            "snapshot_tag": {"key": "d", "value": "4"},
            "root_volume_tag": [],
        }
    )
    assert found.tags == {"a": "1", "b": "{{.SourceOMI}}", "c": ""}
    assert found.snapshot_tags == {"d": "4"}
    assert found.root_volume_tags is None


def test_a_mistake_in_the_map_is_said_once_and_not_of_the_blocks() -> None:
    given = {**GOOD, "tags": {"": "1"}, "tag": [{"key": "a", "value": "2"}]}
    (error,) = prepared(given).errors
    assert error.startswith("tags.: a tag's key")
    two = {"owners": ["self"], "filters": {"name": "a"}, "filter": {"name": "image-name"}}
    (error, same) = prepared({"omi_name": "abc", "source_omi_filter": two}).errors
    assert error.startswith("source_omi_filter.filter.image-name: must have a value")
    assert '"name" and "image-name" are the same filter' in same


def test_filters_as_a_map_and_as_blocks() -> None:
    given = {
        "owners": "self,099720109477",
        "filters": {"tag:{{build_name}}": "yes"},
        "filter": [{"name": "image-name", "value": "debian*"}],
        "most_recent": "1",
    }
    found = config({"omi_name": "abc", "source_omi_filter": given})
    assert found.source_omi_filter == OmiFilter(
        filters={"tag:web": "yes", "image-name": "debian*"},
        owners=("self", "099720109477"),
        most_recent=True,
    )


def test_one_boot_mode_is_a_list_of_one() -> None:
    assert config({**GOOD, "boot_mode": "uefi"}).omi_boot_modes == ("uefi",)
    assert config({**GOOD, "boot_mode": ""}).omi_boot_modes == ()


def test_durations() -> None:
    found = config({**GOOD, "volume_timeout": "1h30m", "link_timeout": "", "image_timeout": "0.5s"})
    assert (found.volume_timeout, found.link_timeout, found.image_timeout) == (5400, 300, 0.5)


@pytest.mark.parametrize("row", options_of(Config), ids=lambda row: row.name)
def test_what_core_does_not_know_yet_passes(row: Option) -> None:
    unknown: dict[Kind, Any] = {
        Kind.STRINGS: ["<unknown>"],
        Kind.TUPLES: [["<unknown>"]],
        Kind.STRING_MAP: {"<unknown>": "<unknown>"},
        Kind.BLOCK: {
            "owners": ["<unknown>"],
            "filters": {"image-name": "<unknown>", "<unknown>": "x"},
        },
        Kind.BLOCKS: [{"device_name": "<unknown>", "snapshot_id": "<unknown>", "iops": 7}],
    }
    base = {**GOOD, "access_key": "AK", "secret_key": "SK"}
    if row.name == "x509_key_path":
        base["x509_cert_path"] = "<unknown>"
    result = prepared({**base, row.name: unknown.get(row.kind, "<unknown>")})
    assert result.errors == ()
    if row.kind in (Kind.STRINGS, Kind.TUPLES, Kind.STRING_MAP):
        assert prepared({**base, row.name: "<unknown>"}).errors == ()


def test_scratch_with_what_core_does_not_know_yet() -> None:
    devices = [{"device_name": "<unknown>", "volume_type": "<unknown>"}]
    options = {**SCRATCH, "omi_block_device_mappings": devices, "root_device_name": "<unknown>"}
    assert prepared(options).errors == ()


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({**SCRATCH, "source_omi": "ami-12345678"}, "source_omi: ignored with from_scratch"),
        (
            {**SCRATCH, "source_omi_filter": {"owners": ["self"]}},
            "source_omi_filter: ignored with from_scratch",
        ),
        ({**GOOD, "root_device_name": "sda1"}, "root_device_name: ignored without"),
        (
            {**GOOD, "launch_block_device_mappings": [{"device_name": "sdb", "volume_size": 1}]},
            "launch_block_device_mappings: ignored: they are those of a VM launched for the build",
        ),
        ({**GOOD, "force_delete_snapshot": True}, "force_delete_snapshot: ignored without"),
        (
            {
                **SCRATCH,
                "omi_block_device_mappings": [
                    {"device_name": "/dev/sda1"},
                    {"device_name": "xvdb", "no_device": True},
                ],
            },
            "omi_block_device_mappings[1].no_device: ignored with from_scratch",
        ),
    ],
)
def test_what_is_ignored_is_a_warning(options: Mapping[str, Any], warning: str) -> None:
    result = prepared(options)
    assert result.errors == ()
    assert any(each.startswith(warning) for each in result.warnings)


def test_nothing_is_ignored_where_packer_is_forced() -> None:
    assert prepared({**GOOD, "force_delete_snapshot": True}, force=True).warnings == ()
    both = {**GOOD, "force_delete_snapshot": True, "force_deregister": True}
    assert prepared(both).warnings == ()


@pytest.mark.parametrize(
    "mapping",
    [
        {"device_name": "xvdb", "volume_size": 10},
        {"device_name": "/dev/sdba", "snapshot_id": "snap-12345678"},
        {"device_name": "sdc", "volume_size": 10, "volume_type": "io1", "iops": 3000},
        {"device_name": "xvdd", "snapshot_id": "snap-12345678", "volume_type": "io1", "iops": 1},
        {"device_name": "/dev/xvde", "virtual_name": "ephemeral0"},
        {"device_name": "/dev/xvdf", "no_device": True},
        {"device_name": "/dev/sda1", "volume_type": "gp2", "delete_on_vm_deletion": False},
        {"device_name": "sda1", "volume_size": 100},
        {"device_name": "/dev/sda1", "volume_type": "io1"},
    ],
)
def test_right_mappings(mapping: Mapping[str, Any]) -> None:
    for option in ("omi_block_device_mappings", "launch_block_device_mappings"):
        assert prepared({**GOOD, option: [mapping]}).errors == ()


@pytest.mark.parametrize(
    "options",
    [
        {"root_volume_type": "io1"},
        {"root_volume_iops": 100},
        {"root_volume_type": "io1", "root_volume_iops": 13_000},
        {"region": "eu-west-2", "omi_regions": ["eu-west-2", "eu-west-2"]},
        {"omi_regions": ["cloudgouv-eu-west-1"]},
        {"vm_id": "i-1a2b3c4d", "skip_metadata_api_check": True},
        {"region": "eu-west-2", "subregion": "eu-west-2b"},
        {"access_key": "a", "secret_key": "b", "token": "t"},
        {"x509_cert_path": "/both.pem"},
        {"profile": "mine", "token": "t", "x509_key_path": "/k.pem"},
        {"metadata_url": "http://127.0.0.1:8080"},
    ],
)
def test_right_combinations(options: Mapping[str, Any]) -> None:
    assert prepared({**GOOD, **options}).errors == ()


def test_the_environment_completes_the_template() -> None:
    keys = {"OSC_ACCESS_KEY": "a", "OSC_X509_CLIENT_CERT": "/c"}
    assert prepared({**GOOD, "secret_key": "b", "token": "t"}, keys).errors == ()
    assert prepared({**GOOD, "x509_key_path": "/k"}, keys).errors == ()
    regions = {**GOOD, "omi_regions": ["eu-west-2"]}
    assert prepared(regions, {"OSC_REGION": "eu-west-2"}).errors == ()


def test_scratch_takes_type_and_iops_from_the_roots_mapping() -> None:
    root = {"device_name": "/dev/sda1", "volume_type": "io1", "iops": 1000}
    assert prepared({**SCRATCH, "omi_block_device_mappings": [root]}).errors == ()


def test_a_root_device_name_that_is_not_known_yet_is_not_called_ignored() -> None:
    mapped = {**GOOD, "omi_block_device_mappings": [{"device_name": "xvdf"}]}
    assert prepared({**mapped, "root_device_name": "<unknown>"}).warnings == ()
    (warning,) = prepared({**GOOD, "root_device_name": "<unknown>"}).warnings
    assert warning == "root_device_name: ignored without omi_block_device_mappings"


def test_a_key_that_is_given_twice_is_warned_of_and_the_last_counts() -> None:
    result = prepared(
        {
            **GOOD,
            "tags": {"Name": "map", "{{`a`}}": "x"},
            "tag": [{"key": "Name", "value": "one"}, {"key": "Name", "value": "two"}],
            "source_omi_filter": {
                "filters": {"image-name": "map", "{{`state`}}": "pending", "state": "available"},
                "filter": [{"name": "image-name", "value": "block"}],
                "owners": ["self"],
            },
        }
    )
    assert result.errors == () and result.config is not None
    assert result.config.tags == {"Name": "two", "{{`a`}}": "x"}
    assert result.config.source_omi_filter is not None
    assert result.config.source_omi_filter.filters == {"image-name": "block", "state": "available"}
    assert result.warnings == (
        'source_omi_filter.filters: "state" is "state", which is given before; this one counts',
        'source_omi_filter.filter[0].name: "image-name" is given before; this one counts',
        'tag[0].key: "Name" is given before; this one counts',
        'tag[1].key: "Name" is given before; this one counts',
    )


def test_null_and_0_are_not_set() -> None:
    assert config({**GOOD, "root_volume_size": 0, "root_volume_iops": 0}) == config(GOOD)
    assert config({**GOOD, "tags": {"a": None, "b": ""}}).tags == {"b": ""}
    assert config({**GOOD, "tags": {"a": None}}).tags == {}
    assert config({**GOOD, "tag": [{"key": "a", "value": None}]}).tags == {"a": ""}
    errors = prepared({**SCRATCH, "root_volume_size": 0}).errors
    assert errors == ("root_volume_size: required with from_scratch, and not set",)


def test_a_long_description_is_warned_of() -> None:
    result = prepared({**GOOD, "omi_description": "x" * 256})
    assert result.config is not None
    (warning,) = result.warnings
    assert warning.startswith("omi_description: has 256 characters; more than 255 may be refused")
    assert prepared({**GOOD, "omi_description": "x" * 255}).warnings == ()


def test_user_variables_that_hcl2_has_not_are_told_in_late_options_too() -> None:
    raw = [{**GOOD, "tags": {"a": "{{.SourceOMI}}{{user `x`}}"}}]
    result = prepare(raw, started_at=datetime.now(UTC), environ={})
    assert [error.split(". ")[0] for error in result.errors] == [
        'tags.a: there are no user variables: `user` cannot give "x"'
    ]
