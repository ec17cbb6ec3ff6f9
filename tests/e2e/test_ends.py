"""The ends of a build that a user chooses, and the forms of its story: as Packer's own builders."""

import re
from pathlib import Path

import pytest
from packer_run import Packer
from test_trouble import _reclaim, assert_undone, start, write

from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud

pytestmark = pytest.mark.e2e

ASKS = "[c] Clean up and exit, [a] abort without cleanup, or [r] retry this step?"


def test_the_cleanup_provisioner_alone(packer: Packer, cloud: LocalCloud, tmp_path: Path) -> None:
    options = ("-on-error=run-cleanup-provisioner",)
    outcome = start(packer, cloud, tmp_path, inside="exit 7", options=options).wait()
    assert outcome.status == 1
    assert "cleaning up after an error" in outcome.output
    assert "Still there, to be removed in this order:" in outcome.output
    assert any(each.startswith("volume") for each in cloud.leftovers()), outcome.output
    _reclaim(packer, cloud)
    assert_undone(cloud, outcome.output)


def test_no_cleanup_provisioner_where_all_is_kept(
    packer: Packer, cloud: LocalCloud, tmp_path: Path
) -> None:
    outcome = start(packer, cloud, tmp_path, inside="exit 7", options=("-on-error=abort",)).wait()
    assert "cleaning up after an error" not in outcome.output
    _reclaim(packer, cloud)
    assert_undone(cloud, outcome.output)


@pytest.mark.parametrize("answer", ["c", "a", "r"])
def test_the_user_is_asked(packer: Packer, cloud: LocalCloud, tmp_path: Path, answer: str) -> None:
    """With "r" the step succeeds the second time; then the provisioner fails."""
    once = tmp_path / "once"
    before = f"test -e {once} || {{ touch {once}; exit 3; }}" if answer == "r" else "exit 3"
    status, output = packer.in_terminal(
        *(
            "build",
            "-color=false",
            "-on-error=ask",
            write(tmp_path, before=before, inside="exit 7"),
        ),
        cwd=tmp_path,
        cloud=cloud,
        answers=[(ASKS, answer), *([(ASKS, "c")] if answer == "r" else [])],
    )
    assert status == 1, output
    assert "failed with status 3" in output
    if answer == "r":
        assert "in the chroot" in output
    if answer == "a":
        assert any(each.startswith("volume") for each in cloud.leftovers()), output
        assert "This command removes all of it: packer-plugin-osc-chroot reclaim" in output
        _reclaim(packer, cloud)
    assert_undone(cloud, output)


def test_a_story_with_its_times(packer: Packer, cloud: LocalCloud, tmp_path: Path) -> None:
    outcome = start(packer, cloud, tmp_path, options=("-timestamp-ui",)).wait()
    assert outcome.status == 0, outcome.output
    said = [line for line in outcome.output.splitlines() if "osc-chroot.guest" in line]
    assert len(said) > 20
    for line in said[:-1]:
        if "artifacts of" in line or line.startswith("-->"):
            continue
        assert re.match(r"(==>|   ) ?\d{4}-\d\d-\d\dT[0-9:]+Z: |\d{4}-\d\d-\d\dT", line), line


def test_a_story_for_machines(packer: Packer, cloud: LocalCloud, tmp_path: Path) -> None:
    outcome = start(packer, cloud, tmp_path, options=("-machine-readable",)).wait()
    assert outcome.status == 0, outcome.output
    lines = [line.split(",") for line in outcome.output.splitlines()]
    # time, target, category, data
    assert all(len(line) >= 3 and line[0].isdecimal() for line in lines)
    (image,) = cloud.images()
    artifact = [line for line in lines if line[2:3] == ["artifact"] and "id" in line]
    assert any(image.image_id in line[-1] for line in artifact), outcome.output
