"""Commands of provisioners inside a root: streams, status, environment, cancel."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from guest_tree import fill_guest

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, Cancelled
from packer_plugin_osc_chroot.host.chroot import MARK_NAME, Chroot
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.procfs import command_line, pids

pytestmark = pytest.mark.root

# As sudo does: a clean environment, another process between us and the command.
SUDO_LIKE = Host(
    wrap=lambda command: f"env -i HOME=/root PATH=$PATH setpriv --no-new-privs {command}"
)
HOSTS = [Host(), SUDO_LIKE, Host(wrap=lambda command: f"sudo -n {command}")]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("guest")
    fill_guest(top)
    return top


class Run:
    def __init__(self, root: Path, host: Host = HOSTS[0]) -> None:
        self.chroot = Chroot(host, root)
        self.out = bytearray()
        self.err = bytearray()

    def __call__(
        self,
        command: str,
        *,
        stdin: Iterator[bytes] | None = None,
        token: CancelToken | None = None,
    ) -> int:
        return self.chroot.start(
            command,
            stdin=stdin,
            on_stdout=self.out.extend,
            on_stderr=self.err.extend,
            token=token or CancelToken(),
        )


def marked_processes() -> list[int]:
    found = []
    for pid in pids():
        try:
            if MARK_NAME.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("host", HOSTS)
def test_streams_and_status(root: Path, host: Host) -> None:
    run = Run(root, host)
    assert run("cat; echo oops >&2; exit 3", stdin=iter([b"one ", b"two"])) == 3
    assert run.out == b"one two"
    assert run.err == b"oops\n"


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(
    "text",
    ["it's", 'say "x"', "`id`", "$HOME $X ${Y}", "back\\slash \\n", "two\nlines", "é €", "*"],
)
def test_text_arrives_as_written(root: Path, host: Host, text: str) -> None:
    run = Run(root, host)
    quoted = "'" + text.replace("'", "'\\''") + "'"
    assert run(f"printf %s {quoted}") == 0
    assert run.out.decode() == text


@pytest.mark.parametrize("host", HOSTS)
def test_it_is_inside(root: Path, host: Host) -> None:
    run = Run(root, host)
    assert run("pwd; ls -d /bin/busybox; echo $HOME") == 0
    assert run.out.decode().split() == ["/", "/bin/busybox", "/root"]


def test_signal_is_128_and_its_number(root: Path) -> None:
    assert Run(root)("kill -9 $$") == 137


def test_missing_program_and_shell(root: Path, tmp_path: Path) -> None:
    assert Run(root)("no-such-program") == 127
    run = Run(tmp_path)
    assert run("true") == 127
    assert b"/bin/sh" in run.err


def test_guest_gets_no_credentials(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSC_SECRET_KEY", "hidden")
    monkeypatch.setenv("PKR_VAR_password", "hidden")
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    for host in (Host(), Host(wrap=lambda command: f"nice {command}")):
        run = Run(root, host)
        assert run("env") == 0
        assert b"hidden" not in run.out
        assert b"http_proxy=http://proxy:3128" in run.out


def test_command_that_is_too_long(root: Path) -> None:
    with pytest.raises(BuildError, match="too long"):
        Run(root)("x" * 200_000)
    with pytest.raises(BuildError, match="NUL"):
        Run(root)("a\0b")


def test_output_arrives_while_it_runs(root: Path) -> None:
    seen: list[float] = []
    status = Chroot(Host(), root).start(
        "echo first; sleep 0.6; echo second",
        on_stdout=lambda data: seen.append(time.monotonic()),
        on_stderr=lambda data: None,
        token=CancelToken(),
    )
    assert status == 0
    first, second = seen
    assert second - first > 0.3


def test_several_at_once(root: Path) -> None:
    statuses: dict[int, int] = {}

    def one(number: int) -> None:
        statuses[number] = Run(root)(f"sleep 0.3; exit {number}")

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == {number: number for number in range(8)}
    assert time.monotonic() - start < 2


def test_unread_stdin_does_not_hang(root: Path) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 100_000

    assert Run(root)("exit 0", stdin=endless()) == 0


def test_large_output(root: Path) -> None:
    run = Run(root)
    assert (
        run("head -c 5000000 /bin/busybox /bin/busybox /bin/busybox | wc -c; yes | head -500000")
        == 0
    )
    assert len(run.out) > 1_000_000


def test_background_child_does_not_hang(root: Path) -> None:
    run = Run(root)
    start = time.monotonic()
    assert run("sleep 77 & echo $!") == 0
    assert time.monotonic() - start < 2
    assert not run.err
    pid = int(run.out)
    deadline = start + 5
    # Until its exec the child has the shell's command line.
    while (line := command_line(pid)) != "sleep 77" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert line == "sleep 77"
    os.kill(pid, 9)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(
    "command",
    [
        "sleep 71",
        "trap '' TERM INT HUP; while :; do sleep 1; done",
        # Left its session, its parent is gone, and deaf: only the mark leads to it.
        "(setsid sh -c 'trap \"\" TERM; sleep 72; sleep 73' &) ; sleep 74",
    ],
)
def test_cancel_ends_everything_within_a_second(root: Path, host: Host, command: str) -> None:
    token = CancelToken()
    threading.Timer(0.5, token.cancel).start()
    start = time.monotonic()
    with pytest.raises(Cancelled):
        Run(root, host)(command, token=token)
    assert time.monotonic() - start < 1.5
    assert marked_processes() == []


def test_cancelled_before_the_start(root: Path) -> None:
    token = CancelToken()
    token.cancel()
    run = Run(root)
    with pytest.raises(Cancelled):
        run("echo ran", token=token)
    assert not run.out


def test_a_short_command_is_quick(root: Path) -> None:
    run = Run(root)
    took = []
    for _ in range(10):
        start = time.monotonic()
        assert run("true") == 0
        took.append(time.monotonic() - start)
    # The quickest: other load is not what is tested.
    assert min(took) < 0.027


def test_nothing_stays_open(root: Path) -> None:
    Run(root)("true")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        Run(root)("cat", stdin=iter([b"x"]))
    assert len(os.listdir("/proc/self/fd")) == before
