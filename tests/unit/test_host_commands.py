"""Commands on the host: what they get, what they say, how they end."""

import errno
import gc
import os
import resource
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, Cancelled, CommandError
from packer_plugin_osc_chroot.host import procfs
from packer_plugin_osc_chroot.host.commands import (
    PROGRAMS,
    Host,
    Lines,
    find_program,
    package_of,
)
from packer_plugin_osc_chroot.host.process import run_process
from packer_plugin_osc_chroot.host.procfs import pids, processes

NASTY = 'it\'s "$HOME" `id` \\ $(date)\nsecond line é €'


def token() -> CancelToken:
    return CancelToken()


def test_output_and_lines() -> None:
    lines: list[str] = []
    done = Host().run(["printf", "one\ntwo\r\nthree"], token=token(), on_line=lines.append)
    assert done.status == 0
    assert done.output == "one\ntwo\r\nthree"
    assert lines == ["one", "two", "three"]


@pytest.mark.parametrize("wrap", [None, lambda command: command, lambda c: f"nice -n 0 {c}"])
def test_arguments_arrive_as_written(wrap: None) -> None:
    done = Host(wrap=wrap).run(["printf", "%s|", NASTY, "", "-n"], token=token())
    assert done.output == f"{NASTY}||-n|"


def test_shell_text_of_the_user_goes_through_the_wrapper_as_it_is() -> None:
    host = Host(wrap=lambda command: f"GREETING='hello there' sh -c {shlex.quote(command)}")
    lines: list[str] = []
    host.shell('echo "$GREETING" && echo two', token=token(), on_line=lines.append)
    assert lines == ["hello there", "two"]


def test_input() -> None:
    done = Host().run(["cat"], input=b"x" * 300_000, token=token())
    assert len(done.output) == 300_000


def test_input_that_fails_is_an_end_of_input(capfd: pytest.CaptureFixture[str]) -> None:
    """As that of a gRPC stream which was cancelled."""
    failed: list[object] = []
    out = bytearray()

    def chunks() -> Iterator[bytes]:
        yield b"before"
        raise RuntimeError("the stream was cancelled")

    hook, threading.excepthook = threading.excepthook, failed.append
    try:
        code = run_process(
            ["cat"],
            env={"PATH": os.environ["PATH"]},
            token=token(),
            stdin=chunks(),
            on_stdout=out.extend,
            on_stderr=out.extend,
            kill=Host().kill,
        )
    finally:
        threading.excepthook = hook
    assert (code, bytes(out)) == (0, b"before")
    assert not failed
    assert capfd.readouterr().err == ""


def test_stdin_is_closed() -> None:
    assert Host().run(["cat"], token=token()).output == ""


def test_credentials_do_not_go_through_the_wrapper(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OSC_SECRET_KEY", "PKR_VAR_password", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hidden")
    monkeypatch.setenv("SUDO_ASKPASS", "/bin/ask")
    host = Host(wrap=lambda command: command)
    env = host.run(["env"], token=token()).output
    assert "hidden" not in env
    assert "SUDO_ASKPASS=/bin/ask" in env
    lines: list[str] = []
    host.shell("env", token=token(), on_line=lines.append)
    assert "OSC_SECRET_KEY=hidden" in lines, "the user's own command has what Packer has"


def test_own_commands_do_not_inherit_the_users_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSC_SECRET_KEY", "hidden")
    monkeypatch.setenv("LC_ALL", "fr_FR.UTF-8")
    env = Host().run(["env"], token=token()).output
    assert "hidden" not in env
    assert "LC_ALL=C.UTF-8" in env
    assert "/usr/sbin" in env


def test_failure_names_command_status_and_last_words() -> None:
    with pytest.raises(CommandError) as caught:
        Host().run(["ls", "/no such place"], token=token())
    assert "`ls '/no such place'` failed with status 2" in caught.value.message
    assert "No such file" in caught.value.message
    assert caught.value.status == 2
    assert caught.value.details


def test_failure_by_signal() -> None:
    with pytest.raises(CommandError, match=r"ended by signal 9 \(SIGKILL\)") as caught:
        Host().run(["sh", "-c", "kill -9 $$"], token=token())
    assert caught.value.status == 137


@pytest.mark.parametrize("wrap", [None, lambda command: command])
def test_missing_command(wrap: None) -> None:
    with pytest.raises(CommandError, match="not found") as caught:
        Host(wrap=wrap).run(["no-such-command-here"], token=token())
    assert caught.value.status == 127
    assert "PATH" in caught.value.hint


def test_expected_status_is_no_failure() -> None:
    assert Host().run(["false"], token=token(), success=(0, 1)).status == 1


def test_background_child_that_keeps_the_pipe_does_not_hang() -> None:
    start = time.monotonic()
    done = Host().run(["sh", "-c", "sleep 30 & echo $!; echo done"], token=token())
    assert time.monotonic() - start < 2
    pid, word = done.output.split()
    assert word == "done"
    os.kill(int(pid), signal.SIGKILL)


def test_background_child_that_never_stops_writing_does_not_hang() -> None:
    start = time.monotonic()
    done = Host().run(["sh", "-c", "(exec yes) & echo $! >&2"], token=token())
    assert time.monotonic() - start < 2
    subprocess.run(["kill", "-9", done.errors.strip()], check=False)


@pytest.mark.parametrize(
    "script",
    [
        "sleep 60",
        "trap '' TERM INT HUP; while :; do sleep 1; done",
        "setsid sleep 61 & (trap '' TERM; sleep 62) & sleep 63",
    ],
)
@pytest.mark.parametrize("wrap", [None, lambda command: f"nice {command}"])
def test_cancel_ends_everything_within_a_second(script: str, wrap: None, tmp_path: Path) -> None:
    def here() -> list[int]:
        found = []
        for pid in pids():
            try:
                if os.readlink(f"/proc/{pid}/cwd") == str(tmp_path):
                    found.append(pid)
            except OSError:
                continue
        return found

    cancel = CancelToken()
    seen: list[int] = []

    def look_and_cancel() -> None:
        seen.extend(here())
        cancel.cancel()

    threading.Timer(0.4, look_and_cancel).start()
    start = time.monotonic()
    with pytest.raises(Cancelled):
        Host(wrap=wrap).run(["env", "-C", str(tmp_path), "sh", "-c", script], token=cancel)
    assert time.monotonic() - start < 1.45
    assert seen
    assert here() == []


def test_deadline_counts_as_cancel() -> None:
    start = time.monotonic()
    with pytest.raises(Cancelled, match="too slow"):
        Host().run(["sleep", "60"], token=CancelToken(deadline=0.3, reason="too slow"))
    assert time.monotonic() - start < 1.3


def test_failing_listener_ends_the_command() -> None:
    def listener(line: str) -> None:
        raise RuntimeError(line)

    start = time.monotonic()
    with pytest.raises(RuntimeError, match="hello"):
        Host().run(["sh", "-c", "echo hello; exec sleep 60"], token=token(), on_line=listener)
    assert time.monotonic() - start < 2


def test_nothing_stays_open() -> None:
    Host().run(["true"], token=token())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        Host().run(["cat"], input=b"x", token=token())
        with pytest.raises(CommandError):
            Host().run(["no-such-command-here"], token=token())
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_descriptor_left_is_said_and_leaves_nothing() -> None:
    """Whichever of those that a command takes is the one that cannot be had."""
    Host().run(["cat"], input=b"x", token=token())
    gc.collect()
    before = sorted(os.listdir("/proc/self/fd"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, before)) + 1
    failures: list[BuildError] = []
    for more in range(24):
        # Those below the highest that are free count as taken.
        fillers = [os.open("/dev/null", os.O_RDONLY) for _ in range(used - len(before) + 1)]
        top = max(fillers) + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (top + more, limits[1]))
        try:
            Host().run(["cat"], input=b"x", token=CancelToken(deadline=5))
        except BuildError as error:
            failures.append(error)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for each in fillers:
                os.close(each)
        assert [each for each in processes().values() if each.parent == os.getpid()] == []
    assert 5 < len(failures) < 24
    assert {each.message for each in failures} == {"cat could not be started: Too many open files"}
    assert "ulimit -n" in failures[0].hint
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_command_is_ended_where_nothing_can_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptor() -> Iterator[int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    started: list[int] = []
    monkeypatch.setattr(procfs, "pids", no_descriptor)
    with pytest.raises(Cancelled):
        Host(on_pid=started.append).run(
            ["sh", "-c", "sleep 61 & sleep 62"], token=CancelToken(deadline=0.3)
        )
    monkeypatch.undo()
    time.sleep(0.1)
    assert [each for each in processes().values() if each.session in started and each.alive] == []


def test_lines_are_decoded_across_reads_and_bounded() -> None:
    lines: list[str] = []
    cutter = Lines(lines.append)
    for byte in "é\n10%\r20%\n".encode():
        cutter.feed(bytes([byte]))
    cutter.feed(b"\xff\n")
    cutter.feed(b"x" * 20_000)
    cutter.close()
    assert lines == ["é", "20%", "\ufffd", "x" * 8192 + " [and 11808 characters]"]


def test_programs_of_a_build_are_found_and_have_a_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for program in PROGRAMS:
        assert package_of(program)
        assert find_program(program)
    own = tmp_path / "mount"
    own.touch(mode=0o755)
    assert find_program("mount") == str(own)
    assert find_program("no-such-command-here") is None
    assert package_of("no-such-command-here") == ""
