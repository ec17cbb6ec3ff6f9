"""`localcloud run` as a process: status, report, export, signals, and what a kill -9 leaves."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from localcloud_command import ROOT, command, localcloud

from packer_plugin_osc_chroot.localcloud.images import TINY_IMAGE_ID, tiny_image

pytestmark = pytest.mark.root

# Each worker of pytest-xdist has a disk of its own.
DISK = f"/dev/xvdz{chr(ord('a') + int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0')[2:]) % 8)}"

# A builder in miniature, run as COMMAND. `sys.argv[1]` says where it stops.
BUILDER = """
import os, sys, time
from osc_sdk_python.call import Call

call = Call(max_retries=0)
DISK = sys.argv[2]

def until(action, kind, **wanted):
    while not call.api(action, Filters=wanted)[kind]:
        time.sleep(0.01)

(vm,) = call.api("ReadVms")["Vms"]
(source,) = call.api("ReadImages", Filters={"ImageIds": ["ami-00000001"]})["Images"]
snapshot = source["BlockDeviceMappings"][0]["Bsu"]["SnapshotId"]
place = vm["Placement"]["SubregionName"]
volume = call.api("CreateVolume", SubregionName=place, SnapshotId=snapshot)["Volume"]["VolumeId"]
until("ReadVolumes", "Volumes", VolumeIds=[volume], VolumeStates=["available"])
call.api("LinkVolume", VolumeId=volume, VmId=vm["VmId"], DeviceName=DISK)
until("ReadVolumes", "Volumes", VolumeIds=[volume], LinkVolumeLinkStates=["attached"])
if sys.argv[1] == "linked":
    print("linked", flush=True)
    time.sleep(60)
with open(DISK, "r+b") as disk:
    disk.seek(500 * 1024)
    disk.write(b"built")
made = call.api("CreateSnapshot", VolumeId=volume)["Snapshot"]["SnapshotId"]
until("ReadSnapshots", "Snapshots", SnapshotIds=[made], States=["completed"])
root = {"DeviceName": "/dev/sda1", "Bsu": {"SnapshotId": made}}
call.api("CreateImage", ImageName="made", RootDeviceName="/dev/sda1", BlockDeviceMappings=[root])
until("ReadImages", "Images", ImageNames=["made"], States=["available"])
if sys.argv[1] == "mounted":
    os.system(f"mount {DISK}1 {sys.argv[3]}")
call.api("UnlinkVolume", VolumeId=volume)
until("ReadVolumes", "Volumes", VolumeIds=[volume], VolumeStates=["available"])
if sys.argv[1] != "kept":
    call.api("DeleteVolume", VolumeId=volume)
"""


def start(*arguments: str | Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def builder(mode: str, *more: str | Path) -> list[str | Path]:
    return ["--", sys.executable, "-c", BUILDER, mode, DISK, *more]


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def state_directory() -> Path:
    """That of the localcloud that has the disk linked."""
    loop = os.minor(os.stat(DISK).st_rdev)
    backing = Path(f"/sys/block/loop{loop}/loop/backing_file").read_text()
    return Path(backing).parent.parent


def test_help_is_enough() -> None:
    shown = localcloud("run", "--help").stdout
    for text in ("--source-omi ID=FILE", "--latency", "--record", "--export", "exit status"):
        assert text in shown


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["run"], "no COMMAND"),
        (["run", "--source-omi", "x=y", "--", "true"], "ami-12345678=FILE"),
        (["run", "--source-omi", "ami-1=/nonexistent", "--", "true"], "No such file"),
        (["run", "--latency", "slow", "--", "true"], "slow"),
        (["run", "--record", "/nonexistent/file", "--", "true"], "--record"),
        (["run", "--export", "/tmp", "--", "true"], "--export"),
        (
            [
                "run",
                "--source-omi=ami-1=/etc/passwd",
                "--source-omi=ami-1=/etc/group",
                "--",
                "true",
            ],
            "more than once",
        ),
    ],
)
def test_wrong_command_lines(arguments: list[str], text: str) -> None:
    result = localcloud(*arguments)
    assert result.returncode == 2
    assert text in result.stderr
    assert "Traceback" not in result.stderr


def test_a_damaged_qcow2_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.qcow2"
    file.write_bytes(b"QFI\xfb\x00\x00\x00\x03")
    result = localcloud("run", "--source-omi", f"ami-1={file}", "--", "true")
    assert result.returncode == 1
    assert f"{file}: is damaged, or was not downloaded whole" in result.stderr


def test_exit_status_is_the_command_s() -> None:
    assert localcloud("run", "--", "true").returncode == 0
    assert localcloud("run", "--", "sh", "-c", "exit 3").returncode == 3
    assert localcloud("run", "--", "sh", "-c", "kill -TERM $$").returncode == 128 + signal.SIGTERM
    result = localcloud("run", "--", "no-such-command")
    assert result.returncode == 127
    assert "no-such-command" in result.stderr


def test_build_export_and_record(tmp_path: Path) -> None:
    exported, record = tmp_path / "out.raw", tmp_path / "calls.jsonl"
    source = tiny_image(tmp_path / "source.raw")
    result = localcloud(
        "run", "--source-omi", f"{TINY_IMAGE_ID}={source}", "--export", exported,
        "--record", record, *builder("whole"),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "(available): made" in result.stderr
    assert "nothing was left over" in result.stderr
    assert result.stdout == ""
    with open(exported, "rb") as stream:
        stream.seek(500 * 1024)
        assert stream.read(5) == b"built"
    assert exported.stat().st_blocks * 512 < 100 * 1024**2
    actions = [json.loads(line)["action"] for line in record.read_text().splitlines()]
    assert actions[0] == "ReadVms" and actions[-1] == "DeleteVolume"


def test_leftovers_are_listed() -> None:
    result = localcloud("run", *builder("kept"))
    assert result.returncode == 0
    assert "left over: volume vol-" in result.stderr


def test_defects_fail_a_command_that_succeeded(tmp_path: Path) -> None:
    result = localcloud("run", *builder("mounted", tmp_path))
    assert result.returncode == 1
    assert "defect: UnlinkVolume of vol-" in result.stderr
    assert "left over: mount" in result.stderr
    assert not os.path.ismount(tmp_path)


def test_nothing_to_export(tmp_path: Path) -> None:
    result = localcloud("run", "--export", tmp_path / "x.raw", "--", "true")
    assert result.returncode == 1
    assert "nothing to export" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_are_passed_on(number: signal.Signals) -> None:
    process = start("run", *builder("linked"))
    assert process.stdout is not None
    assert process.stdout.readline() == "linked\n"
    assert os.path.exists(f"{DISK}1")
    directory = state_directory()
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=30)
    # What would make COMMAND dump its core is passed on as SIGTERM.
    passed_on = signal.SIGTERM if number == signal.SIGQUIT else number
    assert process.returncode == 128 + passed_on
    assert "left over: volume" in errors
    assert not os.path.lexists(DISK)
    assert not directory.exists()


def test_ctrl_c_reaches_the_command_and_the_region_outlives_it() -> None:
    look = "curl -sf $OSC_CHROOT_METADATA_URL/latest/meta-data/instance-id"
    script = f"trap '{look}; exit 7' INT; echo ready; while :; do sleep 0.05; done"
    process = start("run", "--", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 7
    assert output.startswith("i-")


def test_second_signal_kills_the_command() -> None:
    process = start("run", "--", "sh", "-c", "trap '' TERM; echo ready; exec sleep 60")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(0.2)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGKILL


# COMMAND ends; what it left goes on calling the Region, as a killed packer's plugin does.
LEAVER = """
import os, sys, time
from osc_sdk_python.call import Call

call = Call(max_retries=0)
(vm,) = call.api("ReadVms")["Vms"]
place = vm["Placement"]["SubregionName"]
call.api("CreateVolume", SubregionName=place, Size=1)
if os.fork():
    os._exit(3)
for handle in (1, 2):
    os.dup2(os.open(os.devnull, os.O_WRONLY), handle)
while True:
    call.api("ReadVolumes")  # Fails once the Region is gone, which ends this.
    time.sleep(0.2)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_waiting_but_not_the_tidying(number: signal.Signals) -> None:
    process = start("run", "--", sys.executable, "-c", LEAVER)
    assert process.stderr is not None
    assert "waiting for what it left" in process.stderr.readline()
    (directory,) = Path(tempfile.gettempdir()).glob("osc-chroot-localcloud-*")
    asked = time.monotonic()
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - asked < 4  # Without the signal it would be far longer.
    assert process.returncode == 3
    assert "left over: volume" in errors
    assert not directory.exists()


def test_next_start_removes_what_a_kill_left(tmp_path: Path) -> None:
    process = start("run", *builder("linked"))
    assert process.stdout is not None
    assert process.stdout.readline() == "linked\n"
    subprocess.run(["mount", f"{DISK}1", tmp_path], check=True)
    left = state_directory()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert os.path.exists(f"{DISK}1")
    os.killpg(process.pid, signal.SIGKILL)  # COMMAND.
    assert localcloud("run", "--", "true").returncode == 0
    assert not os.path.ismount(tmp_path)
    assert not os.path.lexists(DISK) and not os.path.lexists(f"{DISK}1")
    assert not left.exists()
    assert str(left) not in subprocess.run(["losetup", "-a"], capture_output=True, text=True).stdout
    # The name is free again.
    assert localcloud("run", *builder("whole")).returncode == 0
