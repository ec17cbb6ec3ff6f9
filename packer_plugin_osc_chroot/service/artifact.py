"""The Artifact service: what post-processors and users do with what a finished build left."""

import json
from typing import TYPE_CHECKING

import grpc

from packer_plugin_osc_chroot.contract import plugin_pb2 as pb
from packer_plugin_osc_chroot.contract import plugin_pb2_grpc as rpc
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.service.registry import Registry
from packer_plugin_osc_chroot.service.status import abort

if TYPE_CHECKING:
    from packer_plugin_osc_chroot.artifact import Artifact


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
