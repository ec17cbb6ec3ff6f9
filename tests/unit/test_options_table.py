"""The table is the one place that declares an option: what it says is all that anything knows."""

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from packer_plugin_osc_chroot import generate
from packer_plugin_osc_chroot.options import config, declaration, prepare
from packer_plugin_osc_chroot.options.blocks import BlockDevice, OmiFilter
from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.options.declaration import Option, options_of

GOOD: Mapping[str, Any] = {"source_omi": "ami-12345678", "omi_name": "a good name"}
BY_NAME = {row.name: row for row in options_of(Config)}


def test_a_row_that_is_removed_is_unknown_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(table: type) -> list[Option]:
        return [row for row in declaration.options_of(table) if row.name != "omi_groups"]

    given = [{**GOOD, "omi_groups": ["all"]}, {"packer_build_name": "x"}]
    started = datetime.now(UTC)
    assert prepare.prepare(given, started_at=started, environ={}).errors == ()
    assert "omi_groups" in generate.components()["components"][0]["config"]["attributes"]
    assert "`omi_groups`" in generate.reference()

    monkeypatch.setattr(prepare, "options_of", without)
    monkeypatch.setattr(generate, "options_of", without)
    (error,) = prepare.prepare(given, started_at=started, environ={}).errors
    assert error.startswith("omi_groups: unknown option")
    spec = generate.components()["components"][0]["config"]
    assert not {"omi_groups", "ami_groups"} & {*spec["attributes"], *spec["blocks"]}
    assert "omi_groups`" not in generate.reference().replace("as `all` in `omi_groups` does", "")


def test_every_field_is_a_row_but_what_packer_says() -> None:
    fields = {field.name for field in dataclasses.fields(Config)}
    assert fields - {row.name for row in options_of(Config)} == {"packer"}


def test_names_are_given_once() -> None:
    for table in (Config, OmiFilter, BlockDevice):
        names = [spelling.name for row in options_of(table) for spelling in row.spellings]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("row", BY_NAME.values(), ids=lambda row: row.name)
def test_every_row_has_a_text_and_a_spec_of_each_spelling(row: Option) -> None:
    assert row.doc.endswith(".") and f"`{row.name}`" in generate.reference()
    spec = generate.components()["components"][0]["config"]
    for spelling in row.spellings:
        place = "blocks" if spelling.table else "attributes"
        assert spelling.name in spec[place]


def test_the_reference_says_what_a_block_must_have() -> None:
    lines = generate.reference().splitlines()
    required = [line.split("`")[1] for line in lines if line.endswith(" Required.")]
    assert required == [
        row.name for table in (OmiFilter, BlockDevice) for row in options_of(table) if row.required
    ]


def test_what_the_shim_is_told() -> None:
    spec = generate.components()["components"][0]["config"]
    assert spec["attributes"]["boot_mode"] == {"type": "string", "required": False}
    assert spec["attributes"]["omi_boot_modes"]["type"] == ["list", "string"]
    assert spec["attributes"]["snapshot_timeout"]["type"] == "string"
    assert spec["attributes"]["chroot_mounts"]["type"] == ["list", ["list", "string"]]
    assert spec["blocks"]["source_omi_filter"]["nesting"] == "single"
    assert set(spec["blocks"]["source_omi_filter"]["blocks"]) == {"filter"}
    assert spec["blocks"]["ami_block_device_mappings"]["nesting"] == "list"
    device = spec["blocks"]["omi_block_device_mappings"]["attributes"]
    assert device["delete_on_termination"] == device["delete_on_vm_deletion"]
    assert set(spec["blocks"]["tag"]["attributes"]) == {"key", "value"}


def test_secrets_are_marked() -> None:
    secret = {row.name for row in options_of(Config) if row.secret}
    assert secret == {"access_key", "secret_key", "token", "mfa_code"}


def test_defaults_are_what_an_empty_config_has() -> None:
    empty = Config()
    for row in options_of(Config):
        assert getattr(empty, row.name) == row.default
    assert (empty.volume_timeout, empty.link_timeout) == (900, 300)
    assert (empty.snapshot_timeout, empty.image_timeout) == (4 * 3600, 3600)
    assert empty.files == config.DEFAULT_COPY_FILES
    assert Config(from_scratch=True).files == ()
    assert Config(from_scratch=True, copy_files=("/etc/hosts",)).files == ("/etc/hosts",)
