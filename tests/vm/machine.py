"""A VM in QEMU: started from a disk image that it does not change, watched on its serial console.

Commands run in it over SSH. Its network is OUTSCALE's in what matters: the metadata are at
169.254.169.254, behind which is a server of this machine; GATEWAY is this machine's loopback.
"""

import base64
import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from packer_run import Outcome, Running

GATEWAY = "169.254.0.2"
_NETWORK = f"user,id=net0,net=169.254.0.0/16,host={GATEWAY},dhcpstart=169.254.0.15"
_METADATA = "169.254.169.254:80"

Accelerator = Literal["kvm", "tcg"]


def find_accelerator(image: Path, directory: Path) -> Accelerator:
    """kvm where a VM gets up with it, else tcg: /dev/kvm may be there, and guests hang in it."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    with Machine(image, directory, accelerator="kvm") as machine, suppress(AssertionError):
        machine.wait_for_login(timeout=30)
        return "kvm"
    return "tcg"


@dataclass
class Machine:
    """Runs from entering to leaving; `directory` gets its console, its key and its socket.

    `disks` are further images, read-only. `metadata` is the port of this machine whose server is to
    be the metadata's.
    """

    image: Path
    directory: Path
    accelerator: Accelerator
    disks: Sequence[Path] = ()
    metadata: int | None = None
    processors: int = 1
    _ssh_port: int = field(init=False)
    _qemu: subprocess.Popen[bytes] = field(init=False)

    def __enter__(self) -> Self:
        self.directory.mkdir(exist_ok=True)
        key = self.directory / "key"
        if not key.exists():
            subprocess.run(["ssh-keygen", "-q", "-N", "", "-t", "ed25519", "-f", key], check=True)
        self._ssh_port = _free_port()
        self._started = time.monotonic()
        with open(self.directory / "qemu.log", "wb") as log:
            self._qemu = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._qemu.kill()
        self._qemu.wait()

    @property
    def qmp(self) -> Path:
        return self.directory / "qmp"

    @property
    def console(self) -> str:
        """What the serial console has shown."""
        with suppress(FileNotFoundError):
            return (self.directory / "console.log").read_bytes().decode(errors="replace")
        return ""

    def _command(self) -> list[str]:
        network = f"{_NETWORK},hostfwd=tcp:127.0.0.1:{self._ssh_port}-:22"
        if self.metadata is not None:
            # One nc for each connection: a forwarding to a socket would serve the first one only.
            network += f",guestfwd=tcp:{_METADATA}-cmd:busybox nc 127.0.0.1 {self.metadata}"
        key = base64.b64encode((self.directory / "key.pub").read_bytes()).decode()
        accelerator = "tcg,thread=multi" if self.accelerator == "tcg" else self.accelerator
        disks = [
            f"if=virtio,format=raw,snapshot=on,file={self.image}",
            *(f"if=virtio,format=raw,readonly=on,file={disk}" for disk in self.disks),
        ]
        return [
            *("qemu-system-x86_64", "-nodefaults", "-no-reboot", "-display", "none"),
            *("-accel", accelerator, "-cpu", "max", "-smp", str(self.processors), "-m", "1024"),
            # GRUB wants a screen, though nobody looks.
            *("-vga", "std", "-device", "virtio-rng-pci"),
            *("-serial", f"file:{self.directory / 'console.log'}"),
            *("-qmp", f"unix:{self.qmp},server=on,wait=off"),
            *("-netdev", network, "-device", "virtio-net-pci,netdev=net0"),
            *("-device", "virtio-scsi-pci,id=scsi0"),
            *(word for disk in disks for word in ("-drive", disk)),
            # systemd makes root's authorized_keys of it.
            "-smbios",
            f"type=11,value=io.systemd.credential.binary:ssh.authorized_keys.root={key}",
        ]

    def wait_for_login(self, *, timeout: float) -> tuple[str, float]:
        """The console's login line, and how many seconds it took from the start."""
        deadline = self._started + timeout
        while time.monotonic() < deadline and self._qemu.poll() is None:
            for line in self.console.splitlines():
                if " login:" in line:
                    return line.strip(), time.monotonic() - self._started
            time.sleep(0.1)
        log = (self.directory / "qemu.log").read_text(errors="replace")
        end = self.console[-2000:]
        raise AssertionError(f"no login on the serial console; QEMU said:\n{log}\nlast:\n{end}")

    def start(self, command: str, *, environment: Mapping[str, str] | None = None) -> Running:
        """Run a shell command in the VM, as root."""
        exports = [f"export {name}='{value}'" for name, value in (environment or {}).items()]
        return Running(
            [
                *(
                    "ssh",
                    "-F",
                    "none",
                    "-i",
                    str(self.directory / "key"),
                    "-p",
                    str(self._ssh_port),
                ),
                *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
                *("-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-o", "ConnectTimeout=30"),
                *("root@127.0.0.1", "; ".join([*exports, command])),
            ],
            cwd=self.directory,
            environment=os.environ,
        )

    def run(
        self, command: str, *, environment: Mapping[str, str] | None = None, timeout: float = 120
    ) -> Outcome:
        """The same to its end, which must be a good one."""
        outcome = self.start(command, environment=environment).wait(timeout=timeout)
        assert outcome.status == 0, f"{command}: status {outcome.status}\n{outcome.output}"
        return outcome


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
