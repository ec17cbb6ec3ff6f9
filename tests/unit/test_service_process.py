"""The service as a process: how it is reached, how it ends, and what it needs of the system."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from packer_plugin_osc_chroot.contract import plugin_pb2 as pb
from packer_plugin_osc_chroot.contract import plugin_pb2_grpc as rpc
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "5ec4e7"
# Another system, as far as Python shows it: what macOS and Windows lack of what the builds use.
ELSEWHERE = """
import os, runpy, signal, socket, sys
import asyncio, grpc, logging, requests, subprocess, tempfile  # These look at the platform themselves.

system = sys.argv.pop(1)
modules, names = [], {os: ["O_PATH", "copy_file_range", "fdatasync", "pidfd_open", "splice"]}
if system == "win32":
    modules = ["fcntl", "grp", "pwd", "resource", "termios"]
    names = {
        os: ["O_PATH", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "O_NOCTTY",
             "geteuid", "getuid", "killpg", "pidfd_open", "set_blocking"],
        signal: ["SIGHUP", "SIGKILL", "SIGQUIT", "pthread_sigmask", "sigtimedwait"],
        socket: ["AF_UNIX"],
    }

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in modules:
            raise ImportError(f"this system has no {name}")

sys.meta_path.insert(0, Missing())
for module, missing in names.items():
    for name in missing:
        delattr(module, name)
sys.platform = system
runpy.run_module("packer_plugin_osc_chroot", run_name="__main__", alter_sys=True)
"""


class Service:
    """A service process that was given its token."""

    def __init__(self, *python: str, **environ: str) -> None:
        # Its path is short enough for a socket.
        self.directory = Path(tempfile.mkdtemp(prefix="osc-"))
        self.process = subprocess.Popen(
            [sys.executable, *python, "serve", "--socket", str(self.directory / "service.sock")],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environ},
        )
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(TOKEN + "\n")
        self.process.stdin.flush()
        words = self.process.stdout.readline().split()
        assert words[:2] == ["ready", VERSION], self.process.communicate()
        self.address = words[2]

    def channel(self, token: str = TOKEN) -> grpc.Channel:
        channel = grpc.insecure_channel(self.address)
        return grpc.intercept_channel(channel, _Bearer(token))

    def end(self) -> int:
        _, errors = self.process.communicate(timeout=20)
        assert "Traceback" not in errors, errors
        assert not self.directory.exists()
        return self.process.returncode


class _Bearer(grpc.UnaryUnaryClientInterceptor, grpc.StreamStreamClientInterceptor):  # type: ignore[type-arg]
    """Adds the token to each call."""

    def __init__(self, token: str) -> None:
        self._metadata = [("authorization", f"Bearer {token}")]

    def intercept_unary_unary(self, continuation, client_call_details, request):  # type: ignore[no-untyped-def]
        return continuation(client_call_details._replace(metadata=self._metadata), request)

    def intercept_stream_stream(self, continuation, client_call_details, request_iterator):  # type: ignore[no-untyped-def]
        return continuation(client_call_details._replace(metadata=self._metadata), request_iterator)


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service("-m", "packer_plugin_osc_chroot")
    yield made
    made.process.kill()
    made.process.wait()


def prepare(channel: grpc.Channel) -> pb.PrepareResponse:
    raw = json.dumps({"omi_name": "x"}).encode()
    request = pb.PrepareRequest(
        component=pb.Component(kind="builder", name="osc-chroot"),
        builder_id="one",
        raw_configs=[raw],
    )
    answer: pb.PrepareResponse = rpc.BuilderStub(channel).Prepare(request)
    return answer


def test_it_listens_on_its_socket_and_ends_with_its_lifeline(service: Service) -> None:
    assert service.address == f"unix:{service.directory}/service.sock"
    assert any("source_omi" in error for error in prepare(service.channel()).errors)
    assert service.end() == 0  # It closes the lifeline.


def test_it_ends_at_sigterm_and_at_nothing_of_a_terminal(service: Service) -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        service.process.send_signal(number)
    prepare(service.channel())
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(20) == 0


def test_calls_need_the_token(service: Service) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        prepare(service.channel("guessed"))
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_lifeline_that_ends_before_the_token() -> None:
    directory = Path(tempfile.mkdtemp(prefix="osc-"))
    done = subprocess.run(
        [sys.executable, "-m", "packer_plugin_osc_chroot"]
        + ["serve", "--socket", str(directory / "service.sock")],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert not directory.exists()


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_templates_are_validated_elsewhere(system: str, tmp_path: Path) -> None:
    script = tmp_path / "elsewhere.py"
    script.write_text(ELSEWHERE)
    service = Service(str(script), system)
    assert service.address.startswith("127.0.0.1:" if system == "win32" else "unix:")
    channel = service.channel()
    assert any("source_omi" in error for error in prepare(channel).errors)
    with pytest.raises(grpc.RpcError) as refused:
        start = pb.RunRequest(start=pb.RunStart(builder_id="one"))
        list(rpc.BuilderStub(channel).Run(iter([start])))
    assert "templates can only be validated" in str(refused.value.details())
    channel.close()
    assert service.end() == 0


@pytest.mark.parametrize(
    ("name", "options", "found"),
    [
        ("osc-chroot-identity", {}, "account_id"),
        ("osc-chroot-omi", {"owners": ["self"], "most_recent": True}, "creation_date"),
    ],
)
def test_data_sources_are_evaluated_on_macos(
    name: str, options: dict[str, object], found: str, tmp_path: Path
) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(4096))
    script = tmp_path / "elsewhere.py"
    script.write_text(ELSEWHERE)
    with LocalCloud(source_omis={"ami-12345678": disk}) as cloud:
        service = Service(str(script), "darwin", **cloud.environment())
        channel = service.channel()
        stub = rpc.DataSourceStub(channel)
        configured = stub.Configure(
            pb.ConfigureRequest(
                component=pb.Component(kind="datasource", name=name),
                data_source_id="one",
                raw_config=json.dumps(options).encode(),
            )
        )
        assert list(configured.errors) == []
        told = json.loads(stub.Execute(pb.ExecuteRequest(data_source_id="one")).value_json)
        channel.close()
        assert service.end() == 0
    assert told[found]
