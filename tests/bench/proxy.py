"""A proxy that brings plugins to a localcloud which know OUTSCALE's own addresses only.

The API's host leads to the localcloud over HTTPS, the metadata address to its metadata; nothing else is
reached. Go's HTTP client takes it from the environment.
"""

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SHUT_WR, create_connection, socket
from urllib.parse import urlsplit

from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud

_CHUNK = 65536


@contextmanager
def proxy_to(cloud: LocalCloud) -> Iterator[dict[str, str]]:
    """The environment for the command that is to be brought there."""
    api = urlsplit(cloud.url)
    metadata = cloud.environment()["OSC_CHROOT_METADATA_URL"]

    class Handler(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            if not self.path.startswith("api."):
                self.send_error(403)
                return
            with create_connection((api.hostname, api.port or 443)) as far:
                self.send_response(200)
                self.end_headers()
                back = threading.Thread(target=_pass_on, args=(far, self.connection), daemon=True)
                back.start()
                _pass_on(self.connection, far)
                back.join()
            self.close_connection = True

        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            if asked.hostname != "169.254.169.254":
                self.send_error(403)
                return
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            try:
                with direct.open(metadata + asked.path) as answer:
                    content = answer.read()
            except urllib.error.HTTPError as error:
                self.send_error(error.code)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            """Not among the figures."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield {
            "HTTPS_PROXY": address,
            "HTTP_PROXY": address,
            # https://api.REGION.DOMAIN is what those plugins make of it.
            "OSC_ENDPOINT_API": "outscale.com/api/v1",
        }
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _pass_on(source: socket, target: socket) -> None:
    with suppress(OSError):
        while data := source.recv(_CHUNK):
            target.sendall(data)
        target.shutdown(SHUT_WR)
