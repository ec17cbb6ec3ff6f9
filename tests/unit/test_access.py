"""How a build reaches the API and knows its VM: certificates, tokens, profiles, Regions, ids; and time
limits."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from client_certificate import CERTIFICATE, KEY, demand, make_pair
from in_process import client, sent

from packer_plugin_osc_chroot import cancel
from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.access import find_access
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.cloud.credentials import Credentials, find_credentials
from packer_plugin_osc_chroot.cloud.metadata import Identity, read_identity, region_if_known
from packer_plugin_osc_chroot.errors import BuildError, UndoError
from packer_plugin_osc_chroot.journal.journal import Journal
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.images import TINY_IMAGE_ID
from packer_plugin_osc_chroot.localcloud.server import ApiServer
from packer_plugin_osc_chroot.localcloud.trouble import Fate, Trouble
from packer_plugin_osc_chroot.look import Facts, look
from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.redaction import Redactor
from packer_plugin_osc_chroot.resources.image import wait_for_image
from packer_plugin_osc_chroot.resources.snapshot import wait_for_snapshot
from packer_plugin_osc_chroot.resources.volume import VolumeRequest, created_volume
from packer_plugin_osc_chroot.ui import RecordingUi

PAIR = (CERTIFICATE, KEY)


@pytest.fixture
def region() -> Iterator[LocalCloud]:
    with LocalCloud() as cloud:
        yield cloud


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A client's certificate and its key, the same with a password, and the key of nobody."""
    directory = tmp_path_factory.mktemp("x509")
    make_pair(directory)
    subprocess.run(
        ["openssl", "genrsa", "-out", str(directory / "other.key"), "2048"],
        check=True,
        capture_output=True,
    )
    subprocess.run(
        ["openssl", "rsa", "-in", str(directory / PAIR[1]), "-aes128", "-passout", "pass:secret"]
        + ["-out", str(directory / "locked.key")],
        check=True,
        capture_output=True,
    )
    (directory / "both.pem").write_bytes(
        (directory / PAIR[0]).read_bytes() + (directory / PAIR[1]).read_bytes()
    )
    (directory / "not.pem").write_text("hello")
    (directory / "large.pem").write_bytes(bytes(2 << 20))
    (directory / "folder").mkdir()
    os.mkfifo(directory / "fifo")
    return directory


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch, files: Path) -> Iterator[LocalCloud]:
    """A Region whose API talks only to who shows that certificate."""
    demand(monkeypatch, files / CERTIFICATE)
    with LocalCloud(https=True) as cloud:
        yield cloud


def read_account(cloud: LocalCloud, config: Config, **environ: str) -> Any:
    found = find_credentials(config, {**cloud.environment(), **environ})
    api = Cloud(found, region=cloud.environment()["OSC_REGION"])
    try:
        return api.read("ReadAccounts", token=CancelToken())["Accounts"]
    finally:
        api.close()


def test_the_client_s_certificate_is_shown(
    strict: LocalCloud, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packer_plugin_osc_chroot.cloud.client._FIRST_RETRY_SECONDS", 0.1)
    cert, key = (str(files / name) for name in PAIR)
    with pytest.raises(BuildError):
        read_account(strict, Config(insecure_skip_tls_verify=True))
    assert read_account(
        strict, Config(x509_cert_path=cert, x509_key_path=key, insecure_skip_tls_verify=True)
    )
    assert read_account(
        strict, Config(x509_cert_path=str(files / "both.pem"), insecure_skip_tls_verify=True)
    )
    found = {"OSC_X509_CLIENT_CERT": cert, "OSC_X509_CLIENT_KEY": key}
    assert read_account(strict, Config(insecure_skip_tls_verify=True), **found)
    profile = files / "profiles.json"
    profile.write_text(json.dumps({"x": {"x509_client_cert": cert, "x509_client_key": key}}))
    chosen = Config(profile="x", insecure_skip_tls_verify=True)
    assert read_account(strict, chosen, OSC_CONFIG_FILE=str(profile))


@pytest.mark.parametrize(
    ("cert", "key", "text"),
    [
        ("", "client.key", "x509_key_path: .*client.key is set, but no certificate"),
        ("none.pem", "", "x509_cert_path: .*none.pem: no such file"),
        ("client.pem", "none.key", "x509_key_path: .*none.key: no such file"),
        ("client.pem", "", "x509_cert_path: .*Set x509_key_path"),
        ("not.pem", "client.key", "x509_cert_path: .*not a certificate with its private key"),
        ("client.pem", "other.key", "x509_key_path: .*other.key: holds another key than"),
        ("/dev/zero", "client.key", "x509_cert_path: /dev/zero: is no regular file"),
        ("client.pem", "/dev/zero", "x509_key_path: /dev/zero: is no regular file"),
        ("fifo", "client.key", "x509_cert_path: .*fifo: is no regular file"),
        ("client.pem", "fifo", "x509_key_path: .*fifo: is no regular file"),
        ("client.pem", "folder", "x509_key_path: .*folder: is no regular file"),
        ("large.pem", "client.key", "x509_cert_path: .*large.pem: is larger than 1 MiB"),
        ("client.pem", "locked.key", "x509_cert_path: .*unencrypted"),
    ],
)
def test_what_cannot_be_shown_is_said_before_any_call(
    files: Path, cert: str, key: str, text: str
) -> None:
    config = Config(
        access_key="A",
        secret_key="S",
        x509_cert_path=str(files / cert) if cert else "",
        x509_key_path=str(files / key) if key else "",
    )
    with pytest.raises(BuildError, match=text):
        find_credentials(config, {"HOME": "/nonexistent"})


def test_the_token_goes_with_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    handle = ApiServer._api

    async def noting(self: ApiServer, request: Any) -> Any:
        seen.append(request.headers.get("X-Osc-Security-Token"))
        return await handle(self, request)

    monkeypatch.setattr(ApiServer, "_api", noting)
    with LocalCloud(source_omis={}) as cloud:
        read_account(cloud, Config(token="its token\n"))
        read_account(cloud, Config())
    assert seen == ["its token", None]


def test_a_code_is_refused_with_the_reason() -> None:
    with pytest.raises(BuildError, match="mfa_code: the OUTSCALE API takes no code") as caught:
        find_credentials(Config(access_key="A", secret_key="S", mfa_code="123456"), {})
    assert "123456" not in str(caught.value)


def test_the_profile_of_the_template(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    keys = {"access_key": "mine", "secret_key": "its secret", "region": "eu-west-9"}
    file.write_text(json.dumps({"mine": keys, "default": {}}))
    environ = {"OSC_CONFIG_FILE": str(file)}
    found = find_credentials(Config(profile="mine"), environ)
    assert (found.access_key, found.region) == ("mine", "eu-west-9")
    assert found.found_in == f'profile "mine" in {file}'
    # The template's name wins over the environment's; the environment's keys over any profile's.
    other = {**environ, "OSC_PROFILE": "default"}
    assert find_credentials(Config(profile="mine"), other).access_key == "mine"
    there = {**environ, "OSC_ACCESS_KEY": "env", "OSC_SECRET_KEY": "its"}
    found = find_credentials(Config(profile="mine"), there)
    assert found.access_key == "env" and found.found_in.startswith("the environment (OSC_")
    with pytest.raises(BuildError, match='has no profile "nobody".*Set profile to one of: default'):
        find_credentials(Config(profile="nobody"), environ)


def look_at(cloud: LocalCloud, *, check_region: bool = False, **options: Any) -> Facts:
    config = Config(source_omi=TINY_IMAGE_ID, omi_name="new", **options)
    environ = cloud.environment()
    if options.get("vm_id"):
        environ["OSC_CHROOT_METADATA_URL"] = "http://127.0.0.1:1"
    credentials = find_credentials(config, environ)
    identity = read_identity(config, environ, token=CancelToken())
    api = Cloud(credentials, region=credentials.region)
    try:
        return look(
            api,
            config,
            identity,
            check_region=check_region,
            token=CancelToken(),
            ui=RecordingUi(),
        )
    finally:
        api.close()


def test_the_region_is_one_that_the_api_lists(
    region: LocalCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_at(region, check_region=True)
    assert len(sent(region, "ReadRegions")) == 1
    look_at(region)
    assert len(sent(region, "ReadRegions")) == 1
    monkeypatch.setattr(Credentials, "endpoint_url", lambda self, name: f"{region.url}/api/v1")
    api = Cloud(
        find_credentials(Config(), region.environment()), region=region.environment()["OSC_REGION"]
    )
    api.region = "eu-west-9"
    with pytest.raises(
        BuildError, match="region: the API knows no Region eu-west-9, but eu-west-2"
    ):
        look(
            api,
            Config(source_omi=TINY_IMAGE_ID, omi_name="new"),
            Identity(region.vm_id, region.subregion),
            check_region=True,
            token=CancelToken(),
            ui=RecordingUi(),
        )


def test_a_vm_that_the_template_names_needs_no_metadata(region: LocalCloud) -> None:
    facts = look_at(region, vm_id=region.vm_id)
    assert facts.identity == Identity(region.vm_id, region.subregion)
    assert look_at(region, vm_id=region.vm_id, subregion=region.subregion) == facts
    assert look_at(region, vm_id=region.vm_id, skip_metadata_api_check=True) == facts


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"vm_id": "i-00000000"}, "VM i-00000000 .this one. is not shown"),
        ({"subregion": "eu-west-2b"}, "subregion: VM .* is in eu-west-2a, expected eu-west-2b"),
        ({"skip_metadata_api_check": True}, "skip_metadata_api_check: .*Set vm_id"),
        ({"metadata_url": "http://127.0.0.1:1/"}, "http://127.0.0.1:1/latest/.*no answer"),
    ],
)
def test_a_vm_that_is_not_this_one(region: LocalCloud, options: Any, text: str) -> None:
    with pytest.raises(BuildError, match=text):
        look_at(region, **options)


def test_the_metadata_service_s_address(region: LocalCloud) -> None:
    config = Config(metadata_url=region.environment()["OSC_CHROOT_METADATA_URL"])
    found = read_identity(config, {"OSC_CHROOT_METADATA_URL": "http://x"}, token=CancelToken())
    assert found.vm_id == region.vm_id


def test_the_time_limit_of_a_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancel, "UNDO_SECONDS", 0.5)
    trouble = Trouble(fates=[Fate(action="CreateVolume", end="never")])
    with LocalCloud(source_omis={}, trouble=trouble) as cloud:
        api = client(cloud)
        request = VolumeRequest(cloud.subregion, "", 1, "gp2")
        manager = created_volume(api, request, timeout=0.3, token=CancelToken(), ui=RecordingUi())
        # A volume that is being created for ever cannot be deleted either.
        with pytest.raises(BuildError, match="still creating after 0 s.*volume_timeout") as caught:
            manager.__enter__()
        (left,) = caught.value.not_undone
        assert isinstance(left, UndoError)
        assert left.left[0].startswith("volume vol-")
        api.close()


@pytest.mark.parametrize("wait", [wait_for_image, wait_for_snapshot])
def test_the_time_limits_of_snapshots_and_omis(wait: Callable[..., object]) -> None:
    """Of what is never shown, as of what never ends."""
    with LocalCloud(source_omis={}) as cloud:
        api = client(cloud)
        with pytest.raises(BuildError, match="not shown by the API after 0 s.*_timeout"):
            wait(api, "ami-00000000", timeout=0.3, token=CancelToken(), ui=RecordingUi())
        api.close()


@pytest.mark.parametrize("address", ["169.254.169.254", "http:///", "ftp://x"])
def test_the_variable_with_the_metadata_service_s_address_is_looked_at(address: str) -> None:
    environ = {"OSC_CHROOT_METADATA_URL": address}
    with pytest.raises(BuildError, match="^OSC_CHROOT_METADATA_URL: must be .*Correct or unset it"):
        read_identity(Config(), environ, token=CancelToken())
    with pytest.raises(BuildError, match="^OSC_CHROOT_METADATA_URL: must be "):
        region_if_known(environ, token=CancelToken())


def test_a_metadata_address_that_is_not_asked_is_said(region: LocalCloud) -> None:
    ui = RecordingUi()
    keys = region.environment()
    config = Config(
        vm_id=region.vm_id, region=keys["OSC_REGION"], metadata_url="http://127.0.0.1:1"
    )
    found = find_access(
        config, keys, redact=Redactor(), journal=Journal(), token=CancelToken(), ui=ui
    )
    found.cloud.close()
    assert "metadata_url: not asked, since vm_id says" in ui.text
