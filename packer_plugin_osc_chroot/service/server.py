"""The service process: it listens on a private socket, lives as long as the shim holds its lifeline,
and does not end before every build has undone what it made.

The lifeline is standard input: its first line is the token that calls must carry, its end means that
the shim is gone. Terminal signals do not reach us (we have a session of our own); SIGTERM is treated
like the end of the lifeline.

Templates are validated on macOS and Windows too: this module and what Prepare imports use nothing that
those lack. Nor does `data_source.py` use what macOS lacks.
"""

import hmac
import logging
import os
import queue
import shutil
import signal
import socket as sockets
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from packer_plugin_osc_chroot.contract import plugin_pb2_grpc as rpc
from packer_plugin_osc_chroot.redaction import RedactingFormatter, Redactor
from packer_plugin_osc_chroot.service.artifact import ArtifactService
from packer_plugin_osc_chroot.service.builder import BuilderService
from packer_plugin_osc_chroot.service.communicator import CommunicatorService
from packer_plugin_osc_chroot.service.data_source import DataSourceService
from packer_plugin_osc_chroot.service.registry import Registry
from packer_plugin_osc_chroot.version import VERSION

log = logging.getLogger(__name__)

_LOOK_EVERY = 0.5

_GONE = "Packer is gone"
_TERMINATED = "the plugin was asked to end (SIGTERM)"
# A stream holds its thread for as long as it is open: one Run, and the calls of its provisioners.
_THREADS = 64
_OPTIONS = (
    # Chunks are at most 1 MiB; texts of users may be larger than gRPC's 4 MiB.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)


def serve(socket: Path) -> NoReturn:
    """Serve until the lifeline ends, then end the process. The socket's directory is ours."""
    redact = Redactor()
    _log_to_stderr(redact)
    lifeline = _Lifeline()
    registry = Registry(environ=dict(os.environ), redact=redact)
    status = 1
    try:
        token, reason = lifeline.read_token()
        if not reason:
            server, address = _start(socket, token, registry)
            # The shim waits for this line before it connects.
            os.write(1, f"ready {VERSION} {address}\n".encode())
            reason = lifeline.wait_for_end()
            log.info("ending: %s", reason)
            registry.cancel_all(reason)
            registry.join()
            # Long enough for the last messages and statuses to be on their way.
            server.stop(grace=2.0).wait()
        status = 0
    except Exception:
        log.exception("the service failed")
    finally:
        shutil.rmtree(socket.parent, ignore_errors=True)
        logging.shutdown()
        # Without finalisers: they would undo what -on-error=abort was asked to keep, and wait for
        # threads that hang on a network which may be gone.
        os._exit(status)


def _start(socket: Path, token: str, registry: Registry) -> tuple[grpc.Server, str]:
    """The server, and where it is reached."""
    server = grpc.server(
        ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="grpc"),
        interceptors=[_TokenCheck(token)],
        options=_OPTIONS,
    )
    rpc.add_BuilderServicer_to_server(BuilderService(registry), server)
    rpc.add_CommunicatorServicer_to_server(CommunicatorService(registry), server)
    rpc.add_DataSourceServicer_to_server(DataSourceService(registry), server)
    rpc.add_ArtifactServicer_to_server(ArtifactService(registry), server)
    address = f"unix:{socket}"
    if hasattr(sockets, "AF_UNIX"):
        server.add_insecure_port(address)
    else:  # Windows. Whoever finds the port lacks the token.
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    return server, address


class _TokenCheck(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Refuses calls that do not carry the token."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

        def refuse(request: Any, context: grpc.ServicerContext) -> None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing or wrong")

        self._refusal = grpc.unary_unary_rpc_method_handler(refuse)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "grpc.RpcMethodHandler[Any, Any] | None"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        metadata = dict(handler_call_details.invocation_metadata)
        given = metadata.get("authorization", "")
        given = given if isinstance(given, bytes) else given.encode()
        if not hmac.compare_digest(given, self._expected):
            return self._refusal
        handler: Any = continuation(handler_call_details)
        if handler is None:
            return None
        decode = handler.request_deserializer
        return handler._replace(request_deserializer=lambda data: _decoded(decode, data))  # type: ignore[no-any-return]


def _decoded(decode: Callable[[bytes], Any], data: bytes) -> Any:
    """What is no message counts as an empty one, which every method refuses.

    gRPC itself would log a traceback, and keep some kilobytes of the call for ever (1.85).
    """
    try:
        return decode(data)
    except DecodeError:
        return decode(b"")


class _Lifeline:
    """Standard input and SIGTERM, whichever ends first. What terminals send is ignored."""

    def __init__(self) -> None:
        # Its put may be called by a signal's handler. Nothing is raised from there: there is no moment
        # at which undoing may be interrupted.
        self._ends: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._token = ""
        for name in ("SIGINT", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda number, frame: self._ends.put(_TERMINATED))
        threading.Thread(target=self._read, daemon=True, name="lifeline").start()

    def read_token(self) -> tuple[str, str]:
        """The token, or why there is none."""
        reason = self._next_end()
        return self._token, reason

    def wait_for_end(self) -> str:
        """Until the lifeline ends or SIGTERM arrives; which of them."""
        return self._next_end()

    def _next_end(self) -> str:
        """Looked for now and then: a signal that comes right before the wait does not interrupt it, and
        its handler runs only when the wait is over."""
        while True:
            with suppress(queue.Empty):
                return self._ends.get(timeout=_LOOK_EVERY)

    def _read(self) -> None:
        try:
            line = b""
            while not line.endswith(b"\n"):
                byte = os.read(0, 1)
                if not byte:
                    return
                line += byte
            self._token = line.decode("ascii").strip()
            self._ends.put("")
            while os.read(0, 4096):
                pass
        finally:
            self._ends.put(_GONE)


def _log_to_stderr(redact: Redactor) -> None:
    """Lines for PACKER_LOG, by way of the shim. What nobody reads any more is dropped."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter("%(levelname)s %(name)s: %(message)s", redact))
    logging.raiseExceptions = False
    logging.basicConfig(level=logging.INFO, handlers=[handler])
