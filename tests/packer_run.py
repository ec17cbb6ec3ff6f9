"""Runs the real packer as a user's terminal does, and watches it."""

import os
import pty
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud

# Beyond it something hangs: no test waits this long for anything.
TIMEOUT = 120.0


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit status (as subprocess has it), both outputs, and the time.

    `moments` has when each line of the output came, in seconds from the start.
    """

    status: int
    output: str
    seconds: float
    moments: Sequence[tuple[float, str]] = ()


class Running:
    """A command in a process group of its own, its output gathered while it runs."""

    def __init__(self, argv: list[str], *, cwd: Path, environment: Mapping[str, str]) -> None:
        self._started = time.monotonic()
        self._lines: list[str] = []
        self._times: list[float] = []
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=0,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        with self._changed:
            return "".join(self._lines)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self._times.append(time.monotonic() - self._started)
                self._lines.append(line)
                self._changed.notify_all()

    def wait_for(self, text: str, *, timeout: float = 60.0) -> None:
        """Until a line of the output holds `text`."""
        with self._changed:
            found = self._changed.wait_for(
                lambda: any(text in line for line in self._lines) or not self._reader.is_alive(),
                timeout=timeout,
            )
            seen = "".join(self._lines)
        assert found and text in seen, f"{text!r} was not said:\n{seen}"

    def interrupt(self) -> None:
        """Ctrl-C: every process of the foreground group gets it."""
        os.killpg(self.pid, signal.SIGINT)

    def children(self) -> list[int]:
        """The pids of the processes below this one, parents first."""
        found = [self.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                # A thread may end between two looks.
                with suppress(OSError):
                    found += [int(child) for child in task.read_text().split()]
        return found[1:]

    def wait(self, *, timeout: float = TIMEOUT) -> Outcome:
        """Until it and whoever else has its output are gone."""
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {timeout} s:\n{self.output}") from None
        seconds = time.monotonic() - self._started
        self._reader.join(10)
        assert not self._reader.is_alive(), f"something holds its output open:\n{self.output}"
        moments = tuple(zip(self._times, self._lines, strict=True))
        return Outcome(status, self.output, seconds, moments)

    def kill(self) -> None:
        """End the whole group; for a test that failed."""
        os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


@dataclass(frozen=True)
class Packer:
    """A packer with the plugin installed; `base` is the environment of everything it runs in."""

    binary: Path
    plugin: Path
    base: Mapping[str, str] = field(repr=False)

    def environment(
        self, cloud: LocalCloud | None = None, extra: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """`base` on that Region, with the test's own TMPDIR."""
        base = {**self.base, "TMPDIR": os.environ.get("TMPDIR", "/tmp")}
        if cloud is not None:
            base = cloud.child_environment(base)
        return {**base, **(extra or {})}

    def start(
        self,
        *arguments: str,
        cwd: Path,
        cloud: LocalCloud | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> Running:
        return Running(
            [str(self.binary), *arguments], cwd=cwd, environment=self.environment(cloud, extra)
        )

    def run(
        self,
        *arguments: str,
        cwd: Path,
        cloud: LocalCloud | None = None,
        extra: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
    ) -> Outcome:
        return self.start(*arguments, cwd=cwd, cloud=cloud, extra=extra).wait(timeout=timeout)

    def in_terminal(
        self, *arguments: str, cwd: Path, cloud: LocalCloud, answers: Sequence[tuple[str, str]]
    ) -> tuple[int, str]:
        """Run packer on a terminal of its own; its status and output.

        Of each answer, the keys are pressed once its text is shown again since the one before, and
        again and again until the next one's turn: Packer flushes the terminal when it begins to read,
        and a key pressed too soon is lost.
        """
        controller, terminal = pty.openpty()
        process = subprocess.Popen(
            # Packer asks on /dev/tty, which is the controlling terminal.
            ["setsid", "--ctty", "--wait", str(self.binary), *arguments],
            cwd=cwd,
            env=self.environment(cloud),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )
        os.close(terminal)
        output, pressed, at, waiting = "", 0.0, 0, list(answers)
        keys = ""
        deadline = time.monotonic() + TIMEOUT
        try:
            while time.monotonic() < deadline:
                if select.select([controller], [], [], 0.2)[0]:
                    try:
                        output += os.read(controller, 65536).decode(errors="replace")
                    except OSError:
                        break
                if waiting and waiting[0][0] in output[at:]:
                    at = len(output)
                    keys = waiting.pop(0)[1] + "\r"
                if keys and time.monotonic() > pressed + 0.3:
                    pressed = time.monotonic()
                    os.write(controller, keys.encode())
            return process.wait(10), output
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            os.close(controller)
