"""Clients that OUTSCALE's users have, unmodified, through the life of a volume, a snapshot and an OMI.

osc-sdk-python's Gateway, which checks its own requests against the official document, and OUTSCALE's
Go SDK (tests/osc_sdk_go), which signs in another way.
"""

import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from osc_sdk_python import Gateway

from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud

pytestmark = pytest.mark.root

GO_MODULE = Path(__file__).resolve().parents[1] / "osc_sdk_go"
DEVICE = f"/dev/xvdz{chr(ord('a') + int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0')[2:]) % 8)}"
CHANGES = {
    "CreateVolume": 1,
    "CreateTags": 1,
    "LinkVolume": 1,
    "CreateSnapshot": 1,
    "UnlinkVolume": 1,
    "CreateImage": 1,
    "UpdateImage": 1,
    "DeleteImage": 1,
    "DeleteSnapshot": 1,
    "DeleteVolume": 1,
}


@pytest.fixture
def cloud(request: pytest.FixtureRequest) -> Iterator[LocalCloud]:
    with LocalCloud(https=getattr(request, "param", False)) as running:
        yield running
    assert running.leftovers() == []
    assert running.defects == []


def changes(cloud: LocalCloud) -> dict[str, int]:
    """The calls that succeeded, less those that only read."""
    done = [call.action for call in cloud.record if call.status == 200]
    return dict(Counter(action for action in done if not action.startswith("Read")))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_osc_sdk_python(cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    api: Any = Gateway()
    (vm,) = api.ReadVms()["Vms"]
    (source,) = api.ReadImages()["Images"]
    volume_id = api.CreateVolume(
        SubregionName=vm["Placement"]["SubregionName"],
        SnapshotId=source["BlockDeviceMappings"][0]["Bsu"]["SnapshotId"],
    )["Volume"]["VolumeId"]

    def volume() -> Any:
        return api.ReadVolumes(Filters={"VolumeIds": [volume_id]})["Volumes"][0]

    until(lambda: bool(volume()["State"] == "available"))
    api.CreateTags(ResourceIds=[volume_id], Tags=[{"Key": "made-by", "Value": "osc-sdk-python"}])
    api.LinkVolume(VolumeId=volume_id, VmId=vm["VmId"], DeviceName=DEVICE)
    until(lambda: bool(volume()["LinkedVolumes"][0]["State"] == "attached"))
    assert Path(f"{DEVICE}1").is_block_device()
    snapshot_id = api.CreateSnapshot(VolumeId=volume_id)["Snapshot"]["SnapshotId"]
    wanted = {"SnapshotIds": [snapshot_id], "States": ["completed"]}
    until(lambda: bool(api.ReadSnapshots(Filters=wanted)["Snapshots"]))
    api.UnlinkVolume(VolumeId=volume_id)
    until(lambda: bool(volume()["State"] == "available"))
    image_id = api.CreateImage(
        ImageName="made by osc-sdk-python",
        RootDeviceName="/dev/sda1",
        BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Bsu": {"SnapshotId": snapshot_id}}],
    )["Image"]["ImageId"]
    images = {"ImageNames": ["*osc-sdk-python"], "States": ["available"]}
    until(lambda: bool(api.ReadImages(Filters=images)["Images"]))
    assert api.UpdateImage(ImageId=image_id, Description="seen")["Image"]["Description"] == "seen"
    api.DeleteImage(ImageId=image_id)
    api.DeleteSnapshot(SnapshotId=snapshot_id)
    api.DeleteVolume(VolumeId=volume_id)
    assert changes(cloud) == CHANGES


@pytest.fixture(scope="session")
def go_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("osc_sdk_go") / "client"
    built = subprocess.run(
        ["go", "build", "-o", program, "."], cwd=GO_MODULE, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    return program


@pytest.mark.parametrize("cloud", [False, True], indirect=True, ids=["http", "https"])
def test_osc_sdk_go(cloud: LocalCloud, go_client: Path) -> None:
    environment = cloud.child_environment(os.environ)
    done = subprocess.run(
        [go_client, DEVICE], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert changes(cloud) == CHANGES
    wrong = subprocess.run(
        [go_client],
        env={**environment, "OSC_SECRET_KEY": "wrong"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert wrong.returncode == 1
    assert "signature is not the one" in wrong.stderr and "AccessDenied" in wrong.stderr
