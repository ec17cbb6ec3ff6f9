"""QEMU's machine protocol: commands and answers, one at a time, over its Unix socket."""

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any, cast

_START_SECONDS = 10.0
_ANSWER_SECONDS = 60.0


class QmpError(OSError):
    """QEMU refused a command, or did not do it in time."""


class Qmp:
    """Connects with the first command, so that it can be handed out before QEMU is there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._buffer = b""
        self._deleted: set[str] = set()

    def execute(self, command: str, **arguments: Any) -> Any:
        """Arguments are spelt with `_` for `-`. Raises QmpError."""
        with self._lock:
            return self._execute(command, arguments)

    def delete_device(self, device: str, *, timeout: float) -> None:
        """Until the guest has let go of it. Raises QmpError."""
        with self._lock:
            self._execute("device_del", {"id": device})
            deadline = time.monotonic() + timeout
            while device not in self._deleted:
                self._read(deadline, what=f"the removal of {device}")
            self._deleted.remove(device)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def _execute(self, command: str, arguments: dict[str, Any]) -> Any:
        if self._socket is None:
            self._connect()
        return self._call(command, arguments)

    def _connect(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self._path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(self._path))
        self._call("qmp_capabilities", {})

    def _call(self, command: str, arguments: dict[str, Any]) -> Any:
        assert self._socket is not None
        spelt = {name.replace("_", "-"): value for name, value in arguments.items()}
        # device_add is older than that rule, and takes the properties' own names.
        named = arguments if command == "device_add" else spelt
        self._socket.sendall(json.dumps({"execute": command, "arguments": named}).encode())
        deadline = time.monotonic() + _ANSWER_SECONDS
        while True:
            message = self._read(deadline, what=f"the answer to {command}")
            if "error" in message:
                raise QmpError(f"{command} {named}: {message['error']['desc']}")
            if "return" in message:
                return message["return"]

    def _read(self, deadline: float, *, what: str) -> dict[str, Any]:
        """The next message; events are noted. Raises QmpError."""
        assert self._socket is not None
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            try:
                self._socket.settimeout(max(left, 0.001))
                data = self._socket.recv(65536)
            except TimeoutError:
                raise QmpError(f"QEMU: {what} did not come in time") from None
            if not data:
                raise QmpError("QEMU has ended")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        message = cast(dict[str, Any], json.loads(line))
        if message.get("event") == "DEVICE_DELETED" and "device" in message["data"]:
            self._deleted.add(message["data"]["device"])
        return message
