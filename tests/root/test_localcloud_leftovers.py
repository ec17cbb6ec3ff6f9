"""What a COMMAND leaves in a Region's disks is ended, unmounted and detached, however it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

ROOT = Path(__file__).resolve().parents[2]
# Letters that no other test of the project uses, and each worker of pytest-xdist its own.
_WORKER = chr(ord("a") + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 8)
DISK = f"/dev/xvdy{_WORKER}"

# Links and mounts a volume, leaves what the shell text in `sys.argv[3]` starts, and ends.
LEAVER = """
import os, subprocess, sys, time
from osc_sdk_python.call import Call

disk, where, script, end = sys.argv[1:]
call = Call(max_retries=0)
(vm,) = call.api("ReadVms")["Vms"]
(source,) = call.api("ReadImages")["Images"]
snapshot = source["BlockDeviceMappings"][0]["Bsu"]["SnapshotId"]
place = vm["Placement"]["SubregionName"]
volume = call.api("CreateVolume", SubregionName=place, SnapshotId=snapshot)["Volume"]["VolumeId"]
while not call.api("ReadVolumes", Filters={"VolumeStates": ["available"]})["Volumes"]:
    time.sleep(0.01)
call.api("LinkVolume", VolumeId=volume, VmId=vm["VmId"], DeviceName=disk)
wanted = {"VolumeIds": [volume], "LinkVolumeLinkStates": ["attached"]}
while not call.api("ReadVolumes", Filters=wanted)["Volumes"]:
    time.sleep(0.01)
subprocess.run(["mount", disk + "1", where], check=True)
quiet = subprocess.DEVNULL
subprocess.Popen(
    ["sh", "-c", script], cwd=where, start_new_session=True, stdin=quiet, stdout=quiet, stderr=quiet
)
while not os.path.exists(where + "/ready"):
    time.sleep(0.01)
print(os.stat(where).st_dev, os.path.dirname(os.environ["OSC_CONFIG_FILE"]), flush=True)
if end == "stay":
    time.sleep(60)
sys.exit(3)
"""

SCRIPTS = {
    "cwd": "touch ready; exec sleep 1000",
    "unwilling": "trap '' TERM; touch ready; exec sleep 1000",
    "open file": "exec 7>ready; cd /; exec sleep 1000",
    "disk": "touch ready; exec 7<DISK; cd /; exec sleep 1000",
    "detached": "umount --lazy WHERE; touch ready WHERE/ready; exec sleep 1000",
    "namespace": "exec unshare --mount --propagation private"
    " sh -c 'umount WHERE; cd /; mount DISK1 WHERE; cd WHERE; touch ready; exec sleep 1000'",
    "mount elsewhere": "cd /; exec unshare --mount --propagation private"
    " sh -c 'touch WHERE/ready; exec sleep 1000'",
    "inner loop": "truncate -s 1M file; losetup --find file; touch ready",
    "tmpfs": "mkdir run; mount -t tmpfs none run; touch ready; cd run; exec sleep 1000",
}


def command(where: Path, script: str, end: str) -> list[str]:
    script = script.replace("DISK", DISK).replace("WHERE", str(where))
    return [
        *(sys.executable, "-m", "packer_plugin_osc_chroot", "localcloud", "run", "--"),
        *(sys.executable, "-c", LEAVER, DISK, str(where), script, end),
    ]


def sleepers(where: Path) -> list[int]:
    """Processes that this test started: they have the mount point in their environment."""
    mark = f"LEFT_BY={where}".encode()
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            environ = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if mark in environ and int(name) != os.getpid():
            found.append(int(name))
    return found


@pytest.fixture
def where(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "root"
    place.mkdir()
    yield place
    for pid in sleepers(place):
        os.kill(pid, signal.SIGKILL)
    while os.path.ismount(place):
        subprocess.run(["umount", "--lazy", place], check=True)


def environment(where: Path) -> dict[str, str]:
    return {**os.environ, "LEFT_BY": str(where)}


def assert_clean(where: Path, directory: str) -> None:
    attached = [
        file.read_text()
        for file in Path("/sys/block").glob("loop*/loop/backing_file")
        if file.exists()
    ]
    assert not [text for text in attached if text.startswith((directory, str(where), "/file"))]
    assert not os.path.ismount(where)
    assert not os.path.exists(directory)
    assert not os.path.lexists(DISK) and not os.path.lexists(f"{DISK}1")


@pytest.mark.parametrize("kind", SCRIPTS)
def test_what_command_left_is_ended(kind: str, where: Path) -> None:
    result = subprocess.run(
        command(where, SCRIPTS[kind], "end"),
        cwd=ROOT, env=environment(where), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 3, result.stderr
    if kind not in ("disk", "mount elsewhere", "inner loop"):
        assert "left over: process " in result.stderr
        assert "sleep 1000 (" in result.stderr
    # One that only sees a copy of the mount is in nobody's way.
    assert len(sleepers(where)) == (kind == "mount elsewhere")
    assert_clean(where, result.stdout.split()[1])


@pytest.mark.parametrize("kind", ["cwd", "detached", "inner loop"])
def test_what_a_killed_localcloud_left_is_ended(kind: str, where: Path) -> None:
    process = subprocess.Popen(
        command(where, SCRIPTS[kind], "stay"),
        cwd=ROOT, env=environment(where), stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    directory = process.stdout.readline().split()[1]
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    again = subprocess.run(
        [sys.executable, "-m", "packer_plugin_osc_chroot", "localcloud", "run", "--", "true"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert again.returncode == 0
    assert ("sleep 1000 (cwd)" in again.stderr) == (kind != "inner loop")
    assert sleepers(where) == []
    assert_clean(where, directory)


def test_many_ctrl_c_change_neither_status_nor_tidying() -> None:
    script = "trap 'exit 7' INT; echo $OSC_CONFIG_FILE; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        [sys.executable, "-m", "packer_plugin_osc_chroot", "localcloud", "run"]
        + ["--", "sh", "-c", script],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    directory = Path(process.stdout.readline().strip()).parent
    while process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.003)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 7, errors
    assert "Traceback" not in errors
    assert not directory.exists()


@pytest.mark.parametrize("module", ["host.procfs", "localcloud.loops", "localcloud.users"])
def test_ctrl_c_while_starting_is_quiet(module: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "packer_plugin_osc_chroot", "localcloud"]
        + ["run", "--", "true"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    # The import of the command is under way by then, and goes on for a while.
    for line in process.stderr:
        if line.endswith(f" packer_plugin_osc_chroot.{module}\n"):
            break
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
