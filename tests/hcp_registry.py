"""HCP Packer as far as one build sees it: a registry here that takes what Packer publishes."""

import json
import threading
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from packer_plugin_osc_chroot.localcloud.certificate import server_context

_HOST = "127.0.0.1"


class HcpRegistry(AbstractContextManager["HcpRegistry"]):
    """`published` has what was told of each build that is done."""

    def __init__(self, directory: Path) -> None:
        self.published: list[dict[str, Any]] = []
        self._server = ThreadingHTTPServer((_HOST, 0), self._handler())
        context, _ = server_context(directory, host=_HOST)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def __enter__(self) -> "HcpRegistry":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self) -> dict[str, str]:
        """What leads Packer here. Its authorities are its own, so the certificate is not checked."""
        address = f"{_HOST}:{self._server.server_port}"
        return {
            "HCP_API_ADDRESS": address,
            "HCP_API_TLS": "insecure",
            "HCP_AUTH_TLS": "insecure",
            "HCP_AUTH_URL": f"https://{address}",
            "HCP_CLIENT_ID": "client",
            "HCP_CLIENT_SECRET": "secret",
            "HCP_ORGANIZATION_ID": "11111111-1111-1111-1111-111111111111",
            "HCP_PACKER_BUCKET_NAME": "bucket",
            "HCP_PROJECT_ID": "22222222-2222-2222-2222-222222222222",
            "NO_PROXY": _HOST,
        }

    def _answer(self, path: str, told: dict[str, Any]) -> dict[str, Any]:
        words = path.split("?")[0].strip("/").split("/")
        match words:
            case ["oauth2", "token"]:
                return {"access_token": "token", "token_type": "bearer", "expires_in": 3600}
            case [*_, "builds", _]:
                if told.get("status") == "BUILD_DONE":
                    self.published.append(told)
                return {"build": {"id": "build", "status": told.get("status")}}
            case [*_, "builds"] if told:
                return {"build": {**told, "id": "build"}}
            case [*_, "builds"]:
                return {"builds": []}
            case [*_, "versions", fingerprint]:
                return {"version": {"id": "version", "fingerprint": fingerprint, "name": "v0"}}
            case [*_, "buckets", name]:
                return {"bucket": {"id": "bucket", "name": name}}
        return {}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        answer = self._answer

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                is_json = "json" in self.headers.get("Content-Type", "")
                body = json.dumps(answer(self.path, json.loads(text) if is_json and text else {}))
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            do_POST = do_PATCH = do_PUT = do_GET

        return Handler
