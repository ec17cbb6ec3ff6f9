"""The Builder service: Prepare, Run and Cancel, mapped to the options and the build."""

import sys
import threading
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import grpc

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.contract import plugin_pb2 as pb
from packer_plugin_osc_chroot.contract import plugin_pb2_grpc as rpc
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.options.config import BUILDER_KIND, COMPONENT_NAME
from packer_plugin_osc_chroot.options.decode import load_config
from packer_plugin_osc_chroot.options.prepare import GENERATED_DATA, Prepared, prepare
from packer_plugin_osc_chroot.redaction import RedactingUi
from packer_plugin_osc_chroot.service.registry import (
    OpenCommunicator,
    PreparedBuilder,
    Registry,
)
from packer_plugin_osc_chroot.service.status import abort, first_message, no_such_component
from packer_plugin_osc_chroot.ui import harmless

if TYPE_CHECKING:
    from packer_plugin_osc_chroot.context import Communicator, Context
    from packer_plugin_osc_chroot.service.stream import RunStream


# A variable, so that type checkers do not take it for the system that they run on.
_SYSTEM: str = sys.platform


class BuilderService(rpc.BuilderServicer):
    """Prepare, Run, Cancel."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def Prepare(
        self, request: pb.PrepareRequest, context: grpc.ServicerContext
    ) -> pb.PrepareResponse:
        registry = self._registry
        component = (request.component.kind, request.component.name)
        if component != (BUILDER_KIND, COMPONENT_NAME):
            no_such_component(context, request.component)
        try:
            raw_configs = [load_config(raw) for raw in request.raw_configs]
        except BuildError as error:
            return pb.PrepareResponse(errors=[harmless(str(error))])
        prepared = prepare(raw_configs, started_at=registry.started_at, environ=registry.environ)
        registry.redact.add(prepared.secrets)
        with registry.lock:
            registry.builders[request.builder_id] = PreparedBuilder(prepared, CancelToken())
        return pb.PrepareResponse(
            generated_vars=GENERATED_DATA,
            warnings=[harmless(registry.redact(warning)) for warning in prepared.warnings],
            errors=[harmless(registry.redact(error)) for error in prepared.errors],
        )

    def Run(
        self, request_iterator: Iterator[pb.RunRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.RunEvent]:
        if _SYSTEM != "linux":
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"builds run on Linux, on an OUTSCALE VM; on this system ({_SYSTEM}) templates can"
                " only be validated",
            )
        # The build and what it imports are not needed to validate.
        from packer_plugin_osc_chroot.service.stream import RunStream

        registry = self._registry
        start = first_message(request_iterator, "start", context).start
        with registry.lock:
            builder = registry.builders.get(start.builder_id)
        if builder is None or builder.prepared.config is None:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "Run before a successful Prepare")
        # What undoes is not cancelled by anything, as all undoing.
        token = CancelToken() if start.undo_dead else builder.token

        opened: list[str] = []

        def register(communicator: "Communicator") -> str:
            key = uuid.uuid4().hex
            with registry.lock:
                registry.communicators[key] = OpenCommunicator(communicator, token)
            opened.append(key)
            return key

        stream = RunStream(token, register)
        outcome: list[Exception] = []

        def work() -> None:
            try:
                build_context = self._context(builder.prepared, stream, token)
                if start.undo_dead:
                    from packer_plugin_osc_chroot.reclaim.after_death import undo_after_death

                    undo_after_death(build_context)
                else:
                    self._build(build_context, stream)
            except Exception as error:
                outcome.append(error)
            finally:
                with registry.lock:
                    for key in opened:
                        registry.communicators.pop(key, None)
                    # Packer may run the same builder again; a cancel belongs to one Run.
                    builder.token = CancelToken()
                stream.finish()
                with registry.lock:
                    registry.threads.discard(threading.current_thread())

        def gone() -> None:
            stream.abandon()
            if not start.undo_dead:
                token.cancel("the connection to Packer is gone", abandoned=True)

        if not context.add_callback(gone):
            gone()
        threading.Thread(
            target=stream.take_answers, args=(request_iterator,), daemon=True, name="answers"
        ).start()
        thread = threading.Thread(target=work, name="build")
        with registry.lock:
            registry.threads.add(thread)
            # Within the lock: who waits for all threads may not find one that has not begun.
            thread.start()
        yield from stream.events()
        if outcome:
            abort(context, outcome[0], registry.redact)

    def Cancel(self, request: pb.CancelRequest, context: grpc.ServicerContext) -> pb.CancelResponse:
        with self._registry.lock:
            builder = self._registry.builders.get(request.builder_id)
        if builder is not None:
            builder.token.cancel()
        return pb.CancelResponse()

    def _context(self, prepared: Prepared, stream: "RunStream", token: CancelToken) -> "Context":
        from packer_plugin_osc_chroot.context import Context

        registry = self._registry
        assert prepared.config is not None, "Run refuses a builder without a configuration"
        return Context(
            config=prepared.config,
            scope=prepared.scope,
            ui=RedactingUi(stream, registry.redact),
            token=token,
            provisioners=stream,
            environ=registry.environ,
            redact=registry.redact,
        )

    def _build(self, context: "Context", stream: "RunStream") -> None:
        from packer_plugin_osc_chroot.artifact import BUILDER_TYPE_ID, Artifact
        from packer_plugin_osc_chroot.build import build

        registry = self._registry
        try:
            result = build(context)
        except BuildError as error:
            for line in error.details:
                context.ui.error(line)
            raise
        artifact = Artifact(result)
        key = uuid.uuid4().hex
        with registry.lock:
            registry.artifacts[key] = artifact
        stream.send(
            pb.RunEvent(
                artifact=pb.ArtifactInfo(
                    artifact_id=key,
                    builder_type_id=BUILDER_TYPE_ID,
                    id=artifact.id,
                    description=artifact.description,
                )
            )
        )
