"""`packer validate`: every option in both template languages, every mistake at once, every example."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from documents import PAGES, ROOT, blocks
from packer_run import Outcome, Packer

from packer_plugin_osc_chroot.options.blocks import BlockDevice, OmiFilter
from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.options.declaration import options_of

pytestmark = pytest.mark.e2e

EVERY_OPTION = """
source "osc-chroot" "all" {
  access_key               = "AK"
  secret_key               = "SK"
  token                    = "a token"
  profile                  = "mine"
  x509_cert_path           = "/c.pem"
  x509_key_path            = "/k.pem"
  region                   = "eu-west-2"
  skip_region_validation   = true
  custom_endpoint_oapi     = "api.example.com:8443"
  insecure_skip_tls_verify = true
  vm_id                    = "i-12345678"
  subregion                = "eu-west-2a"
  metadata_url             = "http://127.0.0.1:1"
  skip_metadata_api_check  = true

  source_omi = "ami-12345678"
  source_omi_filter {
    filters = { "virtualization-type" = "hvm", "tag:Kind" = "base" }
    filter {
      name  = "image-name"
      value = "debian-*"
    }
    owners      = ["self", "Outscale", "123456789012"]
    most_recent = true
  }

  from_scratch            = false
  omi_name                = "all {{timestamp}}"
  omi_description         = "from {{.SourceOMI}}"
  omi_virtualization_type = "hvm"
  omi_boot_modes          = ["legacy", "uefi"]
  omi_product_codes       = ["0001"]
  omi_account_ids         = ["123456789012"]
  omi_groups              = ["all"]
  global_permission       = true
  snapshot_account_ids    = ["123456789012"]
  snapshot_groups         = ["all"]
  omi_regions             = ["eu-west-2"]

  omi_block_device_mappings {
    device_name           = "/dev/sda1"
    volume_type           = "gp2"
    volume_size           = 30
    delete_on_vm_deletion = true
  }
  omi_block_device_mappings {
    device_name = "xvdb"
    snapshot_id = "snap-12345678"
    volume_type = "io1"
    iops        = 1000
  }
  omi_block_device_mappings {
    device_name  = "sdc"
    virtual_name = "ephemeral0"
  }
  omi_block_device_mappings {
    device_name = "/dev/sdd"
    no_device   = true
  }

  tags = { Name = "{{.SourceOMIName}}" }
  tag {
    key   = "Region"
    value = "{{.BuildRegion}}"
  }
  snapshot_tags = { Name = "root" }
  snapshot_tag {
    key   = "Kind"
    value = "root"
  }
  root_volume_tags = { Name = "work" }
  root_volume_tag {
    key   = "Kind"
    value = "work"
  }

  root_volume_size = 20
  root_volume_type = "io1"
  root_volume_iops = 500
  root_device_name = "/dev/sda1"

  mount_path            = "/mnt/{{.Device}}"
  mount_partition       = "2"
  mount_options         = ["noatime"]
  chroot_mounts         = [["proc", "proc", "/proc"], ["bind", "/dev", "/dev"]]
  copy_files            = []
  command_wrapper       = "sudo {{.Command}}"
  device_path           = "/dev/xvdf"
  nvme_device_path      = "/dev/nvme1n1"
  pre_mount_commands    = ["ls {{.Device}}"]
  post_mount_commands   = ["ls {{.MountPath}} {{.PartitionDevice}}"]
  force_deregister      = true
  force_delete_snapshot = true
  volume_timeout        = "10m"
  link_timeout          = "90s"
  snapshot_timeout      = "1h30m"
  image_timeout         = "30m"
}

build {
  sources = ["source.osc-chroot.all"]
}
"""
# In the spellings of older templates, and with everything that can be text as text.
LEGACY = {
    "ami_name": "scratch {{timestamp}}",
    "from_scratch": "true",
    "ami_virtualization_type": "hvm",
    "pre_mount_commands": ["mkfs.ext4 {{.Device}}1"],
    "root_volume_size": "15",
    "root_device_name": "xvdf",
    "ami_block_device_mappings": [
        {"device_name": "xvdf", "delete_on_termination": "true", "volume_type": "gp2"}
    ],
    "snapshot_users": "123456789012",
    "product_codes": "0001,0002",
    "boot_mode": "uefi",
    "tag": {"key": "a", "value": "b"},
}
# Blocks of options as users write them in JSON, each with what it needs to be a template.
JSON_BLOCKS: dict[str, dict[str, Any]] = {
    "basic": {"source_omi": "ami-3e158364", "omi_name": "packer-outscale-chroot {{timestamp}}"},
    "filter": {
        "omi_name": "abc",
        "source_omi_filter": {
            "filters": {
                "virtualization-type": "hvm",
                "image-name": "ubuntu/images/*ubuntu-xenial-16.04-amd64-server-*",
                "root-device-type": "ebs",
            },
            "owners": ["099720109477"],
        },
    },
    "mounts": {
        "source_omi": "ami-3e158364",
        "omi_name": "abc",
        "chroot_mounts": [["proc", "proc", "/proc"], ["bind", "/dev", "/dev"]],
    },
    "scratch": LEGACY,
}


def validate(packer: Packer, directory: Path, name: str, content: str) -> Outcome:
    (directory / name).write_text(content)
    return packer.run("validate", name, cwd=directory)


def words(outcome: Outcome) -> str:
    """What was said, without Packer's line breaks."""
    return " ".join(outcome.output.split())


def as_json(**options: Any) -> str:
    return json.dumps({"builders": [{"type": "osc-chroot", **options}]})


def test_every_option_is_there() -> None:
    """Of each table; those that are always warned of, or refused, have tests of their own."""
    shown = set(re.findall(r"^ *(\w+) +[={]", EVERY_OPTION, re.MULTILINE))
    tables = (Config, OmiFilter, BlockDevice)
    options = {row.name for table in tables for row in options_of(table)}
    assert options - shown == {"launch_block_device_mappings", "mfa_code"}


@pytest.mark.parametrize("encoding", ["protobuf", "gob"])
def test_every_option_in_hcl2(packer: Packer, tmp_path: Path, encoding: str) -> None:
    (tmp_path / "all.pkr.hcl").write_text(EVERY_OPTION)
    extra = {"PACKER_FORCE_GOB": "1"} if encoding == "gob" else {}
    outcome = packer.run("validate", "all.pkr.hcl", cwd=tmp_path, extra=extra)
    assert outcome.status == 0, outcome.output
    assert "arning" not in outcome.output


def test_older_spellings_in_hcl2(packer: Packer, tmp_path: Path) -> None:
    older = EVERY_OPTION.replace(" omi_block_device_mappings", " ami_block_device_mappings")
    older = older.replace("delete_on_vm_deletion", "delete_on_termination")
    older = older.replace("  omi_name  ", "  ami_name  ").replace(
        "omi_boot_modes          = [", "#"
    )
    older = older.replace("  image_timeout", '  boot_mode = "uefi"\n  image_timeout')
    outcome = validate(packer, tmp_path, "older.pkr.hcl", older)
    assert outcome.status == 0, outcome.output
    for name in ("ami_name", "ami_block_device_mappings", "delete_on_termination"):
        assert f"{name}: an older spelling" in words(outcome)


@pytest.mark.parametrize("block", JSON_BLOCKS)
def test_blocks_in_json(packer: Packer, tmp_path: Path, block: str) -> None:
    outcome = validate(packer, tmp_path, "t.json", as_json(**JSON_BLOCKS[block]))
    assert outcome.status == 0, outcome.output


def test_every_mistake_at_once_in_json(packer: Packer, tmp_path: Path) -> None:
    wrong = {
        "omi_nam": "x",
        "access_key": "half",
        "source_omi_filter": {"filters": {"image-nam": "x"}},
        "omi_block_device_mappings": [
            {"device_name": "xvdb", "volume_size": 1},
            {"device_name": "xvdc", "volume_size": 1, "iops": "many"},
        ],
        "snapshot_timeout": "4",
        "tags": {"Name": "{{.Nope}}"},
    }
    outcome = validate(packer, tmp_path, "t.json", as_json(**wrong))
    assert outcome.status == 1
    for message in (
        'omi_nam: unknown option; did you mean "omi_name"?',
        "omi_name: required, and not set",
        "secret_key: required with access_key",
        'source_omi_filter.filters.image-nam: unknown filter; did you mean "image-name"?',
        "source_omi_filter.owners: required, and not set",
        'omi_block_device_mappings[1].iops: expected a whole number, found "many"',
        'snapshot_timeout: expected a duration such as "15m", found "4"',
        "tags.Name: .Nope: there is no field Nope",
    ):
        assert message in words(outcome)
    assert "Traceback" not in outcome.output and "panic" not in outcome.output


def test_nothing_but_the_type_in_json(packer: Packer, tmp_path: Path) -> None:
    outcome = validate(packer, tmp_path, "t.json", as_json())
    assert outcome.status == 1
    assert "omi_name: required, and not set" in words(outcome)
    assert "source_omi: required, and neither it nor source_omi_filter" in words(outcome)


def test_mistakes_in_hcl2(packer: Packer, tmp_path: Path) -> None:
    wrong = EVERY_OPTION.replace('volume_type = "io1"\n    iops', 'volume_type = "gp2"\n    iops')
    wrong = wrong.replace('"1h30m"', '"soon"')
    outcome = validate(packer, tmp_path, "wrong.pkr.hcl", wrong)
    assert outcome.status == 1
    assert "omi_block_device_mappings[1].iops: goes with volume type io1 only" in words(outcome)
    assert "snapshot_timeout: expected a duration" in words(outcome)
    outcome = validate(
        packer, tmp_path, "wrong.pkr.hcl", EVERY_OPTION.replace("most_recent", "newest")
    )
    assert outcome.status == 1 and 'An argument named "newest" is not expected' in words(outcome)


def examples() -> Iterator[tuple[str, str]]:
    """Each template in the documents and in examples/, with its place."""
    for page in PAGES:
        for block in blocks(page):
            if block.language == "hcl" and 'provisioner "ansible"' not in block.text:
                yield str(block), _whole(block.text)
            elif '"type": "osc-chroot"' in block.text:
                yield str(block), block.text
    for path in sorted([*ROOT.glob("examples/*.pkr.hcl"), *ROOT.glob("examples/*.json")]):
        if path.name == "ansible.pkr.hcl":
            continue  # Needs the Ansible provisioner: test_ansible.py.
        yield path.name, path.read_text(encoding="utf-8")


def _whole(text: str) -> str:
    """A template with what a document leaves out."""
    if text.startswith("provisioner "):
        text = f'build {{\n  sources = ["source.osc-chroot.x"]\n{text}}}\n'
    if 'source "osc-chroot"' not in text:
        options = text if not re.search(r"^(build|packer) {", text, re.M) else ""
        required = 'source_omi = "ami-12345678"\nomi_name = "made"'
        source = f'source "osc-chroot" "x" {{\n{required}\n{options}}}\n'
        text = source if options else f"{text}\n{source}"
    if not re.search(r"^build {", text, re.M):
        (source,) = re.findall(r'source "osc-chroot" "(\w+)"', text)
        text += f'build {{\n  sources = ["source.osc-chroot.{source}"]\n}}\n'
    return text


def test_there_are_examples() -> None:
    names = [name for name, _ in examples()]
    assert any(name.startswith("README.md:") for name in names)
    assert {"demo.pkr.hcl", "from-scratch.pkr.hcl"} <= set(names)


@pytest.mark.parametrize(("name", "template"), list(examples()), ids=lambda value: value[:40])
def test_examples(packer: Packer, tmp_path: Path, name: str, template: str) -> None:
    is_json = template.lstrip().startswith("{")
    file = tmp_path / ("example.json" if is_json else "example.pkr.hcl")
    file.write_text(template)
    (tmp_path / "motd").touch()
    variables = {"PKR_VAR_source_omi": "ami-12345678", "PKR_VAR_output": str(tmp_path)}
    outcome = packer.run("validate", file.name, cwd=tmp_path, extra=variables)
    assert outcome.status == 0, outcome.output
    assert "arning" not in outcome.output
