"""The commands of the documents, run as they stand there.

Each page is followed from top to bottom, in a folder of its own: blocks that name a file are written,
`shell` blocks are run. What a page's commands find there is what a reader has: packer and the plugin on
PATH, the examples, and a Region with the OMI that templates name. What is not run is named here, with
the reason.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from documents import PAGES, ROOT, Block, blocks, text_of
from leaks import Machine
from packer_run import Packer

from packer_plugin_osc_chroot.localcloud.catalogue import AccountEntry, Catalogue, OmiEntry
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud

pytestmark = pytest.mark.e2e

FOLLOWED = [page for page in PAGES if any(block.language == "shell" for block in blocks(page))]
CI = Path("docs/guides/ci.md")

# Commands that are not run, by what they begin with, and why.
_RELEASE = "downloads a release: tests/e2e/test_release.py plays the host that has it"
_MAKE = "long, and what CI itself runs: .ci/run"
_ACCOUNT = "needs an account; tests/unit/test_documents.py checks the call"
NOT_RUN = {
    "packer init": _RELEASE,
    "packer plugins install github.com": _RELEASE,
    "sha256sum --check": _RELEASE,
    "gh attestation": _RELEASE,
    "make build-dev": "compiles: tests/e2e run what it makes",
    "make build": "compiles: tests/e2e run what it makes",
    "make demo": "long; tests/e2e/test_examples.py builds its template on the same Debian",
    "make generate": "writes to the source tree; make check-generated does the same elsewhere",
    "make lint": _MAKE,
    "make test": _MAKE,
    "apt-get install": "installs on this machine, as .ci/run did",
    "osc-cli": _ACCOUNT,
    "packer-plugin-osc-chroot localcloud run --export debian.raw": (
        "half an hour of debootstrap and packages; scripts/bootable-image does it for tests/vm"
    ),
    "qemu-system-x86_64": "boots what the command before makes; tests/vm does",
    'eval "$(packer-plugin-osc-chroot localcloud status': (
        "needs a Region that is served: tests/root/test_localcloud_serve.py"
    ),
    "rm -rf /var/": "removes what other builds on this machine may need",
    "rm -f /run/": "removes what other builds on this machine may need",
}
# What stands for what a reader has elsewhere.
DEBOOTSTRAP = '#!/bin/sh\ncp -a "$ROOT_FILESYSTEM" "$3"\n'


def is_run(command: str) -> bool:
    return not command.startswith(tuple(NOT_RUN))


def test_what_is_not_run_is_in_a_document() -> None:
    shown = [command for page in PAGES for block in blocks(page) for command in block.commands]
    assert [start for start in NOT_RUN if not any(each.startswith(start) for each in shown)] == []


@pytest.fixture
def region(apt_tree: Path, leak_check: Machine) -> Iterator[LocalCloud]:
    omis = [OmiEntry(id="ami-12345678", file=str(apt_tree), name="Debian")]
    with LocalCloud(catalogue=Catalogue(accounts=[AccountEntry("mine")], omis=omis)) as cloud:
        yield cloud
    assert cloud.leftovers() == []
    assert cloud.defects == []


class Reader:
    """Somebody who does what a page says, in a folder and a home of their own."""

    def __init__(self, packer: Packer, cloud: LocalCloud, root: Path, directory: Path) -> None:
        self.place = directory / "here"
        programs = directory / "bin"
        shutil.copytree(ROOT / "examples", self.place)
        shutil.copytree(ROOT / "examples", self.place / "examples")
        (self.place / "Makefile").symlink_to(ROOT / "Makefile")
        shutil.copy(self.place / "several.pkr.hcl", self.place / "images.pkr.hcl")
        for program in (self.place / "dist" / packer.plugin.name, programs / packer.plugin.name):
            program.parent.mkdir()
            program.symlink_to(packer.plugin)
        (programs / "packer").symlink_to(packer.binary)
        (programs / "debootstrap").write_text(DEBOOTSTRAP)
        (programs / "debootstrap").chmod(0o755)
        # Links to the plugin are the reader's own to remove; copies would be large.
        plugins = directory / "plugins"
        shutil.copytree(packer.base["PACKER_PLUGIN_PATH"], plugins, copy_function=os.link)
        self.stand_ins = {" /mnt": f" {directory}/home/mnt", " /usr/local/bin/": f" {programs}/"}
        (directory / "home" / "mnt").mkdir(parents=True)
        self.environment = packer.environment(cloud) | {
            "HOME": str(directory / "home"),
            "PACKER_PLUGIN_PATH": str(plugins),
            "ROOT_FILESYSTEM": str(root),
            "PATH": f"{programs}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "XDG_CACHE_HOME": packer.base["XDG_CACHE_HOME"],
        }

    def follow(self, block: Block) -> str:
        """Write the block's file, or run its commands; returns what they say."""
        if block.file_name:
            file = self.place / block.file_name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text)
        if block.language != "shell":
            return ""
        return self.run("\n".join(filter(is_run, block.commands)), where=str(block))

    def run(self, script: str, *, where: str) -> str:
        for everybody_s, own in self.stand_ins.items():
            script = script.replace(everybody_s, own)
        done = subprocess.run(
            ["bash", "-euc", script],
            cwd=self.place,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{where}: {done.stdout}"
        return done.stdout


@pytest.fixture
def reader(packer: Packer, region: LocalCloud, apt_tree: Path, tmp_path: Path) -> Reader:
    return Reader(packer, region, apt_tree, tmp_path)


@pytest.mark.parametrize("page", FOLLOWED, ids=str)
def test_the_commands_of(page: Path, reader: Reader) -> None:
    for block in blocks(page):
        reader.follow(block)


@pytest.mark.parametrize("options", ["", "--disks by-id --latency latency.toml"])
def test_the_rehearsal(reader: Reader, options: str) -> None:
    (reader.place / "latency.toml").write_text("snapshot = 1\n")
    said = ""
    for block in blocks(Path("docs/guides/rehearsing.md")):
        changed = block.text.replace(" -- ", f" {options} -- ")
        said += reader.follow(Block(block.page, block.line, block.language, changed))
    assert "nothing was left over" in said and "critical path of ami-" in said
    assert "exported the root volume of ami-" in said
    assert ("Disk: /dev/sd" in said) == ("by-id" in options)
    assert "Pass 5: Checking group summary information" in said
    assert "\nrehearsed\n" in said


def recipes() -> dict[str, Block]:
    return {block.file_name: block for block in blocks(CI) if block.file_name}


def commands_of(name: str, block: Block) -> list[str]:
    """The commands of a CI system's file."""
    if name == "Jenkinsfile":
        return [line.split("'")[1] for line in block.text.splitlines() if " sh '" in line]
    job: dict[str, Any] = yaml.safe_load(block.text)
    if name == ".gitlab-ci.yml":
        return [*job["omi"]["script"], *job["omi"]["after_script"]]
    return [step["run"] for step in job["jobs"]["omi"]["steps"] if "run" in step]


def test_ci_recipes(reader: Reader, region: LocalCloud) -> None:
    found = {name: commands_of(name, block) for name, block in recipes().items()}
    assert set(found) == {".gitlab-ci.yml", ".github/workflows/images.yml", "Jenkinsfile"}
    first, *others = found.values()
    assert all(each == first for each in others), "each system does the same"
    reader.environment["SOURCE"] = "queue"
    reader.run("\n".join(filter(is_run, first)), where=str(CI))
    assert [image.name.split()[0] for image in region.images()] == ["queue"]


def test_the_workflow_is_one_that_github_takes(tmp_path: Path) -> None:
    workflow = tmp_path / "images.yml"
    workflow.write_text(recipes()[".github/workflows/images.yml"].text)
    go = ["go", "-C", str(ROOT / "tests" / "actionlint"), "tool", "actionlint"]
    own_label = ["-ignore", 'label "osc-chroot" is unknown']
    done = subprocess.run([*go, *own_label, str(workflow)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_jenkinsfile_is_balanced() -> None:
    text = recipes()["Jenkinsfile"].text
    assert text.count("{") == text.count("}") and text.count("'") % 2 == 0


def test_the_readme_s_template_is_that_of_the_guide() -> None:
    shown = [
        [block.text for block in blocks(page) if block.file_name == "web.pkr.hcl"]
        for page in (Path("README.md"), Path("docs/guides/first-omi.md"))
    ]
    assert shown[0] == shown[1] != []
    assert "packer build web.pkr.hcl" in text_of(Path("README.md"))
