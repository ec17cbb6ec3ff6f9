"""A wrapper that hangs: what is asked of it while a command is ended has an end too."""

import os
import shlex
import signal
import threading
import time
from pathlib import Path

import pytest

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import Cancelled
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.procfs import processes


@pytest.fixture
def started(tmp_path: Path) -> Path:
    """Gets a line for each start of the wrapper."""
    return tmp_path / "started"


@pytest.fixture
def hanging(started: Path) -> Host:
    return Host(wrap=lambda command: f"echo $$ >> {started}; sleep 47; {command}")


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signals are refused, as to a process of root by a normal user."""

    def kill(pid: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "kill", kill)


def end_all(started: Path) -> None:
    for line in started.read_text().splitlines():
        try:
            os.killpg(int(line), signal.SIGKILL)
        except ProcessLookupError:
            continue


def living(session: int) -> list[int]:
    return [each.pid for each in processes().values() if each.session == session and each.alive]


@pytest.mark.usefixtures("refused")
def test_cancel_of_a_wrapper_that_hangs_ends(hanging: Host, started: Path) -> None:
    token = CancelToken()
    threading.Timer(0.3, token.cancel).start()
    start = time.monotonic()
    try:
        with pytest.raises(Cancelled):
            hanging.run(["true"], token=token)
        assert time.monotonic() - start < 8
        # The command, SIGTERM and SIGKILL; a kill that hangs is not itself ended by a third.
        assert len(started.read_text().splitlines()) == 3
    finally:
        end_all(started)


@pytest.mark.usefixtures("refused")
def test_hanging_kill_ends_with_all_it_started(hanging: Host, started: Path) -> None:
    start = time.monotonic()
    hanging.kill([os.getpid()], signal.SIGTERM)
    assert time.monotonic() - start < 4
    (line,) = started.read_text().splitlines()
    deadline = time.monotonic() + 2
    while (left := living(int(line))) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == []


@pytest.mark.usefixtures("refused")
def test_kill_goes_through_the_wrapper(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    host = Host(wrap=lambda command: f"echo {shlex.quote(command)} > {seen}")
    host.kill([4711, 4712], signal.SIGTERM)
    assert "TERM 4711 4712" in seen.read_text()
