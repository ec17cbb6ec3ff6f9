"""Builds side by side, in one packer and in several; breakpoints; what users read before a build."""

import json
from pathlib import Path

import pytest
from packer_run import Packer

from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud

pytestmark = pytest.mark.e2e


def template(directory: Path, name: str, *, builds: int = 1, inline: str = "true") -> Path:
    sources = [
        {
            "type": "osc-chroot",
            "name": f"{name}-{number}",
            "source_omi": "ami-00000001",
            "omi_name": f"{name} {number}",
        }
        for number in range(builds)
    ]
    inside = {"type": "shell", "inline": [f"echo $PACKER_BUILD_NAME >/root/name; {inline}"]}
    path = directory / f"{name}.json"
    path.write_text(json.dumps({"builders": sources, "provisioners": [inside]}))
    return path


def test_four_builds_in_one_template(packer: Packer, cloud: LocalCloud, tmp_path: Path) -> None:
    path = template(tmp_path, "four", builds=4, inline="sleep 1")
    outcome = packer.run("build", "-color=false", path.name, cwd=tmp_path, cloud=cloud)
    assert outcome.status == 0, outcome.output
    assert sorted(image.name for image in cloud.images()) == [f"four {n}" for n in range(4)]
    links = [call.parameters["DeviceName"] for call in cloud.record if call.action == "LinkVolume"]
    assert len(set(links)) == 4, f"side by side, each has a name of its own: {links}"


def test_several_packers(packer: Packer, cloud: LocalCloud, tmp_path: Path) -> None:
    running = [
        packer.start(
            "build",
            "-color=false",
            template(tmp_path, f"p{number}", inline="sleep 1").name,
            cwd=tmp_path,
            cloud=cloud,
        )
        for number in range(3)
    ]
    for each in running:
        outcome = each.wait()
        assert outcome.status == 0, outcome.output
    assert sorted(image.name for image in cloud.images()) == ["p0 0", "p1 0", "p2 0"]


def test_one_of_two_fails_and_the_other_is_made(
    packer: Packer, cloud: LocalCloud, tmp_path: Path
) -> None:
    path = template(tmp_path, "two", builds=2, inline='test "$PACKER_BUILD_NAME" != two-0')
    outcome = packer.run("build", "-color=false", path.name, cwd=tmp_path, cloud=cloud)
    assert outcome.status == 1
    assert [image.name for image in cloud.images()] == ["two 1"]


def test_breakpoint(packer: Packer, cloud: LocalCloud, tmp_path: Path) -> None:
    (tmp_path / "t.pkr.hcl").write_text(
        """
        source "osc-chroot" "x" {
          source_omi = "ami-00000001"
          omi_name   = "after a breakpoint"
        }
        build {
          sources = ["source.osc-chroot.x"]
          provisioner "breakpoint" { note = "look around" }
        }
        """
    )
    status, output = packer.in_terminal(
        *("build", "t.pkr.hcl"), cwd=tmp_path, cloud=cloud, answers=[("look around", "")]
    )
    assert status == 0, output
    assert len(cloud.images()) == 1, output


def test_debug_asks_after_each_step(packer: Packer, cloud: LocalCloud, tmp_path: Path) -> None:
    path = template(tmp_path, "debug")
    status, output = packer.in_terminal(
        *("build", "-debug", path.name), cwd=tmp_path, cloud=cloud, answers=[("(-debug)", "")]
    )
    assert status == 0, output
    assert "Pausing after 'link volume'" in output
    assert len(cloud.images()) == 1, output


def test_validate_reports_everything_at_once_in_json(packer: Packer, tmp_path: Path) -> None:
    wrong = {
        "type": "osc-chroot",
        "source_omi": "debian",
        "omi_nmae": "x",
        "root_volume_size": "big",
        "tags": ["a"],
        "chroot_mounts": [["proc"]],
        "mount_path": "{{.Device",
        "from_scatch": True,
    }
    (tmp_path / "t.json").write_text(json.dumps({"builders": [wrong]}))
    outcome = packer.run("validate", "t.json", cwd=tmp_path)
    assert outcome.status == 1
    for text in (
        'omi_nmae: unknown option; did you mean "omi_name"?',
        'root_volume_size: expected a whole number, found "big"',
        "tags: expected a map of strings, found",
        "chroot_mounts[0]: must be three strings",
        "mount_path: ",
        'from_scatch: unknown option; did you mean "from_scratch"?',
        "omi_name: required, and not set",
        'source_omi: must be the id of an OMI such as ami-1a2b3c4d, found "debian"',
    ):
        assert text in outcome.output, outcome.output
    assert "Traceback" not in outcome.output


def test_not_on_an_outscale_vm(packer: Packer, tmp_path: Path) -> None:
    path = template(tmp_path, "nowhere")
    extra = {
        "OSC_CHROOT_METADATA_URL": "http://127.0.0.1:1",
        "OSC_ACCESS_KEY": "A",
        "OSC_SECRET_KEY": "B",
    }
    outcome = packer.run("build", "-color=false", path.name, cwd=tmp_path, extra=extra)
    assert outcome.status == 1
    assert "this is not an OUTSCALE VM" in outcome.output
    # Core prints a builder's error twice; the builder itself does not.
    assert outcome.output.count("this is not an OUTSCALE VM") == 2
