"""Runs one program: its streams, its end, and the end of everything it started on cancel.

`commands.py` and `chroot.py` build on it. Two programs are started without it: the helper for files,
which serves a whole build (`agent_client.py`), and `kill` through a wrapper (`commands.py`), which is
how programs are ended here.
"""

import logging
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.host.procfs import Family

log = logging.getLogger(__name__)

CHUNK = 65536
# How long a cancelled program may take to end by itself, and how long the kernel to remove it after
# SIGKILL: together less than the second within which a cancel has to be through.
TERM_GRACE = 0.5
KILL_GRACE = 0.35
# A pipe holds at most this much (fs.pipe-max-size), so what an ended program wrote is in it.
DRAIN_LIMIT = 1 << 20

Kill = Callable[[Sequence[int], signal.Signals], None]
Sink = Callable[[bytes], None]


def run_process(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    token: CancelToken,
    stdin: Iterable[bytes] | None,
    on_stdout: Sink,
    on_stderr: Sink,
    kill: Kill,
    mark: str = "",
    on_pid: Callable[[int], None] = lambda pid: None,
    on_started: Callable[[], None] = lambda: None,
    on_left: Callable[[Family], None] = lambda family: None,
) -> int:
    """Run until the program ends; its status as Popen gives it (-n for a signal n).

    Once the program runs, `on_pid` gets its pid, and `on_started` is called; `on_left` where ending
    it early has not ended all of its processes (one may hang in the kernel and go on with what it is
    at).
    The program leads a session of its own. The sinks run in the calling thread; an exception from
    one ends the program like a cancel does. Children that outlive the program and hold its pipes
    are not waited for. Raises OSError where the program cannot be started, Cancelled.
    """
    token.check()
    # All that it takes, before the program runs: where a descriptor is not to be had, nothing does.
    (wake_read, wake_write), (stop_read, stop_write), alarm_pipe = _pipes(3)
    try:
        child = subprocess.Popen(
            argv,
            bufsize=0,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            start_new_session=True,
        )
    except BaseException:
        for fd in (wake_read, wake_write, stop_read, stop_write, *alarm_pipe):
            os.close(fd)
        raise
    exited = threading.Event()

    def wait() -> None:
        child.wait()
        exited.set()
        os.write(wake_write, b"x")

    waiter = threading.Thread(target=wait, name=f"wait-{child.pid}", daemon=True)
    waiter.start()
    if stdin is not None and child.stdin is not None:
        threading.Thread(
            target=_feed,
            args=(child.stdin, stdin, stop_read),
            name=f"feed-{child.pid}",
            daemon=True,
        ).start()
    else:
        os.close(stop_read)
    assert child.stdout is not None and child.stderr is not None
    sinks = {child.stdout.fileno(): on_stdout, child.stderr.fileno(): on_stderr}
    alarm = _Alarm(alarm_pipe)
    try:
        on_pid(child.pid)
        on_started()
        with token.on_cancel(alarm.ring):
            _pump(sinks, wake=wake_read, cancel=alarm.fd, exited=exited, token=token)
    except BaseException:
        family = Family(child.pid, mark=mark)
        try:
            if not end_family(family, kill=kill, exited=exited):
                on_left(family)
        except OSError as error:
            # Without a descriptor nobody can be looked for in /proc: its process group, then.
            log.warning("ending %s: %s", argv[0], error)
            kill([-child.pid], signal.SIGKILL)
        raise
    finally:
        os.close(stop_write)
        child.stdout.close()
        child.stderr.close()
        # A program that not even SIGKILL ends (it hangs in the kernel) keeps its waiter and wake
        # pipe; everything else goes.
        if exited.wait(KILL_GRACE):
            waiter.join()
            os.close(wake_read)
            os.close(wake_write)
        alarm.close()
    return child.returncode


def _pipes(count: int) -> list[tuple[int, int]]:
    """Raises OSError where not all can be had; then none is open."""
    made: list[tuple[int, int]] = []
    try:
        for _ in range(count):
            made.append(os.pipe())
    except OSError:
        for pipe in made:
            os.close(pipe[0])
            os.close(pipe[1])
        raise
    return made


class _Alarm:
    """Makes a descriptor readable from another thread, which may come late: after the close."""

    def __init__(self, pipe: tuple[int, int]) -> None:
        self.fd, self._write = pipe
        self._lock = threading.Lock()

    def ring(self) -> None:
        with self._lock:
            if self._write >= 0:
                os.write(self._write, b"x")

    def close(self) -> None:
        with self._lock:
            os.close(self.fd)
            os.close(self._write)
            self._write = -1


def _pump(
    sinks: dict[int, Sink],
    *,
    wake: int,
    cancel: int,
    exited: threading.Event,
    token: CancelToken,
) -> None:
    """Hand output on until the program has ended and everything it wrote was read."""
    poller = select.poll()
    for fd in (*sinks, wake, cancel):
        poller.register(fd, select.POLLIN)
    budget = dict.fromkeys(sinks, DRAIN_LIMIT)
    open_fds = set(sinks)
    while True:
        ended = exited.is_set()
        # The timeout is for tokens with a deadline: they tell only who looks.
        ready = {fd for fd, _ in poller.poll(0 if ended else 200)}
        token.check()
        active = ready & open_fds
        for fd in active:
            data = os.read(fd, CHUNK)
            if data:
                sinks[fd](data)
                budget[fd] -= len(data) if ended else 0
            if not data or budget[fd] <= 0:
                poller.unregister(fd)
                open_fds.discard(fd)
        if ended and not active:
            return


def _feed(file: IO[bytes], chunks: Iterable[bytes], stop: int) -> None:
    """Write standard input; ends when the program does not read any more or has ended.

    It may stay in `chunks` for as long as that blocks: its thread is a daemon. Where `chunks` fails
    (its stream was cancelled), that is the end of the input.
    """
    fd = file.fileno()
    try:
        os.set_blocking(fd, False)
        poller = select.poll()
        poller.register(fd, select.POLLOUT)
        poller.register(stop, select.POLLIN)
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                ready = dict(poller.poll())
                if stop in ready:
                    return
                view = view[os.write(fd, view[:CHUNK]) :]
    except BrokenPipeError:
        return
    except Exception as error:
        log.info("the standard input of a command ended early: %r", error)
    finally:
        file.close()
        os.close(stop)


def end_family(family: Family, *, kill: Kill, exited: threading.Event) -> bool:
    """SIGTERM to all of it, SIGKILL to what is left after a grace. False where something stays.

    It takes no longer than a second, and the time that `kill` needs.
    """
    living = family.living()
    kill(living, signal.SIGTERM)
    if _wait_gone(family, exited=exited, seconds=TERM_GRACE):
        return True
    deadline = time.monotonic() + KILL_GRACE
    while time.monotonic() < deadline:
        living = family.living()
        if not living and exited.is_set():
            return True
        kill(living, signal.SIGKILL)
        if _wait_gone(family, exited=exited, seconds=0.1):
            return True
    return exited.is_set() and not family.living()


def _wait_gone(family: Family, *, exited: threading.Event, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        exited.wait(0.02)
        if exited.is_set() and not family.living():
            return True
        time.sleep(0.02)
    return False
