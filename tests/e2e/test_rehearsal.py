"""The README's rehearsal of a template of one's own, followed to the letter."""

import os
import re
import subprocess
import textwrap
from pathlib import Path

import pytest
from guest_image import make_guest_tree
from packer_run import Packer

pytestmark = pytest.mark.e2e

README = (Path(__file__).parents[2] / "README.md").read_text()


def blocks() -> list[str]:
    """The indented texts of the section, in their order."""
    section = README.split("## Rehearse a template of your own\n")[1].split("\n## ")[0]
    found = re.findall(r"(?:^    .*\n|^\n(?=    ))+", section, re.M)
    return [textwrap.dedent(text).strip("\n") for text in found]


@pytest.mark.parametrize("options", ["", "--disks by-id --latency latency.toml"])
def test_the_readme_s_rehearsal(packer: Packer, tmp_path: Path, options: str) -> None:
    install, template, rehearse, look = blocks()
    assert install.startswith("packer plugins install")
    (tmp_path / "web.pkr.hcl").write_text(template)
    (tmp_path / "latency.toml").write_text("snapshot = 1\n")
    make_guest_tree(tmp_path / "rootfs")
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist/packer-plugin-osc-chroot").symlink_to(packer.plugin)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/packer").symlink_to(packer.binary)
    environment = packer.environment()
    environment["PATH"] = f"{tmp_path / 'bin'}:{environment['PATH']}:/usr/sbin:/sbin"

    def follow(command: str) -> str:
        done = subprocess.run(
            ["sh", "-ec", command], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    said = follow(rehearse.replace(" -- ", f" {options} -- "))
    assert "nothing was left over" in said and "critical path of ami-" in said
    assert "exported the root volume of ami-" in said
    assert ("Disk: /dev/sd" in said) == ("by-id" in options)
    place = tmp_path / "mnt"
    place.mkdir()
    said = follow(look.replace("/mnt", os.fspath(place)))
    assert "Pass 5: Checking group summary information" in said
    assert said.endswith("rehearsed\n")
