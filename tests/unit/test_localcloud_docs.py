"""The page on the localcloud, and its help: their files can be read, and they name all there is."""

import argparse
import re
from pathlib import Path

import pytest

from packer_plugin_osc_chroot.localcloud import examples
from packer_plugin_osc_chroot.localcloud.catalogue import load_catalogue
from packer_plugin_osc_chroot.localcloud.images import tiny_image
from packer_plugin_osc_chroot.localcloud.latency import Latency, load_latency
from packer_plugin_osc_chroot.localcloud.openapi import load_document
from packer_plugin_osc_chroot.localcloud.region_options import add_region_options
from packer_plugin_osc_chroot.localcloud.server import ACTIONS, PUBLIC_ACTIONS
from packer_plugin_osc_chroot.localcloud.trouble import load_trouble

PAGE = (Path(__file__).parents[2] / "docs" / "localcloud.md").read_text()
BLOCKS = dict(re.findall(r"```toml\n# (\w+)\.toml\n(.*?)```", PAGE, re.DOTALL))
FILES = {
    "catalogue": examples.CATALOGUE,
    "latency": examples.LATENCY,
    "trouble": examples.TROUBLE,
}


@pytest.mark.parametrize("text", [BLOCKS["catalogue"], FILES["catalogue"]], ids=["page", "help"])
def test_catalogues(tmp_path: Path, text: str) -> None:
    tiny_image(tmp_path / "debian.qcow2")
    file = tmp_path / "catalogue.toml"
    file.write_text(text)
    found = load_catalogue(file)
    assert [account.alias for account in found.accounts] == ["mine", "vendor"]
    assert found.omis[0].tags == {"os": "debian"}


@pytest.mark.parametrize("text", [BLOCKS["latency"], FILES["latency"]], ids=["page", "help"])
def test_latencies(tmp_path: Path, text: str) -> None:
    file = tmp_path / "latency.toml"
    file.write_text(text)
    assert load_latency(file) != Latency()


@pytest.mark.parametrize("text", [BLOCKS["trouble"], FILES["trouble"]], ids=["page", "help"])
def test_troubles(tmp_path: Path, text: str) -> None:
    file = tmp_path / "trouble.toml"
    file.write_text(text)
    found = load_trouble(file, actions=load_document().actions)
    assert found.faults and found.fates and found.rates and found.refusals


def test_the_page_has_every_time() -> None:
    assert set(re.findall(r"^(\w+) = ", BLOCKS["latency"].split("[calls]")[0], re.M)) == {
        name for name in Latency.__dataclass_fields__ if name != "calls"
    }


def test_the_page_has_every_action() -> None:
    table = PAGE[PAGE.index("## What it simulates") :]
    named = set(re.findall(r"\b(?:Create|Read|Update|Delete|Link|Unlink)[A-Z]\w+", table))
    assert named == set(ACTIONS) | set(PUBLIC_ACTIONS)


def test_the_page_has_every_option() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    add_region_options(parser)
    for action in parser._actions:
        for option in action.option_strings:
            assert f"`{option}" in PAGE, option


def test_the_builder_does_not_know_of_it() -> None:
    package = Path(__file__).parents[2] / "packer_plugin_osc_chroot"
    naming = [
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        if "localcloud" not in file.relative_to(package).parts
        and re.search(r"^\s*(?:from|import) \S*\blocalcloud\b", file.read_text(), re.M)
    ]
    # The command line, which starts either.
    assert naming == ["cli.py"]
