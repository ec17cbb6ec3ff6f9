"""What the new OMI is like: boot modes, product codes, mappings, the root volume's size and type."""

import dataclasses
from typing import Any

import pytest
from in_process import OPTIONS, assert_nothing_left, client, run, sent

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.options.blocks import BlockDevice
from packer_plugin_osc_chroot.ui import RecordingUi

pytestmark = pytest.mark.root

DATA = {"DeviceName": "/dev/sdg", "Bsu": {"VolumeSize": 4, "VolumeType": "io1", "Iops": 300}}
EPHEMERAL = {"DeviceName": "/dev/xvdh", "VirtualDeviceName": "ephemeral0"}


def build(cloud: LocalCloud, **options: Any) -> dict[str, Any]:
    """What CreateImage was asked for."""
    run(cloud, config=dataclasses.replace(OPTIONS, **options))
    assert_nothing_left(cloud)
    return sent(cloud, "CreateImage")[-1]


def mappings(body: dict[str, Any]) -> dict[str, Any]:
    return {mapping["DeviceName"]: mapping for mapping in body["BlockDeviceMappings"]}


def make_source(cloud: LocalCloud) -> str:
    """An OMI with something of everything that carries over."""
    api, token = client(cloud), CancelToken()
    (snapshot,) = api.read("ReadSnapshots", token=token)["Snapshots"]
    root = {"DeviceName": "/dev/sda1", "Bsu": {"SnapshotId": snapshot["SnapshotId"]}}
    made = api.change(
        "CreateImage",
        token=token,
        ImageName="source with everything",
        RootDeviceName="/dev/sda1",
        BlockDeviceMappings=[root, DATA, EPHEMERAL],
        BootModes=["legacy", "uefi"],
        ProductCodes=["0001", "0007"],
        TpmMandatory=True,
    )
    api.close()
    return str(made["Image"]["ImageId"])


def test_what_a_source_has_carries_over() -> None:
    with LocalCloud() as cloud:
        body = build(cloud, source_omi=make_source(cloud))
        assert body["BootModes"] == ["legacy", "uefi"]
        assert body["ProductCodes"] == ["0001", "0007"]
        assert body["TpmMandatory"] is True
        assert body["Architecture"] == "x86_64"
        found = mappings(body)
        assert found["/dev/sdg"]["Bsu"] == {**DATA["Bsu"], "DeleteOnVmDeletion": True}  # type: ignore[dict-item]
        assert found["/dev/xvdh"] == EPHEMERAL
        assert len(found) == 3


def test_what_the_template_says_wins() -> None:
    with LocalCloud() as cloud:
        body = build(
            cloud,
            source_omi=make_source(cloud),
            omi_virtualization_type="hvm",
            omi_boot_modes=("uefi",),
            omi_product_codes=("0002",),
        )
        assert (body["BootModes"], body["ProductCodes"]) == (["uefi"], ["0002"])


def test_all_fields_of_a_mapping_reach_the_api() -> None:
    with LocalCloud() as cloud:
        (snapshot,) = client(cloud).read("ReadSnapshots", token=CancelToken())["Snapshots"]
        devices = (
            BlockDevice(
                device_name="xvdf",
                delete_on_vm_deletion=True,
                volume_size=12,
                volume_type="io1",
                iops=400,
                snapshot_id=snapshot["SnapshotId"],
            ),
            BlockDevice(device_name="/dev/sdi", volume_size=3),
            BlockDevice(device_name="sdj", virtual_name="ephemeral1"),
        )
        found = mappings(build(cloud, omi_block_device_mappings=devices))
        assert found["/dev/xvdf"]["Bsu"] == {
            "DeleteOnVmDeletion": True,
            "SnapshotId": snapshot["SnapshotId"],
            "VolumeSize": 12,
            "VolumeType": "io1",
            "Iops": 400,
        }
        assert found["/dev/sdi"]["Bsu"] == {"DeleteOnVmDeletion": False, "VolumeSize": 3}
        assert found["/dev/sdj"] == {"DeviceName": "/dev/sdj", "VirtualDeviceName": "ephemeral1"}
        assert list(found) == ["/dev/sda1", "/dev/xvdf", "/dev/sdi", "/dev/sdj"]


def test_mappings_of_the_template_replace_those_of_the_source_or_take_them_away() -> None:
    devices = (
        # The same device under its other name.
        BlockDevice(device_name="xvdg", volume_size=9),
        BlockDevice(device_name="sdh", no_device=True),
    )
    with LocalCloud() as cloud:
        body = build(cloud, source_omi=make_source(cloud), omi_block_device_mappings=devices)
        found = mappings(body)
        assert list(found) == ["/dev/sda1", "/dev/xvdg"]
        assert found["/dev/xvdg"]["Bsu"]["VolumeSize"] == 9


@pytest.mark.parametrize("name", ["/dev/sda1", "xvda", "sda1"])
def test_a_mapping_of_the_root_changes_all_but_its_snapshot(name: str) -> None:
    root = BlockDevice(device_name=name, volume_size=20, volume_type="io1", iops=500)
    with LocalCloud() as cloud:
        body = build(cloud, omi_block_device_mappings=(root,))
        (mapping,) = body["BlockDeviceMappings"]
        (snapshot,) = cloud.snapshots()
        assert mapping == {
            "DeviceName": "/dev/sda1",
            "Bsu": {
                "DeleteOnVmDeletion": False,
                "SnapshotId": snapshot.snapshot_id,
                "VolumeSize": 20,
                "VolumeType": "io1",
                "Iops": 500,
            },
        }


def test_a_root_that_the_snapshot_does_not_fit_in() -> None:
    devices = (BlockDevice(device_name="sdf"), BlockDevice(device_name="/dev/sda1", volume_size=2))
    with LocalCloud() as cloud:
        with pytest.raises(
            BuildError, match=r"omi_block_device_mappings\[1\].volume_size: 2 GiB is"
        ):
            build(cloud, root_volume_size=3, omi_block_device_mappings=devices)
        assert sent(cloud, "CreateVolume") == []


@pytest.mark.parametrize(
    ("device", "problem"),
    [
        (BlockDevice(device_name="xvda", volume_type="io1"), "iops: "),
        (BlockDevice(device_name="xvda", iops=300), "iops: "),
        (BlockDevice(device_name="xvda", volume_type="io1", iops=301), "iops: "),
    ],
)
def test_iops_of_the_root_that_the_source_decides(device: BlockDevice, problem: str) -> None:
    with LocalCloud() as cloud:
        with pytest.raises(BuildError, match=rf"omi_block_device_mappings\[0\].{problem}"):
            build(cloud, omi_block_device_mappings=(device,))
        assert sent(cloud, "CreateVolume") == []


def test_a_device_to_leave_out_that_is_not_there_is_said() -> None:
    ui = RecordingUi()
    device = BlockDevice(device_name="sdz", no_device=True)
    with LocalCloud() as cloud:
        run(cloud, ui=ui, config=dataclasses.replace(OPTIONS, omi_block_device_mappings=(device,)))
    assert "omi_block_device_mappings[0].no_device: there is no such device" in ui.text


def test_a_larger_root_of_the_type_io1() -> None:
    with LocalCloud() as cloud:
        options = {"root_volume_size": 4, "root_volume_type": "io1", "root_volume_iops": 600}
        body = build(cloud, **options)
        (volume,) = sent(cloud, "CreateVolume")
        assert (volume["Size"], volume["VolumeType"], volume["Iops"]) == (4, "io1", 600)
        bsu = mappings(body)["/dev/sda1"]["Bsu"]
        assert (bsu["VolumeSize"], bsu["VolumeType"], bsu["Iops"]) == (4, "io1", 600)


def test_more_iops_than_the_size_allows() -> None:
    with LocalCloud() as cloud:
        with pytest.raises(
            BuildError, match="root_volume_iops: .*needs 1 to 1200 IOPS, found 1300"
        ):
            build(cloud, root_volume_size=4, root_volume_type="io1", root_volume_iops=1300)


def test_omi_regions_is_the_region_of_the_build() -> None:
    with LocalCloud() as cloud:
        region = cloud.environment()["OSC_REGION"]
        build(cloud, omi_regions=(region,))
        with pytest.raises(BuildError, match=r"omi_regions\[1\]: us-east-2 is not the Region of"):
            build(cloud, omi_regions=(region, "us-east-2"), omi_name="other")
        assert len(sent(cloud, "CreateVolume")) == 1
