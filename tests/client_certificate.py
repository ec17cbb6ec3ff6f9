"""A client's certificate, and Regions that talk only to who shows it."""

import ssl
import subprocess
from pathlib import Path

import pytest

from packer_plugin_osc_chroot.localcloud import certificate

CERTIFICATE, KEY = "client.pem", "client.key"


def make_pair(directory: Path) -> None:
    """The certificate and its key, as files of these names."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=client"]
        + ["-out", str(directory / CERTIFICATE), "-keyout", str(directory / KEY), "-days", "2"],
        check=True,
        capture_output=True,
    )


def demand(monkeypatch: pytest.MonkeyPatch, trusted: Path) -> None:
    """Regions that are opened from now on want a certificate that `trusted` vouches for."""
    make = certificate.server_context

    def server_context(directory: Path, *, host: str) -> tuple[ssl.SSLContext, Path]:
        context, authorities = make(directory, host=host)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(trusted)
        return context, authorities

    monkeypatch.setattr(certificate, "server_context", server_context)
