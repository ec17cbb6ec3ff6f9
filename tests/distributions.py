"""The plugin in root file systems of Debian, which have no Python: `make test-distributions`.

Not named test_…: making these file systems takes minutes, so that `make test` leaves it out.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from packer_run import Packer

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = """
source "osc-chroot" "guest" {
  source_omi = "ami-00000001"
  omi_name   = "made {{timestamp}}"
}

build {
  sources = ["source.osc-chroot.guest"]
}
"""
# In a mount namespace: the root file system with room above it, which is gone afterwards.
INSIDE = """
set -e
mount -t tmpfs tmpfs "$2"
mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" overlay "$2/root"
mount -t proc proc "$2/root/proc"
cp "$3" "$2/root/usr/bin/packer"
cp "$4" "$2/root/root/packer-plugin-osc-chroot"
printf %s "$5" >"$2/root/root/template.pkr.hcl"
exec env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin CHECKPOINT_DISABLE=1 \
    chroot "$2/root" sh -c "cd && $6"
"""
VALIDATE = (
    "packer plugins install --path packer-plugin-osc-chroot github.com/outscale/osc-chroot"
    " && packer validate template.pkr.hcl"
)


def run(packer: Packer, suite: str, command: str, directory: Path) -> tuple[int, str]:
    root = ROOT / "build" / "roots" / suite
    assert root.is_dir(), f"{root} is missing: run `make build/roots/{suite}` first"
    done = subprocess.run(
        ["unshare", "--mount", "--", "sh", "-c", INSIDE, "sh"]
        + [str(root), str(directory), str(packer.binary), str(packer.plugin), TEMPLATE, command],
        env=os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_it_needs_nothing_but_its_c_library(packer: Packer, suite: str, tmp_path: Path) -> None:
    status, told = run(packer, suite, "command -v python3", tmp_path)
    assert (status, told) == (127, "")

    status, told = run(packer, suite, "./packer-plugin-osc-chroot describe", tmp_path)
    assert (status, json.loads(told)["api_version"]) == (0, "x5.0")
    status, told = run(packer, suite, VALIDATE, tmp_path)
    assert status == 0, told
    assert "The configuration is valid." in told
    status, told = run(packer, suite, "./packer-plugin-osc-chroot localcloud status", tmp_path)
    assert (status, told) == (0, "no localcloud runs here\n")


def test_an_older_one_is_told_in_one_line(packer: Packer, tmp_path: Path) -> None:
    """Debian 11 has glibc 2.31: less than any bundle that is built on a machine of today needs, and
    than a packer that is built there."""
    status, told = run(packer, "bullseye", "./packer-plugin-osc-chroot describe", tmp_path)
    assert (status, json.loads(told)["api_version"]) == (0, "x5.0")

    status, told = run(packer, "bullseye", "./packer-plugin-osc-chroot localcloud status", tmp_path)

    assert status == 1
    (line,) = told.splitlines()
    assert re.search(
        r": this plugin needs glibc 2\.\d+ or newer, this host has 2\.31 \(/lib/\S+\)$", line
    )
