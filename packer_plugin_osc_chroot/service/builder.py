"""The Builder and Artifact services: the contract's calls, mapped to Prepare, the build, the artifact.

The only place where exceptions become statuses for Packer (see the head of plugin.proto).
"""

import dataclasses
import json
import logging
import threading
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn

import grpc

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.contract import plugin_pb2 as pb
from packer_plugin_osc_chroot.contract import plugin_pb2_grpc as rpc
from packer_plugin_osc_chroot.errors import BuildError, Cancelled
from packer_plugin_osc_chroot.options.prepare import GENERATED_VARS, Prepared, prepare
from packer_plugin_osc_chroot.redaction import RedactingUi, Redactor

if TYPE_CHECKING:
    from packer_plugin_osc_chroot.artifact import Artifact
    from packer_plugin_osc_chroot.build import Communicator
    from packer_plugin_osc_chroot.service.stream import RunStream

log = logging.getLogger(__name__)


@dataclasses.dataclass
class _Builder:
    prepared: Prepared
    token: CancelToken


@dataclasses.dataclass(frozen=True)
class OpenCommunicator:
    """A communicator that provisioners may use now, and the token that ends its work."""

    communicator: "Communicator"
    token: CancelToken


class Registry:
    """What lives between calls: prepared builders, running builds, communicators, artifacts."""

    def __init__(self, *, environ: Mapping[str, str], redact: Redactor) -> None:
        self.environ = environ
        self.redact = redact
        self.started_at = datetime.now(UTC)
        self.lock = threading.Lock()
        self.builders: dict[str, _Builder] = {}
        self.communicators: dict[str, OpenCommunicator] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.threads: set[threading.Thread] = set()

    def cancel_all(self, reason: str) -> None:
        with self.lock:
            builders = list(self.builders.values())
        for builder in builders:
            builder.token.cancel(reason)

    def join(self) -> None:
        """Wait until every build has kept or undone what it made."""
        while True:
            with self.lock:
                running = next(iter(self.threads), None)
            if running is None:
                return
            running.join()


class BuilderService(rpc.BuilderServicer):
    """Prepare, Run, Cancel."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def Prepare(
        self, request: pb.PrepareRequest, context: grpc.ServicerContext
    ) -> pb.PrepareResponse:
        registry = self._registry
        raw_configs = [json.loads(raw) for raw in request.raw_configs]
        prepared = prepare(raw_configs, started_at=registry.started_at, environ=registry.environ)
        registry.redact.add(prepared.secrets)
        with registry.lock:
            registry.builders[request.builder_id] = _Builder(prepared, CancelToken())
        return pb.PrepareResponse(
            generated_vars=GENERATED_VARS, warnings=prepared.warnings, errors=prepared.errors
        )

    def Run(
        self, request_iterator: Iterator[pb.RunRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.RunEvent]:
        # The build and what it imports are not needed to validate.
        from packer_plugin_osc_chroot.service.stream import RunStream

        registry = self._registry
        builder_id = next(request_iterator).start.builder_id
        with registry.lock:
            builder = registry.builders.get(builder_id)
        if builder is None or builder.prepared.config is None:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "Run before a successful Prepare")
        token = builder.token

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
                self._build(builder, stream)
            except Exception as error:
                outcome.append(error)
            finally:
                with registry.lock:
                    for key in opened:
                        registry.communicators.pop(key, None)
                    # Packer may run the same builder again; a cancel belongs to one Run.
                    builder.token = CancelToken()
                    registry.threads.discard(threading.current_thread())
                stream.finish()

        context.add_callback(lambda: token.cancel("the connection to Packer is gone"))
        threading.Thread(
            target=stream.take_answers, args=(request_iterator,), daemon=True, name="answers"
        ).start()
        thread = threading.Thread(target=work, name="build")
        with registry.lock:
            registry.threads.add(thread)
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

    def _build(self, builder: _Builder, stream: "RunStream") -> None:
        from packer_plugin_osc_chroot.artifact import BUILDER_TYPE_ID, Artifact
        from packer_plugin_osc_chroot.build import Context, build

        registry = self._registry
        config = builder.prepared.config
        assert config is not None, "Run refuses a builder without a configuration"
        ui = RedactingUi(stream, registry.redact)
        try:
            result = build(
                Context(
                    config=config,
                    scope=builder.prepared.scope,
                    ui=ui,
                    token=builder.token,
                    provisioners=stream,
                    environ=registry.environ,
                    redact=registry.redact,
                )
            )
        except BuildError as error:
            for line in error.details:
                ui.error(line)
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


class ArtifactService(rpc.ArtifactServicer):
    """State and Destroy of what finished builds left."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def State(self, request: pb.StateRequest, context: grpc.ServicerContext) -> pb.StateResponse:
        value = self._artifact(request.artifact_id, context).state(request.name)
        return pb.StateResponse(value_json=b"" if value is None else json.dumps(value).encode())

    def Destroy(
        self, request: pb.DestroyRequest, context: grpc.ServicerContext
    ) -> pb.DestroyResponse:
        try:
            self._artifact(request.artifact_id, context).destroy()
        except BuildError as error:
            abort(context, error, self._registry.redact)
        return pb.DestroyResponse()

    def _artifact(self, key: str, context: grpc.ServicerContext) -> "Artifact":
        with self._registry.lock:
            artifact = self._registry.artifacts.get(key)
        if artifact is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no artifact {key}")
        return artifact


def abort(context: grpc.ServicerContext, error: Exception, redact: Redactor) -> NoReturn:
    """End the call with one line for the user; what is no BuildError is a defect of ours."""
    code, text = status_of(error)
    context.abort(code, redact(text))


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
    return code, " ".join(text.split())
