"""GitHub as far as Packer's plugin installer sees it, for one command.

`ReleaseHost` runs a command in a network namespace of its own, where this file, run as a program,
answers for the hosts' names over HTTPS, with a certificate of an authority that only that command
trusts. Nothing else is reached there.
"""

import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

# The API, the site, and where the site sends those who ask for a release's files.
API = "api.github.com"
SITE = "github.com"
FILES = "release-assets.githubusercontent.com"


class ReleaseHost:
    """Serves `root`, where OWNER/REPOSITORY/vX.Y.Z is a directory with a release's files."""

    def __init__(self, root: Path, directory: Path) -> None:
        self.root = root
        self._directory = directory
        self.authority = _make_certificates(directory)

    def argv(self, *command: str) -> list[str]:
        """What runs `command` where this host is the only one. Needs root."""
        program = (sys.executable, str(Path(__file__).resolve()))
        return [
            *("unshare", "--net", "--mount", "--", *program),
            *(str(self._directory), str(self.root), *command),
        ]

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """`base`, with the authority, and without what leads elsewhere."""
        proxies = ("http_proxy", "https_proxy", "all_proxy")
        kept = {name: value for name, value in base.items() if name.lower() not in proxies}
        kept.pop("PACKER_GITHUB_API_TOKEN", None)
        return {**kept, "SSL_CERT_FILE": str(self.authority)}

    def requests(self) -> list[str]:
        """What was asked for since this was last called, as HOST/PATH."""
        log = self._directory / "requests"
        told = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return told


def _make_certificates(directory: Path) -> Path:
    """An authority and, signed by it, a certificate of the hosts; the authority's file."""
    now = datetime.now(UTC)

    def builder(subject: str, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")]))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
        )

    signer, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = (
        builder("test authority", signer.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(signer, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName([x509.DNSName(name) for name in (API, SITE, FILES)])
    certificate = (
        builder(SITE, key.public_key())
        .add_extension(names, critical=False)
        .sign(signer, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / "server.pem").write_bytes(
        certificate.public_bytes(pem)
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    file = directory / "authority.pem"
    file.write_bytes(authority.public_bytes(pem))
    return file


def _answer(root: Path, host: str, path: str) -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers and body."""
    match host, path.strip("/").split("/"):
        case (
            _,
            ["repos", owner, repository, "git", "matching-refs", "tags"],
        ) if host == API:
            tags = sorted(each.name for each in (root / owner / repository).glob("v*"))
            refs = [{"ref": f"refs/tags/{tag}"} for tag in tags]
            return 200, {"Content-Type": "application/json"}, json.dumps(refs).encode()
        case _, [owner, repository, "releases", "download", tag, name] if host == SITE:
            if (root / owner / repository / tag / name).is_file():
                location = f"https://{FILES}/{owner}/{repository}/{tag}/{name}"
                return 302, {"Location": location}, b""
        case _, [owner, repository, tag, name] if host == FILES:
            return 200, {}, (root / owner / repository / tag / name).read_bytes()
    return 404, {}, b"Not Found"


def main(directory: Path, root: Path, command: list[str]) -> int:
    """In the namespaces: be the hosts, run the command, end with its status."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    hosts = directory / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {API} {SITE} {FILES}\n")
    subprocess.run(["mount", "--bind", str(hosts), "/etc/hosts"], check=True)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host = self.headers["Host"]
            with (directory / "requests").open("a") as log:
                log.write(f"{host}{self.path}\n")
            status, headers, body = _answer(root, host, self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 443), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    status = subprocess.run(command, env=os.environ).returncode
    server.shutdown()
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
