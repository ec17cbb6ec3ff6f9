"""The unprivileged half of file access: starts the agent through the wrapper and speaks to it.

`AgentFiles` is a `Files`. The agent is started when it is first needed, serves one operation at a
time, and is ended where this side stops in the middle of one: the next starts another.
"""

import errno
import json
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.host.agent_frames import (
    CALL,
    DATA,
    END,
    ENTRY,
    ERROR,
    HEADER,
    KINDS,
    MAX_FRAME,
    RESULT,
    VERSION,
    frame,
    item_frame,
    item_of,
    json_frame,
)
from packer_plugin_osc_chroot.host.commands import Host, tool_environment
from packer_plugin_osc_chroot.host.pipes import widen
from packer_plugin_osc_chroot.host.procfs import Family
from packer_plugin_osc_chroot.host.rootfs import CLOSE_SECONDS, Check
from packer_plugin_osc_chroot.host.trees import Entry, Stream
from packer_plugin_osc_chroot.ui import printable

BATCH = 1 << 18
# How often a wait looks whether the build was cancelled.
LOOK = 0.1
# Of what the agent says on standard error so much is kept: bytes of a line, and lines.
LINE, LINES = 4096, 20
START_TIMEOUT = 30.0


class _Agent:
    """One running agent and its pipes."""

    def __init__(self, host: Host, root: str) -> None:
        self._host = host
        argv = host.command([*host.agent_argv, root])
        env = tool_environment(inherit=True)
        self._child = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            start_new_session=True,
        )
        assert self._child.stdin and self._child.stdout and self._child.stderr
        self._to = self._child.stdin.fileno()
        self._from = self._child.stdout.fileno()
        for fd in (self._to, self._from):
            os.set_blocking(fd, False)
            widen(fd)
        self._buffer = bytearray()
        self._errors: list[bytes] = []
        self._reader = threading.Thread(target=self._read_errors, name="agent-stderr", daemon=True)
        self._reader.start()
        self.pid = 0

    def _read_errors(self) -> None:
        assert self._child.stderr is not None
        while line := self._child.stderr.readline(LINE):
            self._errors = [*self._errors[1 - LINES :], line]

    def greet(self, check: Check) -> None:
        deadline = time.monotonic() + START_TIMEOUT

        def check_time() -> None:
            check()
            if time.monotonic() > deadline:
                raise BuildError(
                    f"the file helper did not start within {START_TIMEOUT:.0f} s",
                    hint="command_wrapper must run a command without asking for anything.",
                )

        kind, payload = self.receive(check_time)
        greeting = json.loads(payload) if kind == RESULT else {}
        if greeting.get("version") != VERSION:
            raise BuildError("the file helper that command_wrapper started is another version")
        self.pid = greeting["pid"]

    def gone(self) -> BuildError:
        self._reader.join(1.0)
        said = _lines(b"".join(self._errors))
        detail = f": {said[-1]}" if said else ""
        return BuildError(
            f"the file helper started through command_wrapper ended unexpectedly{detail}",
            hint="command_wrapper must run a command as root, without asking for a password.",
            details=said,
        )

    def send(self, data: bytes, check: Check) -> None:
        """Raises BrokenPipeError where the agent has stopped to read; its reason is to be read."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._to, view) :]
            except BlockingIOError:
                self._wait(self._to, select.POLLOUT, check)

    def has_answered(self) -> bool:
        """Before the end of a stream that can only be an error."""
        return bool(self._buffer or _poller(self._from, select.POLLIN).poll(0))

    def receive(self, check: Check) -> tuple[bytes, bytes]:
        header = self._take(HEADER.size, check)
        kind, length = HEADER.unpack(header)
        if kind not in KINDS or length > MAX_FRAME:
            noise = next(iter(_lines(header + bytes(self._buffer))), "")
            raise BuildError(
                f'command_wrapper prints on standard output, where files travel: "{noise[:60]}"',
                hint="Have it print to standard error (>&2), or nothing.",
            )
        return kind, self._take(length, check)

    def _take(self, size: int, check: Check) -> bytes:
        while len(self._buffer) < size:
            try:
                data = os.read(self._from, BATCH)
            except BlockingIOError:
                self._wait(self._from, select.POLLIN, check)
                continue
            if not data:
                raise self.gone()
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _wait(self, fd: int, event: int, check: Check) -> None:
        poller = _poller(fd, event)
        while not poller.poll(LOOK * 1000):
            check()

    def kill(self) -> None:
        self._host.kill(Family(self._child.pid).living(), signal.SIGKILL)

    def end(self) -> None:
        """Close its input, which ends it; kill it where it hangs."""
        assert self._child.stdin and self._child.stdout and self._child.stderr
        self._child.stdin.close()
        self._child.stdout.close()
        try:
            self._child.wait(0.5)
        except subprocess.TimeoutExpired:
            self.kill()
            try:
                self._child.wait(0.3)
            except subprocess.TimeoutExpired:
                return
        self._reader.join(0.2)
        if not self._reader.is_alive():
            self._child.stderr.close()


def _lines(data: bytes) -> list[str]:
    """What a wrapper or a program behind it has printed, as it may be shown; blank lines left out."""
    text = data.decode("utf-8", "replace")
    return [printable(line) for line in text.splitlines() if line.strip()]


def _poller(fd: int, event: int) -> select.poll:
    poller = select.poll()
    poller.register(fd, event)
    return poller


class AgentFiles:
    """`Files` through the wrapper. Thread-safe: operations wait for each other."""

    def __init__(self, host: Host, root: str) -> None:
        self._host = host
        self._root = root
        self._agent: _Agent | None = None
        self._closed = False
        self._lock = threading.Lock()

    def close(self) -> None:
        # A new agent would keep busy what is being unmounted, and nobody would end it.
        self._closed = True
        # An operation that nobody reads on is not waited for.
        if self._lock.acquire(timeout=CLOSE_SECONDS):
            try:
                self._drop()
            finally:
                self._lock.release()
        elif (agent := self._agent) is not None:
            # Its thread has the pipes, and closes them when it sees their end.
            agent.kill()

    def _drop(self) -> None:
        if self._agent is not None:
            agent, self._agent = self._agent, None
            agent.end()

    @contextmanager
    def _operation(
        self, operation: str, arguments: Mapping[str, Any], check: Check
    ) -> Iterator[_Agent]:
        """The agent, with the call sent. Whatever ends the block early ends the agent."""
        while not self._lock.acquire(timeout=LOOK):
            check()
        try:
            if self._closed:
                raise OSError(errno.ESHUTDOWN, "the root is being unmounted", self._root)
            if self._agent is None:
                agent = self._agent = _Agent(self._host, self._root)
                agent.greet(check)
            agent = self._agent
            agent.send(json_frame(CALL, {"op": operation, "args": dict(arguments)}), check)
            yield agent
        except BaseException as error:
            # After an error that it reported itself the agent is ready for the next operation.
            if isinstance(error, _Reported):
                raise error.cause from None
            self._drop()
            raise
        finally:
            self._lock.release()

    def read_file(self, path: str, *, check: Check) -> Iterator[bytes]:
        with self._operation("read_file", {"path": path}, check) as agent:
            while (found := _next_item(agent, check)) is not None:
                if isinstance(found, bytes):
                    yield found

    def read_tree(
        self, path: str, *, prefix: str, exclude: Collection[str], check: Check
    ) -> Stream:
        arguments = {"path": path, "prefix": prefix, "exclude": list(exclude)}
        with self._operation("read_tree", arguments, check) as agent:
            while (found := _next_item(agent, check)) is not None:
                yield found

    def write_file(self, path: str, chunks: Iterable[bytes], *, mode: int, check: Check) -> None:
        with self._operation("write_file", {"path": path, "mode": mode}, check) as agent:
            _send_stream(agent, chunks, check)

    def write_tree(
        self, path: str, stream: Iterable[Entry | bytes], *, check: Check
    ) -> list[Entry]:
        with self._operation("write_tree", {"path": path}, check) as agent:
            return [Entry(*each) for each in _send_stream(agent, stream, check)]

    def call(self, operation: str, arguments: Mapping[str, Any], *, check: Check) -> Any:
        with self._operation(operation, arguments, check) as agent:
            return _result(agent, check)


class _Reported(Exception):
    """An error of the agent's operation, kept apart from errors on this side of the pipe."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


def _send_stream(agent: _Agent, stream: Iterable[Entry | bytes], check: Check) -> Any:
    batch = bytearray()
    try:
        for item in stream:
            check()
            batch += item_frame(item)
            if len(batch) >= BATCH:
                agent.send(bytes(batch), check)
                batch.clear()
                if agent.has_answered():
                    break
        agent.send(bytes(batch) + frame(END), check)
    except BrokenPipeError:
        # It is gone; what it said last is still to be read.
        pass
    return _result(agent, check)


def _next_item(agent: _Agent, check: Check) -> Entry | bytes | None:
    check()
    kind, payload = agent.receive(check)
    if kind in (DATA, ENTRY):
        return item_of(kind, payload)
    _raise_reported(kind, payload)
    return None


def _result(agent: _Agent, check: Check) -> Any:
    kind, payload = agent.receive(check)
    _raise_reported(kind, payload)
    return json.loads(payload)


def _raise_reported(kind: bytes, payload: bytes) -> None:
    if kind == ERROR:
        number, words, filename = json.loads(payload)
        raise _Reported(OSError(number or errno.EIO, words, filename))
