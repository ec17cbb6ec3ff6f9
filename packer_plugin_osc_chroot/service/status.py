"""Exceptions as gRPC statuses with one line for the user (see the head of plugin.proto)."""

import logging
from collections.abc import Iterator
from typing import NoReturn, TypeVar

import grpc

from packer_plugin_osc_chroot.contract import plugin_pb2 as pb
from packer_plugin_osc_chroot.errors import BuildError, Cancelled
from packer_plugin_osc_chroot.redaction import Redactor
from packer_plugin_osc_chroot.ui import harmless

M = TypeVar("M", pb.RunRequest, pb.StartRequest, pb.UploadRequest)

log = logging.getLogger(__name__)


def abort(
    context: grpc.ServicerContext,
    error: Exception,
    redact: Redactor,
    *,
    with_details: bool = False,
) -> NoReturn:
    """End the call with one line for the user; what is no BuildError is a defect of ours.

    `with_details`: those of the error follow, where there is no Ui to show them before it.
    """
    code, text = status_of(error)
    if with_details and isinstance(error, BuildError):
        text = "\n".join((text, *map(harmless, error.details)))
    context.abort(code, redact(text))


def no_such_component(context: grpc.ServicerContext, component: pb.Component) -> NoReturn:
    context.abort(
        grpc.StatusCode.NOT_FOUND,
        f"there is no {component.kind} {component.name}: the shim and the service are of different"
        " versions",
    )


def first_message(requests: Iterator[M], kind: str, context: grpc.ServicerContext) -> M:
    """The first message of a stream, which must be of that kind."""
    for request in requests:
        if request.WhichOneof("message") == kind:
            return request
        break
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the stream does not begin with {kind}")


def status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    """The status and its one line; a defect's traceback goes to the log."""
    match error:
        case Cancelled():
            code, text = grpc.StatusCode.CANCELLED, str(error)
        case BuildError():
            code, text = grpc.StatusCode.FAILED_PRECONDITION, str(error)
        case _:
            log.error("a defect of the plugin", exc_info=error)
            code = grpc.StatusCode.INTERNAL
            # The shim says that it is a defect, and where the traceback is to be found.
            text = f"{type(error).__name__}: {error}"
    left = getattr(error, "__notes__", ())
    if left:
        text += f" (and {len(left)} thing(s) could not be undone, see above)"
    return code, harmless(" ".join(text.split()))
