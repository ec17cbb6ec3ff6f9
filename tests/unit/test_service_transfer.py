"""Files that go through a pipe beside their call: whole, or not at all, and never for long."""

import os
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc_testing
import pytest

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.context import Communicator
from packer_plugin_osc_chroot.contract import plugin_pb2 as pb
from packer_plugin_osc_chroot.host.chroot import Chroot
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.transfer import open_rootfs
from packer_plugin_osc_chroot.redaction import Redactor
from packer_plugin_osc_chroot.service.communicator import CommunicatorService
from packer_plugin_osc_chroot.service.registry import OpenCommunicator, Registry

SERVICE = pb.DESCRIPTOR.services_by_name["Communicator"]
# More than a pipe holds.
CONTENT = os.urandom(3 << 20)


class Shim:
    """Calls as the shim makes them: it holds both ends of the pipe and names one."""

    def __init__(self, root: Path, server: Any, token: CancelToken) -> None:
        self.root = root
        self.token = token
        self._server = server
        self.reader, self.writer = os.pipe()

    def upload(self, remote: str) -> Any:
        call = self._server.invoke_stream_unary(SERVICE.methods_by_name["Upload"], (), None)
        header = pb.UploadHeader(communicator_id="c", remote=remote, pipe=path_of(self.reader))
        call.send_request(pb.UploadRequest(header=header))
        return call

    def download(self, remote: str) -> Any:
        request = pb.DownloadRequest(communicator_id="c", remote=remote, pipe=path_of(self.writer))
        method = SERVICE.methods_by_name["Download"]
        return self._server.invoke_unary_unary(method, (), request, None)

    def left(self) -> list[str]:
        return sorted(os.listdir(self.root))


def path_of(fd: int) -> str:
    return f"/proc/{os.getpid()}/fd/{fd}"


def write_and_close(fd: int, data: bytes) -> None:
    with os.fdopen(fd, "wb") as file:
        file.write(data)


@pytest.fixture
def shim(tmp_path: Path) -> Iterator[Shim]:
    registry = Registry(environ={}, redact=Redactor())
    server = grpc_testing.server_from_dictionary(
        {SERVICE: CommunicatorService(registry)}, grpc_testing.strict_real_time()
    )
    token = CancelToken()
    with open_rootfs(Host(), tmp_path) as files:
        communicator = Communicator(Chroot(Host(), tmp_path), files)
        registry.communicators["c"] = OpenCommunicator(communicator, token)
        yield Shim(tmp_path, server, token)


def test_an_upload_is_whole_once_its_end_was_said(shim: Shim) -> None:
    call = shim.upload("/file")
    write_and_close(shim.writer, CONTENT)
    call.send_request(pb.UploadRequest(end=pb.ContentEnd()))
    _, _, code, details = call.termination()
    assert code is grpc.StatusCode.OK, details
    assert (shim.root / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_pipe_that_ends_without_a_word_is_no_whole_file(shim: Shim, old: bytes | None) -> None:
    if old is not None:
        (shim.root / "file").write_bytes(old)
    call = shim.upload("/file")
    write_and_close(shim.writer, CONTENT)
    call.requests_closed()
    _, _, code, details = call.termination()
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert details == "upload to '/file' failed: its content broke off"
    assert shim.left() == ([] if old is None else ["file"])
    assert old is None or (shim.root / "file").read_bytes() == old


def test_a_refused_upload_leaves_its_pipe_alone(shim: Shim) -> None:
    (shim.root / "folder").mkdir()
    call = shim.upload("/folder")
    _, _, code, details = call.termination()
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "that is a folder" in details


def test_a_pipe_that_is_not_there_is_named(shim: Shim) -> None:
    os.close(shim.reader)
    code, details = shim.upload("/file").termination()[-2:]
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert path_of(shim.reader) in details and "No such file" in details
    assert shim.left() == []


def test_a_download_is_in_the_pipe_when_the_call_has_ended(shim: Shim) -> None:
    (shim.root / "file").write_bytes(CONTENT)
    call = shim.download("/file")
    taken: list[bytes] = []
    with os.fdopen(shim.reader, "rb") as file:
        reader = threading.Thread(target=lambda: taken.append(file.read()))
        reader.start()
        _, _, code, details = call.termination()
        os.close(shim.writer)
        reader.join()
    assert code is grpc.StatusCode.OK, details
    assert taken == [CONTENT]


def test_a_large_file_needs_little_memory(shim: Shim) -> None:
    megabytes = 48

    def feed() -> None:
        with os.fdopen(shim.writer, "wb", buffering=0) as file:
            for _ in range(megabytes):
                file.write(block)

    block = bytes(1 << 20)
    tracemalloc.start()
    try:
        call = shim.upload("/file")
        feeder = threading.Thread(target=feed)
        feeder.start()
        feeder.join()
        call.send_request(pb.UploadRequest(end=pb.ContentEnd()))
        assert call.termination()[-2] is grpc.StatusCode.OK
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (shim.root / "file").stat().st_size == megabytes << 20
    assert peak < 8 << 20


@pytest.mark.parametrize("direction", ["upload", "download"])
def test_a_cancel_ends_a_transfer_whose_other_side_does_nothing(shim: Shim, direction: str) -> None:
    if direction == "download":
        (shim.root / "file").write_bytes(CONTENT)
        call = shim.download("/file")
    else:
        call = shim.upload("/file")
    time.sleep(0.2)
    begun = time.monotonic()
    shim.token.cancel()
    assert call.termination()[-2] is grpc.StatusCode.CANCELLED
    while direction == "upload" and shim.left():
        time.sleep(0.01)
        assert time.monotonic() - begun < 1.0
    assert time.monotonic() - begun < 1.0


def test_a_reader_that_goes_away_ends_the_download(shim: Shim) -> None:
    (shim.root / "file").write_bytes(CONTENT)
    call = shim.download("/file")
    os.read(shim.reader, 10)
    os.close(shim.reader)
    assert call.termination()[-2] is grpc.StatusCode.FAILED_PRECONDITION
