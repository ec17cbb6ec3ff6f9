"""`packer build` from template to OMI: both template languages through both encodings."""

import json
from pathlib import Path

import pytest
from guest_image import RESOLV_CONF, exists, read_file
from packer_run import Packer

from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud

pytestmark = pytest.mark.e2e

COMMANDS = [
    "mkdir -p /var/lib/made && hostname >/var/lib/made/host",
    "grep -q . /etc/resolv.conf",
    "echo $LITERAL >/var/lib/made/literal",
]

HCL = f"""
variable "source" {{}}

source "osc-chroot" "guest" {{
  source_omi      = var.source
  omi_name        = "made {{{{timestamp}}}}"
  omi_description = "from {{{{.SourceOMI}}}}"
  snapshot_tags   = {{ kind = "test" }}
}}

build {{
  sources = ["source.osc-chroot.guest"]
  provisioner "shell" {{
    environment_vars = ["LITERAL=kept"]
    inline           = {json.dumps(COMMANDS)}
  }}
  provisioner "file" {{
    source      = "upload.txt"
    destination = "/var/lib/made/upload.txt"
  }}
  provisioner "file" {{
    direction   = "download"
    source      = "/var/lib/made/literal"
    destination = "download.txt"
  }}
}}
"""

LEGACY = {
    "variables": {"source": ""},
    "builders": [
        {
            "type": "osc-chroot",
            "source_omi": "{{user `source`}}",
            "omi_name": "made {{timestamp}}",
            "omi_description": "from {{.SourceOMI}}",
            "snapshot_tags": {"kind": "test"},
        }
    ],
    "provisioners": [
        {"type": "shell", "environment_vars": ["LITERAL=kept"], "inline": COMMANDS},
        {"type": "file", "source": "upload.txt", "destination": "/var/lib/made/upload.txt"},
        {
            "type": "file",
            "direction": "download",
            "source": "/var/lib/made/literal",
            "destination": "download.txt",
        },
    ],
}

TEMPLATES = {"guest.pkr.hcl": HCL, "guest.json": json.dumps(LEGACY)}


@pytest.mark.parametrize("encoding", ["protobuf", "gob"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_build(packer: Packer, cloud: LocalCloud, tmp_path: Path, name: str, encoding: str) -> None:
    (tmp_path / name).write_text(TEMPLATES[name])
    (tmp_path / "upload.txt").write_text("uploaded\n")
    extra = {"PACKER_FORCE_GOB": "1"} if encoding == "gob" else {}

    outcome = packer.run(
        *("build", "-color=false", "-var", "source=ami-00000001", name),
        cwd=tmp_path,
        cloud=cloud,
        extra=extra,
    )

    assert outcome.status == 0, outcome.output
    (image,) = cloud.images()
    assert image.state == "available"
    assert image.name.startswith("made 1")
    assert image.description == "from ami-00000001"
    assert image.image_id in outcome.output.split("artifacts of successful builds")[1]
    (snapshot,) = cloud.snapshots()
    assert snapshot.state == "completed"

    root = cloud.root_image(image.image_id)
    assert read_file(root, "/var/lib/made/upload.txt") == "uploaded\n"
    assert read_file(root, "/var/lib/made/literal") == "kept\n"
    assert (tmp_path / "download.txt").read_text() == "kept\n"
    assert read_file(root, "/etc/resolv.conf") == RESOLV_CONF
    assert not any(exists(root, f"/{name}/made") for name in ("proc", "sys", "dev"))


@pytest.mark.parametrize("encoding", ["protobuf", "gob"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_validate_needs_no_region(packer: Packer, tmp_path: Path, name: str, encoding: str) -> None:
    (tmp_path / name).write_text(TEMPLATES[name])
    (tmp_path / "upload.txt").write_text("uploaded\n")
    keys = {"OSC_ACCESS_KEY": "A" * 20, "OSC_SECRET_KEY": "B" * 40, "OSC_REGION": "eu-west-2"}
    gob = {"PACKER_FORCE_GOB": "1"} if encoding == "gob" else {}

    outcome = packer.run(
        "validate", "-var", "source=ami-00000001", name, cwd=tmp_path, extra={**keys, **gob}
    )

    assert outcome.status == 0, outcome.output
    assert "is valid" in outcome.output


def test_a_failing_provisioner_leaves_nothing(
    packer: Packer, cloud: LocalCloud, tmp_path: Path
) -> None:
    template = HCL.replace(json.dumps(COMMANDS), json.dumps(["exit 7"]))
    (tmp_path / "fails.pkr.hcl").write_text(template)
    (tmp_path / "upload.txt").write_text("uploaded\n")

    outcome = packer.run(
        "build", "-var", "source=ami-00000001", "fails.pkr.hcl", cwd=tmp_path, cloud=cloud
    )

    assert outcome.status == 1
    assert "exit status: 7" in outcome.output
    assert cloud.images() == []
    assert cloud.snapshots() == []
