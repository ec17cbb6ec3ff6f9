"""The privileged half of file access: a process started through `command_wrapper`.

It serves one root to whoever holds its standard input and output, one operation at a time, and ends
when its input does. It imports no more than it needs: it starts in every build that has a wrapper.
"""

import errno
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from packer_plugin_osc_chroot.host.agent_frames import (
    CALL,
    DATA,
    END,
    ERROR,
    HEADER,
    MAX_FRAME,
    RESULT,
    VERSION,
    frame,
    item_frame,
    item_of,
    json_frame,
)
from packer_plugin_osc_chroot.host.rootfs import LocalFiles, nothing_to_check
from packer_plugin_osc_chroot.host.trees import Entry


class Gone(Exception):
    """The other side closed the pipe."""


class Server:
    def __init__(self, files: LocalFiles, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._files = files
        self._in = incoming
        self._out = outgoing
        self._streaming = False

    def serve(self) -> None:
        self._send(json_frame(RESULT, {"version": VERSION, "pid": os.getpid()}))
        try:
            while True:
                self._serve_one()
        except (Gone, BrokenPipeError):
            pass

    def _serve_one(self) -> None:
        kind, payload = self._receive()
        if kind != CALL:
            raise Gone
        request = json.loads(payload)
        # The stream of these follows the call, whether it is read or not.
        self._streaming = request["op"] in ("write_file", "write_tree")
        try:
            result = self._operate(request["op"], request.get("args", {}))
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise Gone from None
            described = [error.errno, error.strerror, error.filename]
            self._send(json_frame(ERROR, described))
            if self._streaming:
                # The client stops as soon as it sees the error; until then it is not listening.
                for _ in self._items():
                    pass
            return
        self._send(json_frame(RESULT, result))

    def _operate(self, operation: str, args: dict[str, Any]) -> Any:
        check = nothing_to_check
        if operation == "write_file":
            chunks = (item for item in self._items() if isinstance(item, bytes))
            self._files.write_file(args["path"], chunks, mode=args["mode"], check=check)
        elif operation == "write_tree":
            return self._files.write_tree(args["path"], self._items(), check=check)
        elif operation == "read_file":
            for chunk in self._files.read_file(args["path"], check=check):
                self._send(frame(DATA, chunk), flush=False)
        elif operation == "read_tree":
            for item in self._files.read_tree(
                args["path"], prefix=args["prefix"], exclude=args["exclude"], check=check
            ):
                self._send(item_frame(item), flush=False)
        else:
            return self._files.call(operation, args, check=check)
        return None

    def _items(self) -> Iterator[Entry | bytes]:
        while True:
            kind, payload = self._receive()
            if kind == END:
                self._streaming = False
                return
            yield item_of(kind, payload)

    def _receive(self) -> tuple[bytes, bytes]:
        header = self._in.read(HEADER.size)
        if len(header) < HEADER.size:
            raise Gone
        kind, length = HEADER.unpack(header)
        if length > MAX_FRAME:
            raise Gone
        payload = self._in.read(length)
        if len(payload) < length:
            raise Gone
        return kind, payload

    def _send(self, data: bytes, *, flush: bool = True) -> None:
        self._out.write(data)
        if flush:
            self._out.flush()


def main(argv: Sequence[str]) -> int:
    """`agent ROOT`. Not for people: it talks frames."""
    if len(argv) != 1 or not argv[0].startswith("/"):
        print("usage: agent ROOT (started by a build, not by hand)", file=sys.stderr)
        return 2
    # The terminal's Ctrl-C is the build's business; the closed pipe is this process's end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    files = LocalFiles(argv[0])
    incoming = os.fdopen(os.dup(0), "rb", buffering=1 << 20)
    outgoing = os.fdopen(os.dup(1), "wb", buffering=1 << 18)
    # A stray print must not break the stream.
    os.dup2(2, 1)
    try:
        Server(files, incoming, outgoing).serve()
    finally:
        files.close()
        try:
            outgoing.close()
        except BrokenPipeError:
            pass
    return 0
