"""Connections of a build: kept open, one full handshake, and files that cannot be used."""

import os
import ssl
import subprocess
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from test_cloud_client import connect, good, serving

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, CloudError


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1, with its key in the same file."""
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        + ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
        + ["-keyout", str(file), "-out", str(file.with_name("cert.pem"))],
        check=True,
        capture_output=True,
    )
    with open(file, "a") as both:
        both.write(file.with_name("cert.pem").read_text())
    return file


@pytest.fixture
def server_context(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.with_name("cert.pem")))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_one_full_handshake_whatever_is_asked_side_by_side(
    server_context: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    server_context.maximum_version = version
    with serving(good(Vms=[]), context=server_context) as server:
        cloud = connect(server.url)
        cloud.read("ReadVms", token=CancelToken())
        for _ in range(3):
            with ThreadPoolExecutor(6) as pool:
                for _ in range(6):
                    pool.submit(cloud.read, "ReadVms", token=CancelToken())
        stats = server_context.session_stats()
        cloud.close()
    assert len(server.asked) == 19
    assert stats["accept_good"] < 19, "connections are kept"
    assert stats["accept_good"] - stats["hits"] == 1, "all but the first are resumed"


def test_calls_after_each_other_share_a_connection(server_context: ssl.SSLContext) -> None:
    with serving(good(Vms=[]), context=server_context) as server:
        cloud = connect(server.url)
        for _ in range(10):
            cloud.read("ReadVms", token=CancelToken())
        assert server_context.session_stats()["accept_good"] == 1


def test_tls_that_breaks_amid_a_call_is_no_answer(
    server_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the call makes may be there: to have it taken for refused would leave it."""
    with serving(good(Vms=[]), context=server_context) as server:

        def break_tls(handler: BaseHTTPRequestHandler, status: int) -> None:
            # A record that nobody with the connection's keys has written.
            os.write(handler.connection.fileno(), b"\x17\x03\x03\x00\x20" + bytes(32))
            raise ConnectionAbortedError

        cloud = connect(server.url)
        cloud.read("ReadVms", token=CancelToken())
        monkeypatch.setattr(BaseHTTPRequestHandler, "send_response", break_tls)
        monkeypatch.setattr(server.server, "handle_error", lambda *connection: None)
        with pytest.raises(CloudError, match="no answer from") as caught:
            cloud.change("CreateImage", token=CancelToken(), ImageName="x")
        assert caught.value.maybe_done
        assert [action for action, _, _ in server.asked] == ["ReadVms", "CreateImage"]


def test_authorities_that_are_not_there_are_named(
    server_context: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "none.pem"
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    with serving(good(), context=server_context) as server:
        with pytest.raises(BuildError, match=f"{bundle}: cannot be used for authorities of TLS"):
            connect(server.url).read("ReadVms", token=CancelToken())
        bundle.write_text("no certificate")
        with pytest.raises(BuildError, match=f"{bundle}: cannot be used for authorities of TLS"):
            connect(server.url).read("ReadVms", token=CancelToken())
