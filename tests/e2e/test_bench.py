"""`make bench`, one tiny run of it: so that it cannot rot."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from packer_run import Packer

pytestmark = pytest.mark.e2e
TESTS = Path(__file__).resolve().parent.parent


def bench(packer: Packer, *options: str) -> str:
    argv = [sys.executable, "-m", "bench", f"--plugin={packer.plugin}"]
    argv += [f"--packer={packer.binary}", "--quick", "--runs=1", *options]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OSC_CHROOT_PYTHON": sys.executable}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_of_the_bench_in_small(packer: Packer, tmp_path: Path) -> None:
    first = tmp_path / "first.json"
    shown = bench(packer, f"--json={first}")
    document = json.loads(first.read_text())
    figures = document["figures"]
    for name in (
        "validate",
        "build, typical",
        "build, another account's OMI",
        "build, from scratch",
        "2 builds, typical",
        "3 builds, somebody else links",
        "3 builds, 5 calls a second",
        "one more shell provisioner",
        "download of 20 files",
        "straight: upload of 2 MiB",
        "straight: download of 20 files",
    ):
        assert figures[name]["ratio"] > 0, name
        assert name in shown
    assert all(figure["values"] for figure in figures.values())
    for when in ("one build", "2 builds", "2 MiB up and down"):
        assert figures[f"memory, {when}: all"]["median"] > 1
    for number in (1, 8):
        ET.parse(tmp_path / f"timeline-{number}.svg")
    # A later run is compared with it.
    again = bench(
        packer, f"--json={tmp_path / 'b.json'}", f"--base={first}", "--only=start", "--no-timeline"
    )
    (line,) = [line for line in again.splitlines() if line.startswith("describe ")]
    assert line.endswith("%)")
