"""A disk that is full: what could not be written is said, with the option that asked for it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from localcloud_command import localcloud

pytestmark = pytest.mark.root

# COMMAND: an OMI of the source's snapshot, and then more calls.
BUILDER = """
from osc_sdk_python.call import Call

call = Call(max_retries=0)
(source,) = call.api("ReadImages", Filters={"ImageIds": ["ami-00000001"]})["Images"]
root = {"DeviceName": "/dev/sda1", "Bsu": {
    "SnapshotId": source["BlockDeviceMappings"][0]["Bsu"]["SnapshotId"]}}
call.api("CreateImage", ImageName="made", RootDeviceName="/dev/sda1", BlockDeviceMappings=[root])
while not call.api("ReadImages", Filters={"ImageNames": ["made"], "States": ["available"]})["Images"]:
    pass
for _ in range(100):
    call.api("ReadImages")
"""


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A directory on a disk of 64 KiB."""
    folder = tmp_path / "full"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_the_record_ends_with_a_whole_line(full: Path) -> None:
    record = full / "calls.jsonl"
    result = localcloud("run", "--record", record, "--", sys.executable, "-c", BUILDER)
    assert result.returncode == 0, result.stderr
    said = f"--record {record}: No space left on device: later calls are not in it"
    assert result.stderr.count(said) == 1
    assert "Traceback" not in result.stderr
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert len(lines) > 10 and record.read_text().endswith("\n")


def test_nothing_is_exported(full: Path, tmp_path: Path) -> None:
    state, exported = tmp_path / "region", full / "new.raw"
    builder = ["--", sys.executable, "-c", BUILDER]
    result = localcloud("run", "--state", state, "--export", exported, *builder)
    assert result.returncode == 1
    said = f"nothing was exported: --export {exported}: No space left on device"
    assert said in result.stderr and "Traceback" not in result.stderr
    result = localcloud("export", "ami-00000001", exported, "--state", state)
    assert result.returncode == 1
    assert result.stderr == f"localcloud: {exported}: No space left on device\n"
    assert list(full.iterdir()) == []


def test_a_region_that_cannot_be_kept(full: Path) -> None:
    result = localcloud("run", "--state", full / "region", "--", "true")
    assert result.returncode == 1
    assert f"--state {full / 'region'}" in result.stderr
    assert "No space left on device" in result.stderr and "Traceback" not in result.stderr


def test_a_change_that_cannot_be_kept_is_refused(full: Path, tmp_path: Path) -> None:
    # Its data stay where they are; only what is written of it does not fit.
    source = tmp_path / "disk.raw"
    source.write_bytes(b"data")
    fill = f"head -c 1M /dev/zero > {full}/rest; {sys.executable} -c '{BUILDER}'"
    state = full / "region"
    result = localcloud(
        "run", "--state", state, "--source-omi", f"ami-00000001={source}", "--", "sh", "-c", fill
    )
    assert result.returncode == 1
    why = f"--state {state}: region.json could not be written: No space left on device"
    assert f"localcloud: {why}" in result.stderr
    assert "2000" in result.stderr  # InternalError, of which COMMAND hears.
