"""Prepare finds every problem at once, names its option, and touches nothing."""

import re
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from packer_plugin_osc_chroot.options.prepare import MAX_SHOWN, Prepared, prepare

STARTED = datetime(2026, 11, 22, 10, 0, 0, tzinfo=UTC)
GOOD = {
    "access_key": "AK",
    "secret_key": "SK",
    "source_omi": "ami-3e158364",
    "omi_name": "packer {{timestamp}}",
}
PACKER = {
    "packer_build_name": "x",
    "packer_builder_type": "osc-chroot",
    "packer_core_version": "1.16.0",
    "packer_debug": False,
    "packer_force": False,
    "packer_on_error": "",
    "packer_user_variables": {"who": "me", "hidden": "s3cret"},
    "packer_sensitive_variables": ["hidden"],
    "packer_template_path": "/tmp/t.json",
}


def prepared(options: Mapping[str, Any], **environ: str) -> Prepared:
    return prepare([{**options}, PACKER], started_at=STARTED, environ=environ)


def option_of(message: str) -> str:
    """The option that an error or a warning is about, without the path inside it."""
    return re.split(r"[.\[:]", message, maxsplit=1)[0]


def test_the_basic_example() -> None:
    result = prepared(GOOD)
    assert result.errors == ()
    assert result.config is not None
    assert result.config.omi_name == f"packer {int(STARTED.timestamp())}"
    assert result.config.mounts[0] == ("proc", "proc", "/proc")
    assert result.config.files == ("/etc/resolv.conf",)


def test_hcl2_order_and_nulls() -> None:
    result = prepare(
        [{**PACKER, "packer_debug": "false"}, {**GOOD, "region": None, "copy_files": []}],
        started_at=STARTED,
        environ={},
    )
    assert result.config is not None and result.config.files == ()


def test_every_problem_at_once() -> None:
    result = prepared(
        {
            "access_key": "AK",
            "omi_name": "a",
            "omi_nam": "x",
            "source_omi": "debian",
            "root_volume_size": "big",
            "root_volume_type": "ssd",
            "mount_partition": "one",
            "chroot_mounts": [["proc", "proc"]],
            "copy_files": ["resolv.conf"],
            "command_wrapper": "sudo",
            "tags": {"Name": "{{.Nope"},
            "pre_mount_commands": ["{{nofunction}}"],
            "mount_path": "mnt",
            "device_path": "xvdf",
            "custom_endpoint_oapi": "ftp://x",
        }
    )
    assert result.config is None
    named = {option_of(error) for error in result.errors}
    assert named == {
        "omi_nam",
        "omi_name",
        "source_omi",
        "root_volume_size",
        "root_volume_type",
        "mount_partition",
        "chroot_mounts",
        "copy_files",
        "command_wrapper",
        "tags",
        "pre_mount_commands",
        "mount_path",
        "device_path",
        "custom_endpoint_oapi",
        "secret_key",
    }
    assert any('did you mean "omi_name"?' in error for error in result.errors)


def test_required_options() -> None:
    result = prepared({})
    assert sorted(error.split(":")[0] for error in result.errors) == ["omi_name", "source_omi"]


def test_a_half_pair_is_completed_by_the_environment() -> None:
    options = {**GOOD, "secret_key": ""}
    assert prepared(options).errors != ()
    assert prepared(options, OSC_SECRET_KEY="SK").errors == ()


@pytest.mark.parametrize(
    "option", ["source_omi", "omi_name", "root_volume_type", "mount_partition"]
)
def test_unknown_data_source_passes(option: str) -> None:
    assert prepared({**GOOD, option: "<unknown>"}).errors == ()


def test_user_variables_and_secrets() -> None:
    result = prepared({**GOOD, "omi_name": "for {{user `who`}}"})
    assert result.config is not None and result.config.omi_name == "for me"
    assert set(result.secrets) >= {"AK", "SK", "s3cret"}


def test_late_options_are_compiled_and_kept() -> None:
    result = prepared({**GOOD, "tags": {"from": "{{.SourceOMI}}"}})
    assert result.config is not None and result.config.tags == {"from": "{{.SourceOMI}}"}


def test_a_field_that_is_not_known_at_prepare_warns() -> None:
    result = prepared({**GOOD, "region": "{{.Device}}"})
    assert any(warning.startswith("region:") for warning in result.warnings)


def test_a_template_error_is_given_once() -> None:
    result = prepared({**GOOD, "omi_name": "{{nofunction}}"})
    assert len([error for error in result.errors if error.startswith("omi_name")]) == 1


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("mount_path", "/mnt/{{.Devcie}}", "there is no field Devcie. There is: "),
        ("tags", {"home": "{{env `HOME`}}"}, "env"),
        ("pre_mount_commands", ["mkfs {{.MountPath}}"], "there is no field MountPath"),
        ("command_wrapper", "sudo {{.Device}} {{.Command}}", "there is no field Device"),
    ],
)
def test_late_templates_that_can_never_be_rendered(option: str, value: object, text: str) -> None:
    (error,) = prepared({**GOOD, option: value}).errors
    assert option_of(error) == option and text in error


def test_late_templates_that_depend_on_data_are_not_judged_by_made_up_data() -> None:
    options = {
        **GOOD,
        "tags": {"release": '{{index (split .SourceOMIName "-" 3) 0}}'},
        "omi_description": "{{.SourceOMITags.Name}} in {{.BuildRegion}}",
        "post_mount_commands": ["ls {{.MountPath}} {{.Device}} {{.SourceOMI}}"],
    }
    assert prepared(options).errors == ()


def test_prepare_loads_nothing_that_only_a_build_needs() -> None:
    """`packer validate` waits for these imports."""
    program = (
        "import sys\n"
        "from datetime import datetime, UTC\n"
        "from packer_plugin_osc_chroot.options.prepare import prepare\n"
        "options = {'source_omi': 'ami-12345678', 'omi_name': 'abc', 'tags': {'a': 'b'}}\n"
        "result = prepare([options], started_at=datetime.now(UTC), environ={})\n"
        "assert result.config is not None\n"
        "slow = {'requests', 'osc_sdk_python', 'jinja2', 'ssl', 'grpc', 'tenacity', 'asyncio'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)\n"
        "ours = {name.split('.')[1] for name in sys.modules if '_osc_chroot.' in name}\n"
        "assert ours == {'cloud', 'errors', 'options', 'template'}, ours\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "options",
    [
        {"omi_name": "{{" * 10_000},
        {"omi_name": "{{" + "f" * 1_000_000 + "}}"},
        {"omi_name": "x" * 1_000_000},
        {"tags": {"k" * 1_000_000: "{{range 1000000000}}{{end}}", "a": "{{nofunction}}"}},
        {"x" * 1_000_000: 1},
        {"omi_account_ids": ["me"] * 3_000},
        {"omi_block_device_mappings": [{"device_name": "/dev/sdb", "volume_size": 1}] * 500},
    ],
    ids=lambda options: str(options)[:24],
)
def test_huge_values_are_answered_in_a_second_and_shortly(options: dict[str, Any]) -> None:
    started = time.process_time()
    result = prepared({**GOOD, **options})
    assert time.process_time() - started < 1
    assert result.errors and max(len(error) for error in result.errors) < 2_100


@pytest.mark.parametrize(
    "options",
    [
        {"tag": [{"key": f"k{n}", "value": "v"} for n in range(10_000)]},
        {"ami_block_device_mappings": [{"device_name": "x", "size": 1}] * 3_000},
        {"omi_account_ids": ["x"] * 20_000},
        {"tags": {"." * 100_000: "x"}},
    ],
    ids=lambda options: next(iter(options)),
)
def test_much_is_looked_at_within_a_second(options: dict[str, Any]) -> None:
    begun = time.process_time()
    prepared({**GOOD, **options})
    assert time.process_time() - begun < 1


def test_more_errors_than_anybody_reads_are_counted() -> None:
    result = prepared({**GOOD, "omi_account_ids": ["x" * 5_000] * 10_000})
    assert (
        len(result.errors) == MAX_SHOWN + 1
        and result.errors[-1] == f"and {10_000 - MAX_SHOWN} more"
    )
    assert sum(map(len, result.errors)) < 1 << 20
