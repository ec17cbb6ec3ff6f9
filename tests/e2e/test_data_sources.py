"""Data sources in templates, through the real packer: what they tell, and how they fail."""

import json
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from guest_image import read_file
from packer_run import Outcome, Packer

from packer_plugin_osc_chroot.localcloud.catalogue import AccountEntry, Catalogue, OmiEntry
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.trouble import Fault, Trouble

pytestmark = pytest.mark.e2e

EXAMPLE = Path(__file__).parents[2] / "examples" / "data-source.pkr.hcl"
OWN, VENDOR = "111111111111", "222222222222"
NEWEST = "ami-00000130"

OMI = """
data "osc-chroot-omi" "base" {
  filters     = { image-name = "base *" }
  owners      = ["vendor"]
  most_recent = true
}
"""
IDENTITY = 'data "osc-chroot-identity" "me" {}\n'
SHOW = """
source "null" "show" {
  communicator = "none"
}

build {
  sources = ["null.show"]
  post-processor "shell-local" {
    inline = ["cat >shown.json <<'END'\\n${jsonencode(VALUES)}\\nEND"]
  }
}
"""


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A Region with more OMIs than a page of answers has, and no disks on this machine."""
    disk = tmp_path_factory.mktemp("disks") / "disk.raw"
    disk.write_bytes(bytes(4096))
    omis = [
        OmiEntry(
            id=f"ami-{number:08x}",
            file=str(disk),
            name=f"base {number}",
            owner="vendor",
            public=True,
            date=datetime(2026, 1, 1, 0, number // 60, number % 60, tzinfo=UTC),
            tags={"number": str(number)},
        )
        for number in range(5, 305)
    ]
    accounts = [AccountEntry("localcloud", id=OWN), AccountEntry("vendor", id=VENDOR)]
    with LocalCloud(catalogue=Catalogue(accounts=accounts, omis=omis)) as region:
        yield region
        assert region.defects == []


def run(
    packer: Packer,
    command: str,
    template: str,
    *,
    cwd: Path,
    region: LocalCloud | None = None,
    extra: Mapping[str, str] | None = None,
) -> Outcome:
    (cwd / "t.pkr.hcl").write_text(template)
    words = [*command.split(), "t.pkr.hcl"]
    return packer.run(*words, cwd=cwd, cloud=region, extra=extra)


def words(outcome: Outcome) -> str:
    """What was said, without the frames of packer's diagnostics and with single spaces."""
    return " ".join(outcome.output.replace("│", " ").split())


@pytest.mark.parametrize("encoding", ["protobuf", "gob"])
def test_what_templates_see(
    packer: Packer, region: LocalCloud, tmp_path: Path, encoding: str
) -> None:
    values = "[data.osc-chroot-omi.base, data.osc-chroot-identity.me]"
    template = OMI + IDENTITY + SHOW.replace("VALUES", values)
    gob = {"PACKER_FORCE_GOB": "1"} if encoding == "gob" else {}
    outcome = run(packer, "build", template, cwd=tmp_path, region=region, extra=gob)
    assert outcome.status == 0, outcome.output
    pages = [call for call in region.record if call.action == "ReadImages"]
    assert any(call.parameters.get("NextPageToken") for call in pages)
    omi, identity = json.loads((tmp_path / "shown.json").read_text())
    assert omi == {
        "id": NEWEST,
        "name": "base 304",
        "description": omi["description"],
        "account_id": VENDOR,
        "account_alias": "vendor",
        "region": "eu-west-2",
        "creation_date": omi["creation_date"],
        "architecture": "x86_64",
        "boot_modes": omi["boot_modes"],
        "product_codes": omi["product_codes"],
        "root_device_name": "/dev/sda1",
        "root_snapshot_id": omi["root_snapshot_id"],
        "root_volume_size": 1,
        "root_volume_type": omi["root_volume_type"],
        "tags": {"number": "304"},
    }
    assert omi["creation_date"].startswith("2026-01-01T00:05:04")
    assert omi["root_snapshot_id"].startswith("snap-")
    endpoint = region.environment()["OSC_ENDPOINT_API"]
    assert identity == {"account_id": OWN, "region": "eu-west-2", "endpoint": endpoint}


def test_the_example(packer: Packer, guest_image: Path, tmp_path: Path) -> None:
    omis = [
        OmiEntry(
            id=f"ami-0000000{day}",
            file=str(guest_image),
            name=f"Debian-12-2026.01.0{day}",
            owner="Outscale",
            public=True,
            date=datetime(2026, 1, day, tzinfo=UTC),
        )
        for day in (3, 5, 4)
    ]
    accounts = [AccountEntry("mine", id=OWN), AccountEntry("Outscale", id=VENDOR)]
    with LocalCloud(catalogue=Catalogue(accounts=accounts, omis=omis)) as cloud:
        outcome = packer.run("build", str(EXAMPLE), cwd=tmp_path, cloud=cloud)
        assert outcome.status == 0, outcome.output
        (image,) = cloud.images()
        assert image.name == "base on Debian-12-2026.01.05"
        assert image.tags["built-by"] == OWN and image.tags["source"] == "ami-00000005"
        assert image.tags["source-date"].startswith("2026-01-05T")
        built_from = read_file(cloud.root_image(image.image_id), "/etc/built-from")
        assert built_from == "Debian-12-2026.01.05\n"
    assert cloud.leftovers() == []
    assert cloud.defects == []


def test_validate_asks_nobody(packer: Packer, tmp_path: Path) -> None:
    """The options are checked, and what depends on the values is taken for unknown."""
    template = (
        OMI
        + IDENTITY
        + """
source "osc-chroot" "guest" {
  source_omi    = data.osc-chroot-omi.base.id
  omi_name      = "on ${data.osc-chroot-omi.base.name}"
  snapshot_tags = data.osc-chroot-omi.base.tags
  omi_boot_modes = data.osc-chroot-omi.base.boot_modes
  root_volume_size = data.osc-chroot-omi.base.root_volume_size
  omi_account_ids  = [data.osc-chroot-identity.me.account_id]
}

build {
  sources = ["source.osc-chroot.guest"]
}
"""
    )
    nowhere = {"OSC_ENDPOINT_API": "http://127.0.0.1:1", "OSC_REGION": "eu-west-2"}
    outcome = run(packer, "validate", template, cwd=tmp_path, extra=nowhere)
    assert outcome.status == 0, outcome.output
    size = "data.osc-chroot-omi.base.root_volume_size"
    device = (
        f'omi_block_device_mappings {{\n    device_name = "xvdb"\n    volume_size = {size}\n  }}\n'
    )
    needed = template.replace("source_omi  ", f"{device}  source_omi  ")
    outcome = run(packer, "validate", needed, cwd=tmp_path, extra=nowhere)
    assert outcome.status == 1, "Packer says 0 for what it does not know: the page tells so"
    assert "volume_size: required without snapshot_id" in words(outcome)
    wrong = template.replace("base.id", "base.identifier")
    outcome = run(packer, "validate", wrong, cwd=tmp_path, extra=nowhere)
    assert outcome.status == 1
    assert 'does not have an attribute named "identifier"' in words(outcome)


def test_evaluated_off_a_vm(packer: Packer, region: LocalCloud, tmp_path: Path) -> None:
    """Credentials and Region from a profile, and no metadata service."""
    environment = region.environment()
    profile = {
        "access_key": environment["OSC_ACCESS_KEY"],
        "secret_key": environment["OSC_SECRET_KEY"],
        "region": "eu-west-2",
        "endpoints": {"api": environment["OSC_ENDPOINT_API"]},
    }
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"elsewhere": profile}))
    template = OMI.replace("filters ", 'profile = "elsewhere"\n  filters ')
    template += SHOW.replace("VALUES", "data.osc-chroot-omi.base.id")
    extra = {
        "OSC_CONFIG_FILE": str(file),
        "OSC_CHROOT_METADATA_URL": "http://127.0.0.1:1",
        **dict.fromkeys(("OSC_ACCESS_KEY", "OSC_SECRET_KEY", "OSC_REGION", "OSC_PROFILE"), ""),
    }
    outcome = run(packer, "validate -evaluate-datasources", template, cwd=tmp_path, extra=extra)
    assert outcome.status == 0, outcome.output
    file.write_text(json.dumps({"elsewhere": {**profile, "region": None}}))
    outcome = run(packer, "validate -evaluate-datasources", template, cwd=tmp_path, extra=extra)
    assert outcome.status == 1
    assert "region: not set, and not known without the metadata service. Set region" in words(
        outcome
    )


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (
            ("base *", "nothing *"),
            [
                "filters: no OMI in Region eu-west-2 matches. Correct the filters or owners",
                "base 304",
            ],
        ),
        (
            ("most_recent = true", ""),
            ["filters: 300 OMIs match, expected one. Narrow the filters", "and 290 more"],
        ),
        (
            ("image-name", "image-nam"),
            ['filters.image-nam: unknown filter; did you mean "image-name"?'],
        ),
        (('["vendor"]', "[]"), ["owners: required, and not set"]),
        (("owners ", 'access_key = "AK"\n  owners '), ["secret_key: required with access_key"]),
        (("most_recent", "newest"), ['An argument named "newest" is not expected here']),
    ],
)
def test_errors(
    packer: Packer,
    region: LocalCloud,
    tmp_path: Path,
    change: tuple[str, str],
    messages: list[str],
) -> None:
    extra = {"OSC_SECRET_KEY": ""} if "access_key" in change[1] else {}
    template = OMI.replace(*change) + SHOW.replace("VALUES", "data.osc-chroot-omi.base.id")
    outcome = run(packer, "build", template, cwd=tmp_path, region=region, extra=extra)
    assert outcome.status == 1
    for message in messages:
        assert message in words(outcome)
    assert "Traceback" not in outcome.output and "panic" not in outcome.output
    assert "on t.pkr.hcl line " in words(outcome)


def test_keys_that_are_refused_are_not_shown(
    packer: Packer, region: LocalCloud, tmp_path: Path
) -> None:
    secret = "planted-secret-4711"
    template = IDENTITY.replace("{}", f'{{\n  secret_key = "{secret}"\n}}')
    template += SHOW.replace("VALUES", "data.osc-chroot-identity.me.account_id")
    log = {"PACKER_LOG": "1"}
    outcome = run(packer, "build", template, cwd=tmp_path, region=region, extra=log)
    assert outcome.status == 1
    assert "ReadAccounts: " in outcome.output
    assert "Check access_key and secret_key" in words(outcome)
    # The template's own text is Packer's to show.
    from_plugin = [line for line in outcome.output.splitlines() if "packer-plugin" in line]
    assert from_plugin and not any(secret in line for line in from_plugin)


def test_ctrl_c_ends_it(packer: Packer, region: LocalCloud, tmp_path: Path) -> None:
    """Packer does not tell a data source; the terminal does."""
    region.set_trouble(Trouble(faults=[Fault(action="ReadAccounts", kind="503", nth=0)]))
    try:
        template = IDENTITY + SHOW.replace("VALUES", "data.osc-chroot-identity.me")
        (tmp_path / "t.pkr.hcl").write_text(template)
        before = region.calls_made
        running = packer.start("build", "t.pkr.hcl", cwd=tmp_path, cloud=region)
        deadline = time.monotonic() + 60
        while region.calls_made == before:
            assert time.monotonic() < deadline, running.output
            time.sleep(0.05)
        asked = time.monotonic()
        running.interrupt()
        outcome = running.wait()
        # It ends within a second; the rest is Packer's, and a busy machine's.
        assert time.monotonic() - asked < 3
    finally:
        region.set_trouble(Trouble())
    assert outcome.status == 1
    assert "the build was cancelled" in words(outcome)
