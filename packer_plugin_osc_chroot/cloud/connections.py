"""The connections of a build: kept open, and with one full TLS handshake for all of them.

requests reads the file of authorities anew for each connection (15 ms of work) and shakes hands in full
each time. Here the connections of a build share one TLS context, and all but the first resume its
session.
"""

import os
import ssl
import threading
from collections.abc import Mapping
from typing import Any

from requests.adapters import DEFAULT_CA_BUNDLE_PATH, HTTPAdapter

from packer_plugin_osc_chroot.errors import BuildError

# One build asks a handful of things at a time.
_CONNECTIONS = 16


class Connections(HTTPAdapter):
    """Thread-safe. For one endpoint, one `verify` and one client certificate."""

    def __init__(self) -> None:
        self._context: ssl.SSLContext | None = None
        self._making = threading.Lock()
        super().__init__(pool_connections=1, pool_maxsize=_CONNECTIONS)

    def build_connection_pool_key_attributes(
        self, request: Any, verify: Any, cert: Any = None
    ) -> Any:
        """Raises BuildError naming the file that cannot be used."""
        host, options = super().build_connection_pool_key_attributes(request, verify, cert)
        if host["scheme"] != "https":
            return host, {}
        with self._making:
            if self._context is None:
                self._context = _make_context(verify, cert)
        return host, {"ssl_context": self._context, "cert_reqs": options["cert_reqs"]}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """The context has all of it; what is set here would be read for each connection."""


class _Resuming(ssl.SSLContext):
    """A context whose connections resume the session of the one before."""

    _before: ssl.SSLSocket | None = None

    def wrap_socket(self, sock: Any, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        # With TLS 1.3 the session is known only once something was read, so it is asked for late.
        before = self._before
        session = before.session if before is not None else None
        if session is not None and session.has_ticket:
            options.setdefault("session", session)
        self._before = super().wrap_socket(sock, *arguments, **options)
        return self._before


def _make_context(verify: bool | str, cert: str | tuple[str, str] | None) -> ssl.SSLContext:
    context = _Resuming(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["http/1.1"])
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        authorities = DEFAULT_CA_BUNDLE_PATH if verify is True else verify
        is_folder = os.path.isdir(authorities)
        where: Mapping[str, str] = {"capath" if is_folder else "cafile": authorities}
        try:
            context.load_verify_locations(**where)
        except OSError as error:
            raise _unusable(authorities, "authorities", error) from error
    if cert is not None:
        certificate, key = cert if isinstance(cert, tuple) else (cert, None)
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except (OSError, ValueError) as error:
            raise _unusable(certificate, "a client certificate", error) from error
    return context


def _no_password() -> str:
    """In the place of OpenSSL's own question at the terminal."""
    raise ValueError("its key has a passphrase")


def _unusable(path: str, what: str, error: OSError | ValueError) -> BuildError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return BuildError(f"{path}: cannot be used for {what} of TLS: {reason}")
