"""`localcloud serve`, `status`, `export`, `clean`: a Region that stays, and one that is kept."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from localcloud_command import ROOT, command, localcloud
from osc_sdk_python.call import Call
from osc_sdk_python.credentials import Endpoint

from packer_plugin_osc_chroot.localcloud.images import TINY_IMAGE_ID

DISK = f"/dev/xvdy{chr(ord('a') + int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0')[2:]) % 8)}"


@contextmanager
def serving(*arguments: str | Path) -> Iterator["Served"]:
    process = subprocess.Popen(
        command("serve", *arguments),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        said: list[str] = []
        for line in process.stderr:
            said.append(line.rstrip())
            if "serving at" in line:
                break
        assert said and "serving at" in said[-1], said
        exports: list[str] = []
        while not exports or "NO_PROXY" not in exports[-1]:
            exports.append(process.stdout.readline())
        yield Served(process, "".join(exports), said)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


class Served:
    """A Region of another process, as a client sees it."""

    def __init__(self, process: "subprocess.Popen[str]", exports: str, said: list[str]) -> None:
        self.process = process
        self.exports = exports
        self.said = said

    def environment(self) -> dict[str, str]:
        """What a shell has after the lines that were printed."""
        result = subprocess.run(
            ["sh", "-c", f"{self.exports}\nenv -0"],
            env={"OSC_PROFILE": "production", "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=True,
        )
        pairs = (line.split("=", 1) for line in result.stdout.split("\0") if "=" in line)
        return {name: value for name, value in pairs}

    def call(self, action: str, **parameters: Any) -> Mapping[str, Any]:
        environment = self.environment()
        call = Call(
            max_retries=0,
            access_key=environment["OSC_ACCESS_KEY"],
            secret_key=environment["OSC_SECRET_KEY"],
            region=environment["OSC_REGION"],
            endpoints=Endpoint(api=environment["OSC_ENDPOINT_API"]),
        )
        found: Mapping[str, Any] = call.api(action, **parameters)
        return found

    def linked_volume(self) -> str:
        (vm,) = self.call("ReadVms")["Vms"]
        (source,) = self.call("ReadImages", Filters={"ImageIds": [TINY_IMAGE_ID]})["Images"]
        volume_id: str = self.call(
            "CreateVolume",
            SubregionName=vm["Placement"]["SubregionName"],
            SnapshotId=source["BlockDeviceMappings"][0]["Bsu"]["SnapshotId"],
        )["Volume"]["VolumeId"]
        self.wait("ReadVolumes", "Volumes", VolumeIds=[volume_id], VolumeStates=["available"])
        self.call("LinkVolume", VolumeId=volume_id, VmId=vm["VmId"], DeviceName=DISK)
        self.wait(
            "ReadVolumes", "Volumes", VolumeIds=[volume_id], LinkVolumeLinkStates=["attached"]
        )
        return volume_id

    def wait(self, action: str, key: str, **filters: list[str]) -> None:
        deadline = time.monotonic() + 10
        while not self.call(action, Filters=filters)[key]:
            assert time.monotonic() < deadline, (action, filters)
            time.sleep(0.02)

    def end(self) -> str:
        """Ctrl-C; what it says at its end."""
        self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, said
        return said


def image_of(served: Served, volume_id: str) -> str:
    snapshot_id = served.call("CreateSnapshot", VolumeId=volume_id)["Snapshot"]["SnapshotId"]
    served.wait("ReadSnapshots", "Snapshots", SnapshotIds=[snapshot_id], States=["completed"])
    root = {"DeviceName": "/dev/sda1", "Bsu": {"SnapshotId": snapshot_id}}
    image_id: str = served.call(
        "CreateImage",
        ImageName="made",
        RootDeviceName="/dev/sda1",
        BlockDeviceMappings=[root],
    )["Image"]["ImageId"]
    return image_id


def test_a_shell_that_ran_what_was_printed_sees_the_region() -> None:
    with serving() as served:
        environment = served.environment()
        assert "OSC_PROFILE" not in environment
        assert served.call("ReadImages")["Images"][0]["ImageId"] == TINY_IMAGE_ID
        # Named, since another localcloud of the machine's may run at the time.
        directory = os.path.dirname(environment["OSC_CONFIG_FILE"])
        again = localcloud("status", "--exports", "--state", directory)
        assert (again.returncode, again.stdout) == (0, served.exports), again.stderr
        assert "nothing was left over" in served.end()


def test_status_lists_what_exists(tmp_path: Path) -> None:
    directory = tmp_path / "region"
    with serving("--state", directory) as served:
        volume_id = served.linked_volume()
        image_id = image_of(served, volume_id)
        running = localcloud("status", "--state", directory)
        assert f"source OMI {TINY_IMAGE_ID}" in running.stdout
        assert f"OMI {image_id} (available): made" in running.stdout
        line = f"left over: volume {volume_id} (in-use, attached as {DISK})"
        assert line in running.stdout
        assert line in served.end()
    kept = localcloud("status", "--state", directory)
    assert kept.stdout.splitlines()[0] == f"Region in {directory}, not running:"
    assert kept.stdout.splitlines()[1:] == running.stdout.splitlines()[1:]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["ended", "killed"])
def test_a_kept_region_is_there_again(tmp_path: Path, end: signal.Signals) -> None:
    directory = tmp_path / "region"
    with serving("--state", directory) as served:
        keys = served.environment()["OSC_ACCESS_KEY"]
        volume_id = served.linked_volume()
        with open(DISK, "r+b") as disk:
            disk.seek(500 * 1024)
            disk.write(b"written")
        image_id = image_of(served, volume_id)
        served.call("CreateTags", ResourceIds=[image_id], Tags=[{"Key": "a", "Value": "b"}])
        served.process.send_signal(end)
        served.process.wait(timeout=30)
    with serving("--state", directory) as served:
        assert served.environment()["OSC_ACCESS_KEY"] == keys
        (image,) = served.call("ReadImages", Filters={"ImageIds": [image_id]})["Images"]
        assert image["Tags"] == [{"Key": "a", "Value": "b"}]
        served.wait(
            "ReadVolumes", "Volumes", VolumeIds=[volume_id], LinkVolumeLinkStates=["attached"]
        )
        with open(DISK, "rb") as disk:
            disk.seek(500 * 1024)
            assert disk.read(7) == b"written"
        served.end()
    assert not os.path.lexists(DISK)


@pytest.mark.parametrize("running", [True, False])
def test_export(tmp_path: Path, running: bool) -> None:
    directory, file = tmp_path / "region", tmp_path / "made.raw"
    with serving("--state", directory) as served:
        image_id = image_of(served, served.linked_volume())
        served.wait("ReadImages", "Images", ImageIds=[image_id], States=["available"])
        if running:
            result = localcloud("export", image_id, file, "--state", directory)
        served.end()
    if not running:
        result = localcloud("export", image_id, file, "--state", directory)
    assert result.returncode == 0, result.stderr
    assert file.stat().st_size == 1024**3
    unknown = localcloud("export", "ami-ffffffff", file, "--state", directory)
    assert unknown.returncode == 2
    assert "has no OMI ami-ffffffff" in unknown.stderr


def test_a_directory_that_is_open_is_refused(tmp_path: Path) -> None:
    with serving("--state", tmp_path / "region"):
        second = localcloud("serve", "--state", tmp_path / "region")
    assert second.returncode == 1
    assert second.stderr.endswith("region: another localcloud has it open\n")


def test_clean_removes_what_a_killed_one_left() -> None:
    with serving() as served:
        served.linked_volume()
        served.process.kill()
        served.process.wait()
    assert os.path.lexists(DISK)
    cleaned = localcloud("clean")
    assert cleaned.returncode == 0, cleaned.stderr
    assert "removed" in cleaned.stderr
    assert not os.path.lexists(DISK)
    assert "nothing was left over" in localcloud("clean").stderr


def test_clean_leaves_those_that_run() -> None:
    with serving() as served:
        served.linked_volume()
        assert "nothing was left over" in localcloud("clean").stderr
        assert os.path.lexists(DISK)
        served.end()
