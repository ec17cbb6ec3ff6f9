"""The proxy through which `make bench` brings a rival to a localcloud."""

import pytest
import requests
from bench.proxy import proxy_to

from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud


def test_the_api_and_the_metadata_are_reached_by_their_own_names_and_nothing_else() -> None:
    with LocalCloud(source_omis={}, https=True) as cloud, proxy_to(cloud) as environment:
        proxies = {"http": environment["HTTP_PROXY"], "https": environment["HTTPS_PROXY"]}
        url = f"https://api.eu-west-2.{environment['OSC_ENDPOINT_API']}/ReadRegions"
        requests.packages.urllib3.disable_warnings()  # type: ignore[attr-defined]
        answer = requests.post(url, json={}, proxies=proxies, verify=False, timeout=10)
        assert answer.json()["Regions"]
        metadata = "http://169.254.169.254/latest/meta-data"
        found = requests.get(f"{metadata}/instance-id", proxies=proxies, timeout=10)
        assert found.text == cloud.vm_id
        assert requests.get(f"{metadata}/none", proxies=proxies, timeout=10).status_code == 404
        assert requests.get("http://example.com/", proxies=proxies, timeout=10).status_code == 403
        with pytest.raises(requests.exceptions.ProxyError):
            requests.post("https://example.com/", proxies=proxies, timeout=10)
