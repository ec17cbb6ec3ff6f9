"""Who signs the calls, and where they go: options of access, through the real packer."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from client_certificate import CERTIFICATE, KEY, demand, make_pair
from conftest import SOURCE_OMI
from leaks import Machine
from option_builds import TEMPLATE, build_with
from packer_run import Packer

from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud

pytestmark = pytest.mark.e2e


@pytest.fixture
def region(guest_image: Path, leak_check: Machine) -> Iterator[LocalCloud]:
    with LocalCloud(source_omis={SOURCE_OMI: guest_image}) as cloud:
        yield cloud
    assert cloud.leftovers() == []


def test_access_from_the_template_alone(packer: Packer, region: LocalCloud, tmp_path: Path) -> None:
    known = region.environment()
    options = f"""
    source_omi           = "{SOURCE_OMI}"
    access_key           = "{known["OSC_ACCESS_KEY"]}"
    secret_key           = "{known["OSC_SECRET_KEY"]}"
    region               = "{known["OSC_REGION"]}"
    omi_regions          = ["{known["OSC_REGION"]}"]
    custom_endpoint_oapi = "{known["OSC_ENDPOINT_API"]}"
    metadata_url         = "{known["OSC_CHROOT_METADATA_URL"]}"
    """
    state = {"OSC_CHROOT_STATE_DIR": str(tmp_path / "state"), "HOME": str(tmp_path)}
    outcome = build_with(packer, tmp_path, options, extra=state)
    assert len(region.images()) == 1
    for key in ("OSC_ACCESS_KEY", "OSC_SECRET_KEY"):
        assert known[key] not in outcome.output


def test_access_from_a_profile(packer: Packer, region: LocalCloud, tmp_path: Path) -> None:
    known = region.environment()
    keys = {"access_key": known["OSC_ACCESS_KEY"], "secret_key": known["OSC_SECRET_KEY"]}
    profile = {
        **keys,
        "region": known["OSC_REGION"],
        "endpoints": {"api": known["OSC_ENDPOINT_API"]},
    }
    (tmp_path / ".osc").mkdir()
    (tmp_path / ".osc" / "config.json").write_text(json.dumps({"default": {}, "mine": profile}))
    options = f"""
    source_omi = "{SOURCE_OMI}"
    profile    = "mine"
    """
    extra = {
        "HOME": str(tmp_path),
        "OSC_CHROOT_STATE_DIR": str(tmp_path / "state"),
        "OSC_CHROOT_METADATA_URL": known["OSC_CHROOT_METADATA_URL"],
    }
    build_with(packer, tmp_path, options, extra=extra)
    assert len(region.images()) == 1


def test_a_certificate_that_nobody_vouches_for(
    packer: Packer, guest_image: Path, leak_check: Machine, tmp_path: Path
) -> None:
    options = f"""
    source_omi               = "{SOURCE_OMI}"
    insecure_skip_tls_verify = true
    """
    with LocalCloud(source_omis={SOURCE_OMI: guest_image}, https=True) as region:
        extra = {"REQUESTS_CA_BUNDLE": "", "SSL_CERT_FILE": ""}
        build_with(packer, tmp_path, options, cloud=region, extra=extra)
        assert len(region.images()) == 1 and region.leftovers() == []


def test_a_client_s_certificate(
    packer: Packer,
    guest_image: Path,
    leak_check: Machine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_pair(tmp_path)
    demand(monkeypatch, tmp_path / CERTIFICATE)
    options = f"""
    source_omi     = "{SOURCE_OMI}"
    x509_cert_path = "{tmp_path / CERTIFICATE}"
    x509_key_path  = "{tmp_path / KEY}"
    """
    with LocalCloud(source_omis={SOURCE_OMI: guest_image}, https=True) as region:
        build_with(packer, tmp_path, options, cloud=region)
        assert len(region.images()) == 1 and region.leftovers() == []
        # Without them nobody is talked to.
        (tmp_path / "row.pkr.hcl").write_text(
            TEMPLATE.format(options=f'source_omi = "{SOURCE_OMI}"', provisioners="")
        )
        outcome = packer.run("build", "row.pkr.hcl", cwd=tmp_path, cloud=region)
        assert outcome.status == 1 and len(region.images()) == 1
