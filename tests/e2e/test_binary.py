"""The one binary that users install: static, small enough, and its Python comes with it."""

import json
import shutil
import subprocess
from pathlib import Path

from elftools.elf.elffile import ELFFile
from packer_run import Packer
from pytest import mark

from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud

pytestmark = mark.e2e

TEMPLATE = """
source "osc-chroot" "guest" {
  source_omi = "ami-00000001"
  omi_name   = "made {{timestamp}}"
}

build {
  sources = ["source.osc-chroot.guest"]
  provisioner "shell" {
    inline = ["echo inside"]
  }
}
"""


def test_is_static_and_at_most_60_mib(packer: Packer) -> None:
    assert packer.plugin.stat().st_size <= 60 << 20
    with packer.plugin.open("rb") as stream:
        kinds = {segment["p_type"] for segment in ELFFile(stream).iter_segments()}
    assert "PT_INTERP" not in kinds
    assert "PT_DYNAMIC" not in kinds


def test_builds_where_no_python_is_on_path(
    packer: Packer, cloud: LocalCloud, tmp_path: Path
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "mount", "umount"):
        found = shutil.which(name)
        assert found
        (programs / name).symlink_to(found)
    (tmp_path / "guest.pkr.hcl").write_text(TEMPLATE)

    outcome = packer.run(
        *("build", "-color=false", "guest.pkr.hcl"),
        cwd=tmp_path,
        cloud=cloud,
        extra={"PATH": str(programs), "OSC_CHROOT_PYTHON": "/nonexistent"},
    )

    assert outcome.status == 0, outcome.output
    assert "inside" in outcome.output
    assert len(cloud.images()) == 1


def test_doctor_runs_from_it(packer: Packer, cloud: LocalCloud, tmp_path: Path) -> None:
    environment = cloud.child_environment({**packer.base, "HOME": str(tmp_path)})
    done = subprocess.run(
        [packer.plugin, "doctor", "--json"],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["ready"]
    assert cloud.environment()["OSC_SECRET_KEY"] not in done.stdout
    # The status passes through.
    del environment["OSC_SECRET_KEY"]
    bad = subprocess.run(
        [packer.plugin, "doctor"], env=environment, check=False, capture_output=True, text=True
    )
    assert bad.returncode == 1 and "problem  credentials: " in bad.stdout
