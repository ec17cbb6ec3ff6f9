"""The Communicator service: what provisioners do in the chroot, as streams of the contract."""

import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import grpc

from packer_plugin_osc_chroot.cancel import CancelToken, following
from packer_plugin_osc_chroot.contract import plugin_pb2 as pb
from packer_plugin_osc_chroot.contract import plugin_pb2_grpc as rpc
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.service.registry import OpenCommunicator, Registry
from packer_plugin_osc_chroot.service.status import abort, first_message

# Messages of a command's output that wait for a slow reader; then the command waits too.
_QUEUED = 64


class CommunicatorService(rpc.CommunicatorServicer):
    """Start, Upload, Download, UploadDir, DownloadDir. Several at once, each in its call's thread."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def Start(
        self, request_iterator: Iterator[pb.StartRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.StartEvent]:
        first = first_message(request_iterator, "command", context).command
        opened = self._open(first.communicator_id, context)
        events: queue.Queue[pb.StartEvent | Exception] = queue.Queue(_QUEUED)
        with _call_token(opened, context) as token:

            def put(event: pb.StartEvent | Exception) -> None:
                while True:
                    try:
                        return events.put(event, timeout=0.2)
                    except queue.Full:
                        # Nobody reads any more: the call is over, and its output with it.
                        if not context.is_active():
                            return

            def work() -> None:
                try:
                    status = opened.communicator.chroot.start(
                        first.command,
                        stdin=(request.stdin for request in request_iterator),
                        on_stdout=lambda data: put(pb.StartEvent(stdout=data)),
                        on_stderr=lambda data: put(pb.StartEvent(stderr=data)),
                        # A status that comes before the metadata means that it never started.
                        on_started=lambda: context.send_initial_metadata(()),
                        token=token,
                    )
                    put(pb.StartEvent(exit_status=status))
                except Exception as error:
                    put(error)

            threading.Thread(target=work, daemon=True, name="command").start()
            while True:
                try:
                    event = events.get(timeout=1.0)
                except queue.Empty:
                    if context.is_active():
                        continue
                    return
                if isinstance(event, Exception):
                    abort(context, event, self._registry.redact)
                yield event
                if event.WhichOneof("event") == "exit_status":
                    return

    def Upload(
        self, request_iterator: Iterator[pb.UploadRequest], context: grpc.ServicerContext
    ) -> pb.UploadResponse:
        # Validating takes place on systems that have no such pipes.
        from packer_plugin_osc_chroot.host.pipes import opened_pipe, read_pipe

        header = first_message(request_iterator, "header", context).header
        with (
            self._transfer(header.communicator_id, context) as (opened, token),
            opened_pipe(header.pipe, os.O_RDONLY) as pipe,
        ):

            def content() -> Iterator[bytes]:
                yield from read_pipe(pipe, token)
                if next(request_iterator, None) is None:
                    raise BuildError(f"upload to {header.remote!r} failed: its content broke off")

            opened.communicator.files.upload(
                header.remote, content(), mode=header.mode, token=token
            )
        return pb.UploadResponse()

    def Download(
        self, request: pb.DownloadRequest, context: grpc.ServicerContext
    ) -> pb.DownloadResponse:
        from packer_plugin_osc_chroot.host.pipes import opened_pipe, write_pipe

        with (
            self._transfer(request.communicator_id, context) as (opened, token),
            opened_pipe(request.pipe, os.O_WRONLY) as pipe,
            closing(opened.communicator.files.download(request.remote, token=token)) as content,
        ):
            write_pipe(pipe, content, token)
        return pb.DownloadResponse()

    def UploadDir(
        self, request: pb.TransferDirRequest, context: grpc.ServicerContext
    ) -> pb.TransferDirResponse:
        with self._transfer(request.communicator_id, context) as (opened, token):
            opened.communicator.files.upload_dir(
                request.local,
                request.remote,
                contents_only=request.contents_only,
                exclude=list(request.exclude),
                token=token,
            )
        return pb.TransferDirResponse()

    def DownloadDir(
        self, request: pb.TransferDirRequest, context: grpc.ServicerContext
    ) -> pb.TransferDirResponse:
        with self._transfer(request.communicator_id, context) as (opened, token):
            opened.communicator.files.download_dir(
                request.remote,
                request.local,
                contents_only=request.contents_only,
                exclude=list(request.exclude),
                token=token,
            )
        return pb.TransferDirResponse()

    def _open(self, key: str, context: grpc.ServicerContext) -> OpenCommunicator:
        with self._registry.lock:
            opened = self._registry.communicators.get(key)
        if opened is None:
            context.abort(grpc.StatusCode.CANCELLED, "the build that this chroot belonged to ended")
        return opened

    @contextmanager
    def _transfer(
        self, key: str, context: grpc.ServicerContext
    ) -> Iterator[tuple[OpenCommunicator, CancelToken]]:
        opened = self._open(key, context)
        try:
            # A cancelled call ends the stream that a transfer may be waiting for.
            end_call: Callable[[], None] = context.cancel
            with _call_token(opened, context) as token, token.on_cancel(end_call):
                yield opened, token
        except (BuildError, OSError) as error:
            abort(context, _as_build_error(error), self._registry.redact)


@contextmanager
def _call_token(opened: OpenCommunicator, context: grpc.ServicerContext) -> Iterator[CancelToken]:
    """A token that ends with the build's, and with the call."""
    token = CancelToken()
    if not context.add_callback(token.cancel):
        # The call has ended already.
        token.cancel()
    with following(opened.token, token):
        yield token


def _as_build_error(error: BuildError | OSError) -> BuildError:
    if isinstance(error, BuildError):
        return error
    if error.filename is None:
        return BuildError(os.strerror(error.errno or 0))
    return BuildError(f"{error.filename}: {error.strerror}")
