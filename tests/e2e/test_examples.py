"""The templates of examples/, built; and Packer's own commands on them.

Built elsewhere: ansible.pkr.hcl (test_ansible.py), from-scratch.pkr.hcl (scripts/bootable-image, whose
OMI tests/vm boots).
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from apt_guest import INSTALLED, ROOT, apt_proxy, made
from guest_image import read_file
from leaks import Machine
from packer_run import Packer

from packer_plugin_osc_chroot.localcloud.catalogue import AccountEntry, Catalogue, OmiEntry
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud

pytestmark = pytest.mark.e2e

EXAMPLES = ROOT / "examples"
SOURCE_OMI = "ami-12345678"
NGINX = "install -q -y nginx\n"


@pytest.fixture
def region(apt_tree: Path, leak_check: Machine) -> Iterator[LocalCloud]:
    """A Region with the OMI that the examples name; OUTSCALE has published two of Debian's."""
    file = str(apt_tree)
    omis = [
        OmiEntry(id=SOURCE_OMI, file=file, name="Debian"),
        OmiEntry(id="ami-00000001", file=file, name="Debian-12-old", owner="Outscale", public=True),
        OmiEntry(id="ami-00000002", file=file, name="Debian-12-new", owner="Outscale", public=True),
    ]
    accounts = [AccountEntry("mine"), AccountEntry("Outscale")]
    with LocalCloud(catalogue=Catalogue(accounts=accounts, omis=omis)) as cloud:
        yield cloud
    assert cloud.leftovers() == []
    assert cloud.defects == []


def build(packer: Packer, cloud: LocalCloud, directory: Path, *arguments: str) -> None:
    *options, name = arguments
    outcome = packer.run(
        *("build", "-color=false", *options, str(EXAMPLES / name)), cwd=directory, cloud=cloud
    )
    assert outcome.status == 0, outcome.output


def installed(cloud: LocalCloud, image_id: str) -> str:
    return read_file(cloud.root_image(image_id), INSTALLED)


@pytest.mark.parametrize("name", ["basic.pkr.hcl", "basic.json"])
def test_basic(packer: Packer, region: LocalCloud, tmp_path: Path, name: str) -> None:
    build(packer, region, tmp_path, name)
    (image,) = region.images()
    assert image.name.startswith("web 1")
    assert installed(region, image.image_id) == NGINX


def test_newest(packer: Packer, region: LocalCloud, tmp_path: Path) -> None:
    """Twice: the second build's OMI takes the first one's place."""
    build(packer, region, tmp_path, "newest.pkr.hcl")
    (first,) = region.images()
    build(packer, region, tmp_path, "newest.pkr.hcl")
    (image,) = region.images()
    assert image.image_id != first.image_id and image.name == first.name == "web"
    assert image.tags == {"Source": "Debian-12-new (ami-00000002)"}
    assert image.permissions.account_ids == ["123456789012"]
    assert [snapshot.size for snapshot in region.snapshots()] == [20]
    assert installed(region, image.image_id) == NGINX


def test_several(packer: Packer, region: LocalCloud, tmp_path: Path) -> None:
    build(packer, region, tmp_path, "several.pkr.hcl")
    made_ids = {image.name.split()[0]: image.image_id for image in region.images()}
    assert set(made_ids) == {"web", "queue", "batch"}
    for role, image_id in made_ids.items():
        assert read_file(region.root_image(image_id), "/etc/role") == f"{role}\n"
    assert installed(region, made_ids["web"]) == NGINX
    listed = json.loads((tmp_path / "manifest.json").read_text())["builds"]
    assert {each["custom_data"]["role"]: each["artifact_id"] for each in listed} == {
        role: f"eu-west-2:{image_id}" for role, image_id in made_ids.items()
    }


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("-only=osc-chroot.web,osc-chroot.batch", {"web", "batch"}),
        ("-only=osc-chroot.q*", {"queue"}),
        ("-except=osc-chroot.web,osc-chroot.queue", {"batch"}),
    ],
)
def test_only_and_except(
    packer: Packer, region: LocalCloud, tmp_path: Path, option: str, expected: set[str]
) -> None:
    build(packer, region, tmp_path, option, "several.pkr.hcl")
    assert {image.name.split()[0] for image in region.images()} == expected


@pytest.mark.parametrize("at_once", [1, 2])
def test_parallel_builds(packer: Packer, region: LocalCloud, tmp_path: Path, at_once: int) -> None:
    build(packer, region, tmp_path, f"-parallel-builds={at_once}", "several.pkr.hcl")
    standing, most = 0, 0
    for call in region.record:
        if call.status != 200 or call.parameters.get("DryRun"):
            continue
        standing += {"CreateVolume": 1, "DeleteVolume": -1}.get(call.action, 0)
        most = max(most, standing)
    assert most == at_once and len(region.images()) == 3


def test_sudo(packer: Packer, region: LocalCloud, tmp_path: Path) -> None:
    """As root, whom sudo asks nothing; as another user: test_sudo_user_build.py."""
    build(packer, region, tmp_path, "sudo.pkr.hcl")
    (image,) = region.images()
    assert read_file(region.root_image(image.image_id), "/etc/built-by") == "root\n"
    assert (tmp_path / "built-by").read_text() == "root\n"


def test_demo_on_a_real_debian(packer: Packer, leak_check: Machine, tmp_path: Path) -> None:
    with LocalCloud(source_omis={SOURCE_OMI: made("images/debian-12.raw")}) as cloud:
        variables = [f"source_omi={SOURCE_OMI}", f"output={tmp_path}", f"proxy={apt_proxy()}"]
        build(packer, cloud, tmp_path, *(f"-var={each}" for each in variables), "demo.pkr.hcl")
        (image,) = cloud.images()
        root = cloud.root_image(image.image_id)
        assert "\nPackage: hello\n" in read_file(root, "/var/lib/dpkg/status")
        assert read_file(root, "/etc/motd") == (EXAMPLES / "motd").read_text()
        assert "hello\t" in (tmp_path / "packages.txt").read_text()
        assert image.tags == {"Origin": SOURCE_OMI}
    assert cloud.leftovers() == []


def test_inspect(packer: Packer, tmp_path: Path) -> None:
    outcome = packer.run("inspect", str(EXAMPLES / "several.pkr.hcl"), cwd=tmp_path)
    assert outcome.status == 0, outcome.output
    for text in ("var.source_omi", "osc-chroot.web", "osc-chroot.queue", "osc-chroot.batch"):
        assert text in outcome.output
    outcome = packer.run("inspect", str(EXAMPLES / "basic.json"), cwd=tmp_path)
    assert outcome.status == 0 and "web (osc-chroot)" in outcome.output, outcome.output


def test_the_json_example_becomes_hcl2(packer: Packer, region: LocalCloud, tmp_path: Path) -> None:
    upgraded = tmp_path / "upgraded.pkr.hcl"
    outcome = packer.run(
        *("hcl2_upgrade", f"-output-file={upgraded}", str(EXAMPLES / "basic.json")), cwd=tmp_path
    )
    # Of the builders that there are, this command knows those of Packer's makers only.
    assert "unknown builder type(s): [osc-chroot]" in outcome.output and outcome.status == 1
    outcome = packer.run("build", "-color=false", upgraded.name, cwd=tmp_path, cloud=region)
    assert outcome.status == 0, outcome.output
    (image,) = region.images()
    assert image.description == f"Made from {SOURCE_OMI}"
    assert installed(region, image.image_id) == NGINX
