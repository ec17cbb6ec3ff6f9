"""The API over HTTPS: its certificate is accepted by who is told of it, and by nobody else."""

import ssl
import subprocess
import sys
import urllib.request

import pytest
import requests

from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud

PROGRAM = """
from osc_sdk_python.call import Call
print(Call(max_retries=0).api("ReadRegions")["Regions"][0]["RegionName"])
"""


def test_the_sdk_accepts_it_by_the_environment_alone() -> None:
    with LocalCloud(source_omis={}, https=True) as cloud:
        environment = cloud.child_environment({"PATH": "/usr/bin"})
        assert environment["OSC_ENDPOINT_API"].startswith("https://127.0.0.1:")
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True
        )
    assert (result.returncode, result.stdout) == (0, "eu-west-2\n"), result.stderr


def test_by_name_too() -> None:
    with LocalCloud(source_omis={}, https=True) as cloud:
        url = cloud.url.replace("127.0.0.1", "localhost")
        authorities = cloud.environment()["SSL_CERT_FILE"]
        answer = requests.post(f"{url}/api/v1/ReadRegions", json={}, verify=authorities)
    assert answer.status_code == 200


def test_who_was_not_told_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    with LocalCloud(source_omis={}, https=True) as cloud:
        with pytest.raises(requests.exceptions.SSLError):
            requests.post(f"{cloud.url}/api/v1/ReadRegions", json={})


def test_the_machines_own_authorities_stay_trusted() -> None:
    with LocalCloud(source_omis={}, https=True) as cloud:
        context = ssl.create_default_context(cafile=cloud.environment()["SSL_CERT_FILE"])
    trusted = ssl.create_default_context().get_ca_certs(binary_form=True)
    assert set(trusted) <= set(context.get_ca_certs(binary_form=True))


def test_metadata_stay_on_http() -> None:
    with LocalCloud(source_omis={}, https=True) as cloud:
        url = cloud.environment()["OSC_CHROOT_METADATA_URL"]
        assert url.startswith("http://")
        with urllib.request.urlopen(f"{url}/latest/meta-data/instance-id") as answer:
            assert answer.read().decode() == cloud.vm_id


def test_every_start_has_a_certificate_of_its_own() -> None:
    with LocalCloud(source_omis={}, https=True) as cloud:
        with LocalCloud(source_omis={}, https=True) as other:
            with pytest.raises(requests.exceptions.SSLError):
                requests.post(
                    f"{cloud.url}/api/v1/ReadRegions",
                    json={},
                    verify=other.environment()["SSL_CERT_FILE"],
                )
