"""The certificate of a Region that is served over HTTPS: made at each start, for this machine."""

import ipaddress
import ssl
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from packer_plugin_osc_chroot.localcloud.state import now

_VALID = timedelta(days=30)
_SKEW = timedelta(hours=1)


def server_context(directory: Path, *, host: str) -> tuple[ssl.SSLContext, Path]:
    """What a server at the address `host` needs, and a file with the authorities for its clients.

    That file has those that this machine trusts too: a client that is pointed at it loses none. The
    key never leaves `directory`, which only its owner may enter, and goes with it.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "osc-chroot localcloud")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(host))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - _SKEW)
        .not_valid_after(now() + _VALID)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    key_file = directory / "server.pem"
    key_file.touch(mode=0o600)
    key_file.write_bytes(
        pem
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(key_file)
    authorities = directory / "authorities.pem"
    authorities.write_bytes(pem + _trusted())
    return context, authorities


def _trusted() -> bytes:
    """The authorities that this machine trusts, as PEM."""
    default = ssl.create_default_context()
    found = default.get_ca_certs(binary_form=True)
    return "".join(map(ssl.DER_cert_to_PEM_cert, found)).encode()
