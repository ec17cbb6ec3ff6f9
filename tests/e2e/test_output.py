"""What a build prints, as a terminal or a CI's log gets it."""

import re
from pathlib import Path

import pytest
from leaks import Machine
from packer_run import Packer

from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.latency import Latency

pytestmark = pytest.mark.e2e

TEMPLATE = """
source "osc-chroot" "web" {
  source_omi = "ami-12345678"
  omi_name   = "web {{timestamp}}"
}
build {
  sources = ["source.osc-chroot.web"]
  provisioner "shell" { inline = ["echo provisioned"] }
}
"""
PREFIX = "==> osc-chroot.web: "
# A table at the end is for reading, the lines before it for following.
TABLE = "Where the time went:"


def test_a_log_reads_well(
    packer: Packer, apt_tree: Path, leak_check: Machine, tmp_path: Path
) -> None:
    (tmp_path / "t.pkr.hcl").write_text(TEMPLATE)
    latency = Latency(volume=1.0, snapshot=11.0)
    with LocalCloud(source_omis={"ami-12345678": apt_tree}, latency=latency) as cloud:
        outcome = packer.run("build", "-color=false", "t.pkr.hcl", cwd=tmp_path, cloud=cloud)
    assert outcome.status == 0, outcome.output
    assert "\x1b" not in outcome.output and "\r" not in outcome.output
    lines = [line for line in outcome.output.splitlines() if line.startswith(PREFIX)]
    assert [line for line in lines if len(line) > 100] == []
    # Eleven seconds of waiting: one line about it.
    waits = [line for line in lines if re.search(r"\(\d+ s\)$", line)]
    assert len(waits) == 1 and re.search(r"snapshot snap-\w+: pending, \d+% \(1\d s\)", waits[0])
    followed = [line.removeprefix(PREFIX) for line in lines]
    headlines = [line for line in followed if not line.startswith(" ")]
    assert headlines[0] == "Looking at this VM, the account and the source OMI..."
    assert headlines[-1] == TABLE
    assert "provisioned" in headlines
    assert len(lines) < 40
