"""What comes after a build, through the real packer: post-processors, and what becomes of the OMI."""

import hashlib
import json
from pathlib import Path

import pytest
from hcp_registry import HcpRegistry
from packer_run import Outcome, Packer

from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.trouble import Trouble

pytestmark = pytest.mark.e2e

TEMPLATE = """
source "osc-chroot" "guest" {
  source_omi = "ami-00000001"
  omi_name   = "made {{timestamp}}"
}

build {
  sources = ["source.osc-chroot.guest"]
  provisioner "shell-local" {
    inline = ["echo '${build.ID} ${build.SourceOMI}' >provisioner"]
  }
POST_PROCESSORS
}
"""


def build(
    packer: Packer, cloud: LocalCloud, cwd: Path, post_processors: str, **environment: str
) -> Outcome:
    (cwd / "t.pkr.hcl").write_text(TEMPLATE.replace("POST_PROCESSORS", post_processors))
    return packer.run("build", "-color=false", "t.pkr.hcl", cwd=cwd, cloud=cloud, extra=environment)


def volume_id(cloud: LocalCloud) -> str:
    """Of the volume that was built on."""
    (transition,) = (
        call for call in cloud.record if call.action == "LinkVolume" and call.status == 200
    )
    return str(transition.parameters["VolumeId"])


def test_those_that_read_and_keep(packer: Packer, cloud: LocalCloud, tmp_path: Path) -> None:
    outcome = build(
        packer,
        cloud,
        tmp_path,
        """
  post-processor "manifest" {
    output      = "manifest.json"
    custom_data = { from = build.SourceOMI, name = build.SourceOMIName, region = build.BuildRegion }
  }
  post-processor "shell-local" {
    inline = [
      "echo '${build.ID} ${build.SourceOMI} ${build.ConnType} ${build.PackerRunUUID}' >after",
      "echo $PACKER_BUILDER_TYPE $PACKER_BUILD_NAME >>after",
    ]
  }
  # An OMI has no files: there is nothing to sum, and the OMI stays.
  post-processor "checksum" {
    checksum_types = ["sha256"]
    output         = "{{.BuildName}}.{{.ChecksumType}}"
  }
  post-processors {
    post-processor "artifice" {
      files               = ["provisioner"]
      keep_input_artifact = true
    }
    post-processor "checksum" {
      checksum_types = ["sha256"]
      output         = "sums"
    }
  }
""",
    )
    assert outcome.status == 0, outcome.output
    (image,) = cloud.images()
    assert image.image_id in outcome.output.split("artifacts of successful builds")[1]

    (built,) = json.loads((tmp_path / "manifest.json").read_text())["builds"]
    assert built["artifact_id"] == f"eu-west-2:{image.image_id}"
    assert (built["builder_type"], built["files"]) == ("osc-chroot", None)
    assert built["custom_data"] == {
        "from": "ami-00000001",
        "name": built["custom_data"]["name"],
        "region": "eu-west-2",
    }
    volume = volume_id(cloud)
    assert (tmp_path / "provisioner").read_text() == f"{volume} ami-00000001\n"
    first, second = (tmp_path / "after").read_text().splitlines()
    assert first == f"{volume} ami-00000001 chroot {built['packer_run_uuid']}"
    assert second == "osc-chroot guest"
    digest = hashlib.sha256((tmp_path / "provisioner").read_bytes()).hexdigest()
    assert (tmp_path / "sums").read_text() == f"{digest}\tprovisioner\n"
    assert not (tmp_path / "guest.sha256").exists()


ARTIFICE = """
  post-processor "artifice" {
    files               = ["provisioner"]
    keep_input_artifact = false
  }
"""
FAILING = """
  post-processor "shell-local" {
    inline = ["exit 3"]
  }
"""


def test_an_omi_that_is_not_kept_goes_with_its_snapshot(
    packer: Packer, cloud: LocalCloud, tmp_path: Path
) -> None:
    outcome = build(packer, cloud, tmp_path, ARTIFICE)
    assert outcome.status == 0, outcome.output
    assert cloud.images() == [] and cloud.snapshots() == []
    shown = outcome.output.split("artifacts of successful builds")[1]
    assert "provisioner" in shown and "OMI" not in shown


@pytest.mark.parametrize("kept", [False, True])
def test_a_post_processor_that_fails(
    packer: Packer, cloud: LocalCloud, tmp_path: Path, kept: bool
) -> None:
    """Packer then destroys the OMI, unless another post-processor keeps it."""
    keeping = '  post-processor "manifest" {}' if kept else ""
    outcome = build(packer, cloud, tmp_path, keeping + FAILING)
    assert outcome.status == 1
    assert "exit status: 3" in outcome.output
    assert len(cloud.images()) == len(cloud.snapshots()) == int(kept)


def test_an_omi_that_cannot_be_removed(packer: Packer, cloud: LocalCloud, tmp_path: Path) -> None:
    """Packer says that it failed, and its log what is left: the SDK's RPC loses an artifact's error."""
    cloud.set_trouble(Trouble(forbidden=("DeleteImage",)))
    outcome = build(packer, cloud, tmp_path, ARTIFICE, PACKER_LOG="1")
    cloud.set_trouble(Trouble())
    assert outcome.status == 1
    assert "Error destroying builder artifact: " in outcome.output
    (image,) = cloud.images()
    (snapshot,) = cloud.snapshots()
    assert f"OMI {image.image_id}, snapshot {snapshot.snapshot_id}: left behind" in outcome.output
    assert f"osc-cli api DeleteImage --ImageId {image.image_id}" in outcome.output


def test_hcp_packer_is_told_of_it(packer: Packer, cloud: LocalCloud, tmp_path: Path) -> None:
    """By Packer itself, of what it asks the artifact."""
    with HcpRegistry(tmp_path) as registry:
        outcome = build(packer, cloud, tmp_path, "", **registry.environment())
    assert outcome.status == 0, outcome.output
    assert "Published metadata to HCP Packer registry" in outcome.output
    (image,) = cloud.images()
    (snapshot,) = cloud.snapshots()
    (told,) = registry.published
    assert told["artifacts"] == [{"external_identifier": image.image_id, "region": "eu-west-2"}]
    assert (told["platform"], told["source_external_identifier"]) == ("osc", "ami-00000001")
    assert told["labels"] == {
        "omi_name": image.name,
        "snapshot_ids": snapshot.snapshot_id,
        "source_omi_name": told["labels"]["source_omi_name"],
    }
