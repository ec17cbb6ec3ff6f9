"""Template, environment, profile file, in that order; endpoints as users write them."""

import json
import os
from pathlib import Path

import pytest

from packer_plugin_osc_chroot.cloud.credentials import (
    endpoint_problem,
    endpoint_url,
    find_credentials,
)
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.options.config import Config


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("", "https://api.eu-west-2.outscale.com/api/v1"),
        ("https://api.example.com", "https://api.example.com/api/v1"),
        ("https://api.example.com/api/v1/", "https://api.example.com/api/v1"),
        ("http://127.0.0.1:8080/api/v1", "http://127.0.0.1:8080/api/v1"),
        ("api.example.com:444", "https://api.example.com:444/api/v1"),
        ("outscale.com/oapi/latest", "https://api.eu-west-2.outscale.com/oapi/latest"),
    ],
)
def test_endpoints(endpoint: str, url: str) -> None:
    assert endpoint_problem(endpoint) is None
    assert endpoint_url(endpoint, "eu-west-2") == url


@pytest.mark.parametrize("endpoint", ["ftp://x", "https://", "http://x:port", "two words"])
def test_bad_endpoints(endpoint: str) -> None:
    assert endpoint_problem(endpoint) is not None


def test_china_has_another_domain() -> None:
    assert endpoint_url("", "cn-southeast-1").startswith("https://api.cn-southeast-1.outscale.hk/")


def test_a_pair_is_not_made_of_halves(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"default": {"access_key": "file", "secret_key": "file"}}))
    environ = {"OSC_CONFIG_FILE": str(file)}
    assert find_credentials(Config(), environ).access_key == "file"
    for config, here, other in (
        (Config(access_key="template"), "access_key", "secret_key"),
        (Config(secret_key="template"), "secret_key", "access_key"),
    ):
        with pytest.raises(BuildError) as caught:
            find_credentials(config, environ)
        assert f"{here} is set in the template, but {other}" in str(caught.value)
        assert "as a pair only" in str(caught.value)


def test_half_a_pair_in_the_profile(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"default": {"access_key": "file"}}))
    with pytest.raises(BuildError, match=f'set in profile "default" in {file}, but secret_key'):
        find_credentials(Config(), {"OSC_CONFIG_FILE": str(file)})


def test_the_order(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    profile = {"access_key": "file", "secret_key": "file", "region": "file", "unknown": 1}
    file.write_text(json.dumps({"default": profile}))
    environ = {
        "OSC_CONFIG_FILE": str(file),
        "OUTSCALE_REGION": "older",
        "OSC_SECRET_KEY": "its secret",
    }
    found = find_credentials(Config(access_key="template"), environ)
    assert (found.access_key, found.secret_key, found.region) == ("template", "its secret", "older")
    assert "its secret" not in repr(found)


def test_osc_cli_profile(tmp_path: Path) -> None:
    (tmp_path / ".osc").mkdir()
    profile = {
        "access_key": "A",
        "secret_key": "S",
        "host": "example.com",
        "https": True,
        "region_name": "eu-west-9",
    }
    (tmp_path / ".osc" / "config.json").write_text(json.dumps({"mine": profile}))
    found = find_credentials(Config(), {"HOME": str(tmp_path), "OSC_PROFILE": "mine"})
    assert found.endpoint_url("eu-west-9") == "https://api.eu-west-9.example.com/api/v1"


def test_nothing_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no OUTSCALE credentials: access_key and"):
        find_credentials(Config(), {"HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("content", "text"),
    [("{not json: SECRET", "not valid JSON"), ('{"other": {}}', 'has no profile "default"')],
)
def test_a_bad_file_is_named_and_not_quoted(tmp_path: Path, content: str, text: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(content)
    with pytest.raises(BuildError, match=text) as caught:
        find_credentials(Config(), {"OSC_CONFIG_FILE": str(file)})
    assert str(file) in str(caught.value) and "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("/dev/zero", "/dev/zero: is no regular file"),
        ("fifo", "fifo: is no regular file"),
        ("folder", "folder: is no regular file"),
        ("large", "large: is larger than 1 MiB"),
        ("deep", "deep: not valid JSON"),
    ],
)
def test_a_profile_file_that_is_none_is_told_at_once(tmp_path: Path, name: str, text: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "large").write_bytes(bytes(2 << 20))
    (tmp_path / "deep").write_text("[" * 500_000)
    with pytest.raises(BuildError, match=f"profile file .*{text}"):
        find_credentials(Config(), {"OSC_CONFIG_FILE": str(tmp_path / name)})


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        ({"secret_key": ["SECRET"]}, "secret_key: expected a string, found list"),
        ({"endpoints": {"api": 5}}, "endpoint: expected a string, found int"),
        ({"region": "eu west"}, 'region: must be the name of a Region .* found "eu west"'),
        ({"region": "eu-west-2a"}, "region: must be a Region, found the Subregion"),
        ({"endpoints": {"api": "ftp://x"}}, "custom_endpoint_oapi: must be an endpoint"),
    ],
)
def test_what_a_profile_holds_is_checked(
    tmp_path: Path, profile: dict[str, object], text: str
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"default": {"access_key": "A", "secret_key": "S", **profile}}))
    with pytest.raises(BuildError, match=text) as caught:
        find_credentials(Config(), {"OSC_CONFIG_FILE": str(file)})
    assert "SECRET" not in str(caught.value)


def test_what_the_environment_holds_is_checked() -> None:
    keys = {"OSC_ACCESS_KEY": "A", "OSC_SECRET_KEY": "S", "HOME": "/nonexistent"}
    for variable, text in (
        ("OSC_REGION", "region: must be the name of a Region"),
        ("OUTSCALE_OAPI_URL", "custom_endpoint_oapi: must be an endpoint"),
    ):
        with pytest.raises(BuildError, match=text) as caught:
            find_credentials(Config(), {**keys, variable: "two words"})
        assert "from the environment" in str(caught.value)
