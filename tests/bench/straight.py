"""Transfers straight through the shim's communicator and a service, without Packer in between.

The shim's side is a benchmark of its Go tests (shim/internal/builder/transfer_bench_test.go), which is
compiled once; the service's is this module, run as a process of its own.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc

from bench.subject import settle
from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.context import Communicator
from packer_plugin_osc_chroot.contract import plugin_pb2_grpc as rpc
from packer_plugin_osc_chroot.host.chroot import Chroot
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.transfer import open_rootfs
from packer_plugin_osc_chroot.redaction import Redactor
from packer_plugin_osc_chroot.service.communicator import CommunicatorService
from packer_plugin_osc_chroot.service.registry import OpenCommunicator, Registry

_SHIM = Path(__file__).resolve().parent.parent.parent / "shim"


class Transfers:
    """Between the file `big` and the tree `few` in `local`, and a root."""

    def __init__(self, program: Path, address: str, local: Path) -> None:
        self._program = program
        self._environment = {
            **os.environ,
            "OSC_CHROOT_BENCH_SERVICE": address,
            "OSC_CHROOT_BENCH_LOCAL": str(local),
        }

    def seconds(self, name: str) -> float:
        """Of one transfer, the quicker of two; the names are the benchmark's.

        The first may have to wait for memory that no file has had before, which cp's copy just left.
        """
        settle()
        argv = [str(self._program), "-test.run=^$", f"-test.bench=Transfers/{name}$"]
        done = subprocess.run(
            [*argv, "-test.benchtime=1x", "-test.count=2"],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        # BenchmarkTransfers/upload-2  1  487109000 ns/op
        lines = [line for line in done.stdout.splitlines() if line.endswith(" ns/op")]
        return min(float(line.split()[-2]) for line in lines) / 1e9


@contextmanager
def transfers(directory: Path) -> Iterator[Transfers]:
    """The directories `local` and `root`, which is made, of `directory` are the two sides."""
    (directory / "root").mkdir()
    program = directory / "transfers.test"
    go = [os.environ.get("GO", "go"), "-C", str(_SHIM), "test", "-c", "-o", str(program)]
    subprocess.run([*go, "./internal/builder"], check=True)
    socket = directory / "service.sock"
    argv = [sys.executable, "-m", "bench.straight", str(directory / "root"), str(socket)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as service:
        assert service.stdin is not None and service.stdout is not None
        assert service.stdout.readline() == b"ready\n"
        yield Transfers(program, f"unix:{socket}", directory / "local")
        service.stdin.close()


def _serve(root: Path, socket: Path) -> None:
    registry = Registry(environ={}, redact=Redactor())
    server = grpc.server(ThreadPoolExecutor())
    rpc.add_CommunicatorServicer_to_server(CommunicatorService(registry), server)
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    with open_rootfs(Host(), root) as files:
        communicator = Communicator(Chroot(Host(), root), files)
        registry.communicators["c"] = OpenCommunicator(communicator, CancelToken())
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), Path(sys.argv[2]))
