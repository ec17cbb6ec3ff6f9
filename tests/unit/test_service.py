"""The services of the contract, driven through grpcio-testing as the shim would."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
import grpc_testing
import pytest

from packer_plugin_osc_chroot.contract import plugin_pb2 as pb
from packer_plugin_osc_chroot.redaction import Redactor
from packer_plugin_osc_chroot.service.artifact import ArtifactService
from packer_plugin_osc_chroot.service.builder import BuilderService
from packer_plugin_osc_chroot.service.communicator import CommunicatorService
from packer_plugin_osc_chroot.service.registry import Registry
from packer_plugin_osc_chroot.service.status import status_of

SERVICES = pb.DESCRIPTOR.services_by_name
GOOD = {
    "access_key": "AK-SECRET",
    "secret_key": "SK-SECRET",
    "region": "eu-west-2",
    "source_omi": "ami-3e158364",
    "omi_name": "never made",
    "copy_files": [],
}


@pytest.fixture
def registry() -> Registry:
    return make_registry()


@pytest.fixture
def server(registry: Registry) -> Any:
    return make_server(registry)


def make_registry() -> Registry:
    environ = {"OSC_CHROOT_METADATA_URL": "http://127.0.0.1:1"}
    return Registry(environ=environ, redact=Redactor())


def make_server(registry: Registry) -> Any:
    return grpc_testing.server_from_dictionary(
        {
            SERVICES["Builder"]: BuilderService(registry),
            SERVICES["Communicator"]: CommunicatorService(registry),
            SERVICES["Artifact"]: ArtifactService(registry),
        },
        grpc_testing.strict_real_time(),
    )


def unary(server: Any, service: str, method: str, request: Any) -> tuple[Any, Any, str]:
    descriptor = SERVICES[service].methods_by_name[method]
    call = server.invoke_unary_unary(descriptor, (), request, None)
    response, _, code, details = call.termination()
    return response, code, details


def prepare(server: Any, *raw: object, builder_id: str = "b1") -> Any:
    request = pb.PrepareRequest(
        component=pb.Component(kind="builder", name="osc-chroot"),
        builder_id=builder_id,
        raw_configs=[json.dumps(each).encode() for each in raw],
    )
    response, code, _ = unary(server, "Builder", "Prepare", request)
    assert code is grpc.StatusCode.OK
    return response


def run(server: Any, *, builder_id: str = "b1") -> tuple[list[Any], Any, str]:
    """All events of a Run, and how it ended."""
    descriptor = SERVICES["Builder"].methods_by_name["Run"]
    call = server.invoke_stream_stream(descriptor, (), None)
    call.send_request(pb.RunRequest(start=pb.RunStart(builder_id=builder_id)))
    _, code, details = call.termination()
    return list(_taken(call)), code, details


def _taken(call: Any) -> Iterator[Any]:
    while True:
        try:
            yield call.take_response()
        except ValueError:
            # What grpcio-testing raises when a finished call has no more.
            return


def test_prepare_answers_with_what_templates_may_use(server: Any) -> None:
    response = prepare(server, GOOD)
    assert list(response.errors) == []
    assert "SourceOMI" in response.generated_vars


def test_prepare_reports_problems_as_part_of_the_answer(server: Any) -> None:
    response = prepare(server, {**GOOD, "omi_nmae": "x"})
    assert list(response.errors) == ['omi_nmae: unknown option; did you mean "omi_name"?']


def test_run_ends_with_one_line_for_the_user(server: Any) -> None:
    prepare(server, GOOD)
    _, code, details = run(server)
    # As root the metadata is asked; a normal user is told about root first.
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "not an OUTSCALE VM" in details or "needs root" in details
    assert "\n" not in details


def test_run_before_prepare(server: Any) -> None:
    _, code, details = run(server, builder_id="unknown")
    assert (code, details) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "Run before a successful Prepare",
    )


def test_who_waits_for_all_builds_meets_one_that_begins(
    server: Any, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = threading.Thread.start
    with ThreadPoolExecutor() as pool:
        waiting: list[Future[None]] = []

        def slow(thread: threading.Thread) -> None:
            if thread.name == "build":
                waiting.append(pool.submit(registry.join))
                time.sleep(0.1)
            begin(thread)

        monkeypatch.setattr(threading.Thread, "start", slow)
        prepare(server, GOOD)
        run(server)
        (waiter,) = waiting
        waiter.result()


def test_cancel_before_run_ends_that_run_only(server: Any) -> None:
    prepare(server, GOOD)
    _, code, _ = unary(server, "Builder", "Cancel", pb.CancelRequest(builder_id="b1"))
    assert code is grpc.StatusCode.OK
    assert run(server)[1] is grpc.StatusCode.CANCELLED
    assert run(server)[1] is grpc.StatusCode.FAILED_PRECONDITION


def test_cancel_of_an_unknown_builder_is_harmless(server: Any) -> None:
    _, code, _ = unary(server, "Builder", "Cancel", pb.CancelRequest(builder_id="none"))
    assert code is grpc.StatusCode.OK


def test_no_artifact(server: Any) -> None:
    for method, request in (
        ("State", pb.StateRequest(artifact_id="x", name="y")),
        ("Destroy", pb.DestroyRequest(artifact_id="x")),
    ):
        assert unary(server, "Artifact", method, request)[1] is grpc.StatusCode.NOT_FOUND


def test_a_communicator_that_is_gone(server: Any) -> None:
    descriptor = SERVICES["Communicator"].methods_by_name["Start"]
    call = server.invoke_stream_stream(descriptor, (), None)
    command = pb.StartCommand(communicator_id="gone", command="true")
    call.send_request(pb.StartRequest(command=command))
    _, code, _ = call.termination()
    assert code is grpc.StatusCode.CANCELLED


def test_secrets_are_known_to_the_redactor(server: Any, registry: Registry) -> None:
    prepare(server, GOOD)
    assert registry.redact("AK-SECRET SK-SECRET") == "<sensitive> <sensitive>"


def test_a_defect_is_one_line() -> None:
    code, text = status_of(KeyError("two\nlines"))
    assert code is grpc.StatusCode.INTERNAL
    assert text == r"KeyError: 'two\nlines'"


def test_what_prepare_says_holds_no_secret(server: Any) -> None:
    packer = {
        "packer_user_variables": {"password": "hunter22"},
        "packer_sensitive_variables": ["password"],
    }
    options = {**GOOD, "omi_name": "{{user `password`}}:", "region": "{{user `password`}} {{.X}}"}
    response = prepare(server, options, packer)
    said = [*response.errors, *response.warnings]
    assert any(error.startswith("region: must be the name of a Region") for error in said)
    assert any(warning.startswith("region: .X is not known") for warning in said)
    assert not any("hunter22" in text for text in said)


@pytest.mark.parametrize("depth", [50, 400, 900])
def test_a_deep_value_is_an_error(server: Any, depth: int) -> None:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    (error,) = prepare(server, {**GOOD, "omi_groups": value}).errors
    assert error.startswith("omi_groups")


def test_a_value_too_deep_to_be_read(server: Any) -> None:
    request = pb.PrepareRequest(
        component=pb.Component(kind="builder", name="osc-chroot"),
        builder_id="b1",
        raw_configs=[b'{"omi_groups": ' + b"[" * 90_000 + b"]" * 90_000 + b"}"],
    )
    response, code, _ = unary(server, "Builder", "Prepare", request)
    assert code is grpc.StatusCode.OK
    assert response.errors == ["an option's value is nested too deep"]
