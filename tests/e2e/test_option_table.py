"""The options through the real packer: what the API received, and what exists afterwards.

Each row is one build; `tests/root` looks more closely at single options. All run on one Region with
two accounts, as a user's builds do.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest import SOURCE_OMI
from guest_image import exists, read_file
from leaks import Machine
from option_builds import TEMPLATE, Built
from packer_run import Packer

from packer_plugin_osc_chroot.localcloud.catalogue import AccountEntry, Catalogue, OmiEntry
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud

pytestmark = pytest.mark.e2e

VENDOR_OMI = "ami-000000ff"
FRIEND = "123456789012"
GOLDEN = "base 2026-01 golden"


@pytest.fixture
def region(guest_image: Path, leak_check: Machine) -> Iterator[LocalCloud]:
    omis = [
        OmiEntry(id=SOURCE_OMI, file=str(guest_image), name=GOLDEN, tags={"os": "guest"}),
        OmiEntry(
            id="ami-00000002",
            file=str(guest_image),
            name="base 2025-01",
            date=datetime(2025, 1, 1, tzinfo=UTC),
        ),
        OmiEntry(id=VENDOR_OMI, file=str(guest_image), name="vendors", owner="vendor", public=True),
    ]
    accounts = [AccountEntry("mine"), AccountEntry("vendor")]
    with LocalCloud(catalogue=Catalogue(accounts=accounts, omis=omis)) as cloud:
        yield cloud
    assert cloud.leftovers() == []
    assert cloud.defects == []


Check = Callable[[Built], None]


def by_filter(built: Built) -> None:
    asked = [call.parameters for call in built.cloud.record if call.action == "ReadImages"]
    filters = [body.get("Filters", {}) for body in asked]
    assert any(
        each.get("ImageNames") == ["base *"] and each.get("RootDeviceTypes") == ["bsu"]
        for each in filters
    )
    assert built.image.description == f"from {SOURCE_OMI} ({GOLDEN}) in {built.region_name}"


def by_foreign_omi(built: Built) -> None:
    assert built.image.description == f"from {VENDOR_OMI} (vendors) in {built.region_name}"


def tagged(built: Built) -> None:
    assert built.image.tags == {"os": "guest", "team": "a"}
    assert built.snapshot.tags == {"os": "root", "team": "a", "kind": "snapshot"}
    volume_tags = [
        call.parameters["Tags"]
        for call in built.cloud.record
        if call.action == "CreateTags" and call.parameters["ResourceIds"][0].startswith("vol-")
    ]
    assert volume_tags == [[{"Key": "work", "Value": built.region_name}]]


def shared(built: Built) -> None:
    assert built.image.permissions.account_ids == [FRIEND]
    assert not built.image.permissions.everybody
    assert built.snapshot.permissions.everybody
    record = [call for call in built.cloud.record if not call.parameters.get("DryRun")]
    taken = [call.action for call in record if call.status == 200]
    assert taken.count("UpdateImage") == 1 and taken.count("UpdateSnapshot") == 1


def mapped(built: Built) -> None:
    body = built.sent("CreateImage")
    assert body["BootModes"] == ["legacy", "uefi"]
    assert body["ProductCodes"] == ["0001"]
    assert built.mapping("/dev/sda1")["Bsu"]["VolumeSize"] == 3
    assert built.mapping("/dev/sda1")["Bsu"]["VolumeType"] == "io1"
    assert built.mapping("/dev/sda1")["Bsu"]["Iops"] == 300
    assert built.sent("CreateVolume")["Iops"] == 300
    data = built.mapping("/dev/xvdh")["Bsu"]
    assert data == {**data, "VolumeSize": 8, "VolumeType": "gp2", "DeleteOnVmDeletion": True}
    assert built.mapping("/dev/sdc")["VirtualDeviceName"] == "ephemeral0"


def from_scratch(built: Built) -> None:
    assert "SnapshotId" not in built.sent("CreateVolume")
    assert built.sent("CreateVolume")["VolumeType"] == "gp2"
    assert built.sent("CreateImage")["RootDeviceName"] == "/dev/sda1"
    assert built.snapshot.size == 1
    root = built.cloud.root_image(built.image.image_id)
    assert read_file(root, "/made") == "from nothing\n"


def on_the_host(built: Built) -> None:
    root = built.cloud.root_image(built.image.image_id)
    assert read_file(root, "/path") == f"{built.directory}/root-xvdq\n"
    assert "nodiratime" in read_file(root, "/options")
    assert read_file(root, "/theirs") == "theirs"
    assert "devices" not in read_file(root, "/others")
    assert not exists(root, f"{built.directory}/copied")
    assert (built.directory / "wrapped").read_text().count("mount") >= 2
    assert built.sent("LinkVolume")["DeviceName"] == "/dev/xvdq"
    assert (built.directory / "before").read_text() == "/dev/xvdq\n"


def by_older_names(built: Built) -> None:
    # Without Packer's line breaks.
    said = " ".join(built.outcome.output.split())
    for older, name in (
        ("ami_name", "omi_name"),
        ("ami_virtualization_type", "omi_virtualization_type"),
        ("ami_block_device_mappings", "omi_block_device_mappings"),
        ("ami_block_device_mappings[0].delete_on_termination", "delete_on_vm_deletion"),
    ):
        assert f'{older}: an older spelling; write "{name}"' in said
    assert built.snapshot.size == 3
    assert built.mapping("/dev/xvdh")["Bsu"]["DeleteOnVmDeletion"] is True


def told_where_it_is(built: Built) -> None:
    assert built.sent("CreateVolume")["SubregionName"] == built.cloud.subregion


ROWS: Mapping[str, tuple[str, str, Check]] = {
    "source_omi_filter": (
        """
        source_omi_filter {
          filters     = { "image-name" = "base *", "root-device-type" = "ebs" }
          owners      = ["self"]
          most_recent = true
        }
        omi_description = "from {{.SourceOMI}} ({{.SourceOMIName}}) in {{.BuildRegion}}"
        """,
        "",
        by_filter,
    ),
    "an OMI of another account": (
        f"""
        source_omi      = "{VENDOR_OMI}"
        omi_description = "from {{{{.SourceOMI}}}} ({{{{.SourceOMIName}}}}) in {{{{.BuildRegion}}}}"
        """,
        "",
        by_foreign_omi,
    ),
    "tags": (
        f"""
        source_omi = "{SOURCE_OMI}"
        tags       = {{ os = "guest" }}
        tag {{
          key   = "team"
          value = "a"
        }}
        snapshot_tags    = {{ os = "root", kind = "snapshot" }}
        root_volume_tags = {{ work = "{{{{.BuildRegion}}}}" }}
        """,
        "",
        tagged,
    ),
    "permissions": (
        f"""
        source_omi      = "{SOURCE_OMI}"
        omi_account_ids = ["{FRIEND}"]
        snapshot_groups = ["all"]
        """,
        "",
        shared,
    ),
    "mappings, root volume, boot modes, product codes": (
        f"""
        source_omi        = "{SOURCE_OMI}"
        root_volume_size  = 3
        root_volume_type  = "io1"
        root_volume_iops  = 300
        omi_boot_modes    = ["legacy", "uefi"]
        omi_product_codes = ["0001"]
        omi_block_device_mappings {{
          device_name           = "xvdh"
          volume_size           = 8
          volume_type           = "gp2"
          delete_on_vm_deletion = true
        }}
        omi_block_device_mappings {{
          device_name  = "/dev/sdc"
          virtual_name = "ephemeral0"
        }}
        """,
        "",
        mapped,
    ),
    "from_scratch": (
        """
        from_scratch            = true
        omi_virtualization_type = "hvm"
        root_volume_size        = 1
        root_device_name        = "xvdf"
        omi_block_device_mappings {
          device_name           = "xvdf"
          delete_on_vm_deletion = true
        }
        pre_mount_commands = [
          "parted --script {{.Device}} mklabel msdos mkpart primary 1M 100% set 1 boot on print",
          "mkfs.ext4 -q {{.Device}}1",
        ]
        post_mount_commands = [
          "cp -a /bin/busybox {{.MountPath}}/busybox",
          "mkdir -p {{.MountPath}}/bin {{.MountPath}}/tmp",
          "for name in sh chmod rm; do ln -s ../busybox {{.MountPath}}/bin/$name; done",
        ]
        """,
        """
        provisioner "shell" {
          inline = ["echo from nothing >/made"]
        }
        """,
        from_scratch,
    ),
    "the host side": (
        f"""
        source_omi          = "{SOURCE_OMI}"
        device_path         = "/dev/xvdq"
        mount_path          = "DIRECTORY/root-{{{{.Device}}}}"
        mount_partition     = "1"
        mount_options       = ["nodiratime"]
        chroot_mounts       = [["proc", "proc", "/proc"]]
        copy_files          = ["DIRECTORY/copied"]
        command_wrapper     = "echo {{{{.Command}}}} >>DIRECTORY/wrapped; {{{{.Command}}}}"
        pre_mount_commands  = ["echo {{{{.Device}}}} >DIRECTORY/before"]
        """,
        """
        provisioner "shell" {
          inline = [
            "while read _ at _ o _; do if [ $at = / ]; then echo $o >/options; fi; done </proc/mounts",
            "echo ${build.MountPath} >/path",
            "cat DIRECTORY/copied >/theirs",
            "ls /sys >/others",
          ]
        }
        """,
        on_the_host,
    ),
    "where this VM is": (
        f"""
        source_omi              = "{SOURCE_OMI}"
        region                  = "REGION"
        vm_id                   = "VM"
        skip_metadata_api_check = true
        metadata_url            = "http://127.0.0.1:1"
        snapshot_timeout        = "5m"
        """,
        "",
        told_where_it_is,
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_options(packer: Packer, region: LocalCloud, tmp_path: Path, row: str) -> None:
    options, provisioners, check = ROWS[row]
    (tmp_path / "copied").write_text("theirs")
    text = TEMPLATE.format(options=options, provisioners=provisioners)
    for word, value in (
        ("DIRECTORY", str(tmp_path)),
        ("REGION", region.environment()["OSC_REGION"]),
        ("VM", region.vm_id),
    ):
        text = text.replace(f'"{word}"', f'"{value}"').replace(f"{word}/", f"{value}/")
    (tmp_path / "row.pkr.hcl").write_text(text)
    outcome = packer.run("build", "-color=false", "row.pkr.hcl", cwd=tmp_path, cloud=region)
    assert outcome.status == 0, outcome.output
    (image,) = region.images()
    assert image.state == "available"
    check(Built(region, image, outcome, tmp_path))


def test_the_older_names_of_json_templates(
    packer: Packer, region: LocalCloud, tmp_path: Path
) -> None:
    builder = {
        "type": "osc-chroot",
        "source_omi": SOURCE_OMI,
        "ami_name": "row {{timestamp}}",
        "ami_virtualization_type": "hvm",
        "root_volume_size": "3",
        "ami_block_device_mappings": [
            {"device_name": "xvdh", "volume_size": "8", "delete_on_termination": "true"}
        ],
    }
    (tmp_path / "row.json").write_text(json.dumps({"builders": [builder]}))
    outcome = packer.run("build", "-color=false", "row.json", cwd=tmp_path, cloud=region)
    assert outcome.status == 0, outcome.output
    (image,) = region.images()
    by_older_names(Built(region, image, outcome, tmp_path))


def test_an_omi_is_replaced(packer: Packer, region: LocalCloud, tmp_path: Path) -> None:
    template = f"""
    source "osc-chroot" "row" {{
      source_omi            = "{SOURCE_OMI}"
      omi_name              = "always the same"
      force_deregister      = true
      force_delete_snapshot = true
    }}
    build {{
      sources = ["source.osc-chroot.row"]
    }}
    """
    (tmp_path / "row.pkr.hcl").write_text(template)
    ids = []
    for _ in range(2):
        outcome = packer.run("build", "-color=false", "row.pkr.hcl", cwd=tmp_path, cloud=region)
        assert outcome.status == 0, outcome.output
        (image,) = region.images()
        ids.append(image.image_id)
    assert ids[0] != ids[1]
    (snapshot,) = [each for each in region.snapshots() if each.state == "completed"]
    assert snapshot.snapshot_id == Built(region, image, outcome, tmp_path).snapshot.snapshot_id


def test_packer_build_force(packer: Packer, region: LocalCloud, tmp_path: Path) -> None:
    template = f"""
    source "osc-chroot" "row" {{
      source_omi            = "{SOURCE_OMI}"
      omi_name              = "always the same"
      force_delete_snapshot = true
    }}
    build {{
      sources = ["source.osc-chroot.row"]
    }}
    """
    (tmp_path / "row.pkr.hcl").write_text(template)
    statuses = []
    for force in ([], [], ["-force"]):
        arguments = ["build", "-color=false", *force, "row.pkr.hcl"]
        outcome = packer.run(*arguments, cwd=tmp_path, cloud=region)
        statuses.append(outcome.status)
    assert statuses == [0, 1, 0], outcome.output
    assert len(region.images()) == 1
    assert [each.state for each in region.snapshots()].count("completed") == 1
