"""The DataSource service: Configure and Execute."""

import dataclasses
import json
import logging
import sys

import grpc

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.contract import plugin_pb2 as pb
from packer_plugin_osc_chroot.contract import plugin_pb2_grpc as rpc
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.options.data_sources import DATA_SOURCE_KIND, DATA_SOURCES
from packer_plugin_osc_chroot.options.decode import load_config
from packer_plugin_osc_chroot.options.prepare import prepare_data_source
from packer_plugin_osc_chroot.service.registry import Registry
from packer_plugin_osc_chroot.service.status import abort, no_such_component
from packer_plugin_osc_chroot.ui import harmless

log = logging.getLogger(__name__)

# A variable, so that type checkers do not take it for the system that they run on.
_SYSTEM: str = sys.platform


class DataSourceService(rpc.DataSourceServicer):
    """Configure, Execute."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def Configure(
        self, request: pb.ConfigureRequest, context: grpc.ServicerContext
    ) -> pb.ConfigureResponse:
        registry, component = self._registry, request.component
        source = DATA_SOURCES.get(component.name)
        if component.kind != DATA_SOURCE_KIND or source is None:
            no_such_component(context, component)
        try:
            raw = load_config(request.raw_config)
        except BuildError as error:
            return pb.ConfigureResponse(errors=[harmless(str(error))])
        prepared = prepare_data_source(
            source, raw, started_at=registry.started_at, environ=registry.environ
        )
        registry.redact.add(prepared.secrets)
        for warning in prepared.warnings:
            log.warning("%s", warning)
        if prepared.options is not None:
            with registry.lock:
                registry.data_sources[request.data_source_id] = prepared.options
        return pb.ConfigureResponse(
            errors=[harmless(registry.redact(error)) for error in prepared.errors]
        )

    def Execute(
        self, request: pb.ExecuteRequest, context: grpc.ServicerContext
    ) -> pb.ExecuteResponse:
        registry = self._registry
        with registry.lock:
            options = registry.data_sources.get(request.data_source_id)
        if options is None:
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, "Execute before a successful Configure"
            )
        if _SYSTEM == "win32":
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                "data sources are not evaluated on Windows: validate without"
                " -evaluate-datasources there",
            )
        token = CancelToken()
        with registry.lock:
            registry.evaluations.add(token)
        if not context.add_callback(token.cancel):
            token.cancel()
        try:
            # What asks the API is not needed to validate.
            from packer_plugin_osc_chroot.data_source import evaluate

            found = evaluate(options, registry.environ, redact=registry.redact, token=token)
        except Exception as error:
            abort(context, error, registry.redact, with_details=True)
        finally:
            with registry.lock:
                registry.evaluations.discard(token)
        return pb.ExecuteResponse(value_json=json.dumps(dataclasses.asdict(found)).encode())
