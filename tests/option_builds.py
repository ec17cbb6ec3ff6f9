"""Builds with certain options through the real packer, and what came of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packer_run import Outcome, Packer

from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.state import Image, Snapshot

TEMPLATE = """
source "osc-chroot" "row" {{
  omi_name = "row {{{{timestamp}}}}"
  {options}
}}

build {{
  sources = ["source.osc-chroot.row"]
  {provisioners}
}}
"""


@dataclass(frozen=True)
class Built:
    """One build that succeeded, with what it sent and left."""

    cloud: LocalCloud
    image: Image
    outcome: Outcome
    directory: Path

    @property
    def snapshot(self) -> Snapshot:
        (root,) = [
            mapping["Bsu"]["SnapshotId"]
            for mapping in self.image.mappings
            if mapping["DeviceName"] == "/dev/sda1"
        ]
        (found,) = [each for each in self.cloud.snapshots() if each.snapshot_id == root]
        return found

    @property
    def region_name(self) -> str:
        return self.cloud.environment()["OSC_REGION"]

    def sent(self, action: str) -> dict[str, Any]:
        """The parameters of the last such call; {} where there was none."""
        calls = [call.parameters for call in self.cloud.record if call.action == action]
        made = [body for body in calls if not body.get("DryRun")]
        return made[-1] if made else {}

    def mapping(self, name: str) -> Mapping[str, Any]:
        return {each["DeviceName"]: each for each in self.image.mappings}[name]


def build_with(packer: Packer, directory: Path, options: str, **run: Any) -> Outcome:
    """One build with these options, which must succeed; `run` goes to `Packer.run`."""
    (directory / "row.pkr.hcl").write_text(TEMPLATE.format(options=options, provisioners=""))
    outcome = packer.run("build", "-color=false", "row.pkr.hcl", cwd=directory, **run)
    assert outcome.status == 0, outcome.output
    return outcome
