"""Builds from scratch: an empty volume, partitioned and formatted by pre_mount_commands."""

import dataclasses
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from in_process import Provisioner, assert_nothing_left, mounted, run, sent

from packer_plugin_osc_chroot.context import Communicator
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.options.prepare import prepare

pytestmark = pytest.mark.root

# The published example, whose spellings are the older ones; smaller.
EXAMPLE = {
    "ami_name": "packer-from-scratch {{timestamp}}",
    "from_scratch": True,
    "ami_virtualization_type": "hvm",
    "pre_mount_commands": [
        "parted {{.Device}} mklabel msdos mkpart primary 1M 100% set 1 boot on print",
        "mkfs.ext4 {{.Device}}1",
    ],
    "root_volume_size": 15,
    "root_device_name": "xvdf",
    "ami_block_device_mappings": [
        {"device_name": "xvdf", "delete_on_termination": True, "volume_type": "gp2"}
    ],
}


def config(**more: object) -> Config:
    prepared = prepare([{**EXAMPLE, **more}], started_at=datetime.now(UTC), environ={})
    assert prepared.config is not None, prepared.errors
    return prepared.config


def test_the_published_example(tmp_path: Path) -> None:
    provisioner = Provisioner()
    with LocalCloud() as cloud:
        result = run(cloud, config=config(), provisioner=provisioner)
        (volume,) = sent(cloud, "CreateVolume")
        assert "SnapshotId" not in volume
        assert (volume["Size"], volume["VolumeType"]) == (15, "gp2")
        (body,) = sent(cloud, "CreateImage")
        assert (body["RootDeviceName"], body["Architecture"]) == ("/dev/sda1", "x86_64")
        assert body["BlockDeviceMappings"] == [
            {
                "DeviceName": "/dev/sda1",
                "Bsu": {
                    "DeleteOnVmDeletion": True,
                    "SnapshotId": result.snapshot_ids[0],
                    "VolumeSize": 15,
                    "VolumeType": "gp2",
                },
            }
        ]
        with mounted(cloud.root_image(result.image_id), tmp_path) as root:
            assert (root / "made").read_text() == "yes\n"
            assert not (root / "etc" / "resolv.conf").exists()
        assert result.source_image_id == ""
        for name in ("SourceOMI", "SourceOMIName"):
            assert provisioner.data[name] == ""
        assert provisioner.data["SourceOMITags"] == "{}"
        # No OMI is looked for.
        assert all(
            "ImageIds" not in body["Filters"] or body["Filters"]["ImageIds"] == [result.image_id]
            for body in sent(cloud, "ReadImages")
        )
        assert_nothing_left(cloud)


def test_the_type_of_root_volume_type_wins_and_other_devices_are_kept() -> None:
    devices = [
        {"device_name": "/dev/xvdf", "volume_type": "gp2"},
        {"device_name": "sdg", "volume_size": 6},
    ]
    options = {"root_volume_type": "standard", "root_volume_size": 2}
    mapped = {"ami_block_device_mappings": None, "omi_block_device_mappings": devices}
    with LocalCloud() as cloud:
        run(cloud, config=config(**options, **mapped))
        (volume,) = sent(cloud, "CreateVolume")
        assert volume["VolumeType"] == "standard"
        (body,) = sent(cloud, "CreateImage")
        assert [each["DeviceName"] for each in body["BlockDeviceMappings"]] == [
            "/dev/sda1",
            "/dev/sdg",
        ]
        assert_nothing_left(cloud)


def test_the_partition_s_path_in_commands() -> None:
    commands = (
        "parted -s {{.Device}} mklabel msdos mkpart primary 1M 20M mkpart primary 20M 100%",
        "mkfs.ext4 -q {{.PartitionDevice}}",
    )
    given = dataclasses.replace(
        config(root_volume_size=1),
        pre_mount_commands=commands,
        mount_partition="2",
        post_mount_commands=("test {{.PartitionDevice}} = {{.Device}}2",),
    )
    provisioner = Provisioner()
    with LocalCloud() as cloud:
        run(cloud, config=given, provisioner=provisioner)
        assert provisioner.data["PartitionDevice"] == f"{provisioner.data['Device']}2"
        assert_nothing_left(cloud)


def test_a_filesystem_on_the_whole_disk() -> None:
    def look(communicator: Communicator, data: Mapping[str, str]) -> None:
        assert data["PartitionDevice"] == data["Device"]
        line = ["findmnt", "--noheadings", "--output", "FSTYPE", data["MountPath"]]
        assert subprocess.run(line, check=True, capture_output=True).stdout.strip() == b"ext4"

    whole = dataclasses.replace(
        config(root_volume_size=1),
        pre_mount_commands=("mkfs.ext4 -q {{.Device}}",),
        mount_partition="0",
    )
    with LocalCloud() as cloud:
        run(cloud, config=whole, provisioner=Provisioner(look=look))
        assert_nothing_left(cloud)
