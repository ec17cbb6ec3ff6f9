"""The door for commands on the host, and what `command_wrapper` means.

Everything that runs to its end on the host goes through `Host.run` or `Host.shell`; commands in the
image go through `chroot.py`, and the helper for files lives in `agent_client.py`.

The wrapper is a template around a shell command line: a command of ours is quoted, put into it, and
the result run by /bin/sh. Without a wrapper our own commands meet no shell at all.
"""

import codecs
import errno
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, CommandError
from packer_plugin_osc_chroot.host.process import run_process
from packer_plugin_osc_chroot.host.procfs import BUILD_MARK, Family

log = logging.getLogger(__name__)

SBIN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_LINE = 8192
MAX_OUTPUT = 4 << 20
TAIL_LINES = 20
# How long a wrapper may take to start `kill`; a cancel waits for it.
KILL_SECONDS = 2.0

# Names of variables that are Packer's and ours, credentials among them, begin so.
_PRIVATE = ("OSC_", "OUTSCALE_", "PACKER_", "PKR_", "AWS_")

# What every build runs on this machine.
PROGRAMS = ("blkid", "blockdev", "chroot", "mkdir", "mount", "partx", "rmdir", "umount")

# The Debian and Red Hat packages of the commands that builds use, for "command not found".
_PACKAGES = {
    "blkid": "util-linux",
    "blockdev": "util-linux",
    "chroot": "coreutils",
    "env": "coreutils",
    "losetup": "util-linux",
    "lsblk": "util-linux",
    "mkdir": "coreutils",
    "mount": "util-linux (mount on Debian)",
    "partx": "util-linux",
    "rmdir": "coreutils",
    "sfdisk": "util-linux (fdisk on Debian)",
    "sudo": "sudo",
    "udevadm": "systemd (udev on Debian)",
    "umount": "util-linux (mount on Debian)",
}


def package_of(program: str) -> str:
    """The package that has a program of a build; "" for other programs."""
    return _PACKAGES.get(program, "")


def find_program(name: str) -> str | None:
    """Where a command of ours would be found: in the caller's PATH, then among root's programs."""
    return shutil.which(name, path=_with_sbin(os.environ.get("PATH", "")))


# Started through a wrapper, the agent has neither our working directory nor our PYTHONPATH.
_START_AGENT = (
    "import sys; sys.path.insert(0, {directory!r}); "
    "from packer_plugin_osc_chroot.host.agent import main; sys.exit(main(sys.argv[1:]))"
)


def default_agent_argv() -> tuple[str, ...]:
    """How this program starts itself as the agent, frozen or not."""
    if getattr(sys, "frozen", False):
        return (sys.executable, "agent")
    directory = os.fspath(Path(__file__).resolve().parents[2])
    return (sys.executable, "-c", _START_AGENT.format(directory=directory))


@dataclass(frozen=True)
class Completed:
    """A command that ended. `output` is its standard output, `errors` the tail of the other."""

    status: int
    output: str
    errors: str = ""


@dataclass(frozen=True)
class Host:
    """How things are done on this machine: as ourselves, or through the user's wrapper.

    `on_pid` gets the pid of each command that is started; `mark` is in its environment, for whoever
    finds it when its build is dead (a wrapper may drop it).
    """

    wrap: Callable[[str], str] | None = None
    agent_argv: Sequence[str] = field(default_factory=default_agent_argv)
    on_pid: Callable[[int], None] = lambda pid: None
    mark: str = ""

    def command(self, argv: Sequence[str], *, privileged: bool = True) -> list[str]:
        """What is really executed for `argv`."""
        if self.wrap is None or not privileged:
            return list(argv)
        return ["/bin/sh", "-c", self.wrap(shlex.join(argv))]

    def run(
        self,
        argv: Sequence[str],
        *,
        token: CancelToken,
        input: bytes | None = None,
        on_line: Callable[[str], None] | None = None,
        success: Container[int] = (0,),
        privileged: bool = True,
        on_left: Callable[[Family], None] = lambda family: None,
    ) -> Completed:
        """Run a command of ours. Raises CommandError for a status not in `success`, Cancelled.

        `on_left` gets the processes of an ended command that not even SIGKILL has ended so far.
        """
        return self._run(
            self.command(argv, privileged=privileged),
            shown=shlex.join(argv),
            name=argv[0],
            env=tool_environment(inherit=self.wrap is not None),
            token=token,
            input=input,
            on_line=on_line,
            success=success,
            wrapped=self.wrap is not None and privileged,
            on_left=on_left,
        )

    def shell(
        self, command: str, *, token: CancelToken, on_line: Callable[[str], None] | None = None
    ) -> Completed:
        """Run a command line that the user wrote, through the wrapper where there is one."""
        text = command if self.wrap is None else self.wrap(command)
        return self._run(
            ["/bin/sh", "-c", text],
            shown=command,
            name="",
            env=user_environment(),
            token=token,
            input=None,
            on_line=on_line,
            success=(0,),
            wrapped=self.wrap is not None,
        )

    def kill(self, pids: Sequence[int], number: signal.Signals) -> None:
        """Signal processes, through the wrapper where we may not. The vanished do not matter."""
        refused = []
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
            except PermissionError:
                refused.append(pid)
        if refused and self.wrap is not None:
            self._kill_wrapped(refused, number)

    def _kill_wrapped(self, pids: Sequence[int], number: signal.Signals) -> None:
        """A process of its own kind: `run` would end a wrapper that hangs by calling this again."""
        name = number.name.removeprefix("SIG")
        # The shell's own kill: not every system has the program. A group is a negative number.
        argv = ["/bin/sh", "-c", 'kill -s "$0" -- "$@"', name, *map(str, pids)]
        try:
            child = subprocess.Popen(
                self.command(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=tool_environment(inherit=True),
                start_new_session=True,
            )
        except OSError as error:
            log.warning("signalling through command_wrapper: %s", error)
            return
        try:
            child.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("signalling through command_wrapper did not end in %g s", KILL_SECONDS)
            # What became root's in there stays: there is nobody else to ask.
            with suppress(OSError):
                os.killpg(child.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                child.wait(0.2)

    def _run(
        self,
        argv: Sequence[str],
        *,
        shown: str,
        name: str,
        env: Mapping[str, str],
        token: CancelToken,
        input: bytes | None,
        on_line: Callable[[str], None] | None,
        success: Container[int],
        wrapped: bool,
        on_left: Callable[[Family], None] = lambda family: None,
    ) -> Completed:
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        errors: deque[str] = deque(maxlen=TAIL_LINES)
        output = bytearray()

        def each_line(line: str) -> None:
            tail.append(line)
            if on_line is not None:
                on_line(line)

        def each_error(line: str) -> None:
            errors.append(line)
            each_line(line)

        out_lines, err_lines = Lines(each_line), Lines(each_error)

        def on_stdout(data: bytes) -> None:
            output.extend(data[: MAX_OUTPUT - len(output)])
            out_lines.feed(data)

        try:
            code = run_process(
                argv,
                env={**env, BUILD_MARK: self.mark} if self.mark else env,
                token=token,
                stdin=None if input is None else (input,),
                on_stdout=on_stdout,
                on_stderr=err_lines.feed,
                kill=self.kill,
                on_pid=self.on_pid,
                on_left=on_left,
            )
        except (OSError, ValueError) as error:
            raise start_error(error, name=name or argv[0], shown=shown) from error
        out_lines.close()
        err_lines.close()
        status = exit_status(code)
        completed = Completed(status, output.decode("utf-8", "replace"), "\n".join(errors))
        if status not in success:
            raise _failed(
                status,
                signalled=code < 0,
                name=name,
                shown=shown,
                tail=tail,
                wrapped=wrapped,
            )
        return completed


class Lines:
    """Cuts a stream of bytes into decoded lines; of one that is longer than MAX_LINE only the beginning
    is kept, and how much more there was."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._cut = 0

    def feed(self, data: bytes) -> None:
        *lines, rest = self._decoder.decode(data).split("\n")
        for line in lines:
            self._add(line)
            self._emit()
        self._add(rest)

    def close(self) -> None:
        self._add(self._decoder.decode(b"", final=True))
        if self._rest:
            self._emit()

    def _add(self, text: str) -> None:
        # A carriage return is a progress display drawing over itself: only its last state counts.
        whole = self._rest + text
        drawn = whole.rstrip("\r")
        last = drawn.rpartition("\r")[2]
        if len(last) < len(drawn):
            self._cut = 0
        self._cut += max(0, len(last) - MAX_LINE)
        self._rest = last[:MAX_LINE] + whole[len(drawn) :][:1]

    def _emit(self) -> None:
        more = f" [and {self._cut} characters]" if self._cut else ""
        self._on_line(self._rest.rstrip("\r") + more)
        self._rest, self._cut = "", 0


def exit_status(code: int) -> int:
    """The shell's form of what Popen calls -n."""
    return 128 - code if code < 0 else code


def start_error(error: OSError | ValueError, *, name: str, shown: str) -> BuildError:
    """The words for a command that could not even be started."""
    if isinstance(error, FileNotFoundError):
        return CommandError(
            f"{name}: command not found on this machine", status=127, hint=_install_hint(name)
        )
    if isinstance(error, PermissionError):
        return CommandError(f"{name}: may not be executed by this user", status=126)
    if isinstance(error, ValueError):
        return BuildError("a command holds a NUL byte, which no program can be given")
    if error.errno == errno.E2BIG:
        return BuildError(
            f"the command is too long for the kernel ({len(shown)} characters, limit about 128 Ki)",
            hint="Upload it as a script and run that.",
        )
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return BuildError(
            f"{name} could not be started: {error.strerror}",
            hint="Raise the limit (ulimit -n), or run fewer builds at a time.",
        )
    return CommandError(f"{name} could not be started: {error}", status=126)


def _install_hint(name: str) -> str:
    package = package_of(name)
    if not package:
        return f"Install the package that has {name}, or add its directory to PATH."
    return f"Install the package {package}."


def _failed(
    status: int, *, signalled: bool, name: str, shown: str, tail: Sequence[str], wrapped: bool
) -> CommandError:
    hint = ""
    if signalled:
        number = status - 128
        known = {int(each): each.name for each in signal.Signals}
        what = f"was ended by signal {number} ({known.get(number, 'unknown')})"
    elif status == 127:
        what = "failed: command not found"
        if wrapped and find_program(name):
            hint = "Check command_wrapper, and that what it names is installed."
        elif name:
            hint = _install_hint(name)
    else:
        what = f"failed with status {status}"
    said = _reason(tail, name=name)
    through = " through command_wrapper" if wrapped else ""
    message = f"`{shown}`{through} {what}" + (f": {said}" if said else "")
    return CommandError(message, status=status, program=name, hint=hint, details=tuple(tail))


def _reason(tail: Sequence[str], *, name: str) -> str:
    """The line that says why: a program's own first complaint, else the last thing printed.

    mount(8) ends with a pointer to dmesg, which is no reason.
    """
    lines = [line.strip() for line in tail if line.strip()]
    own = [line for line in lines if name and line.startswith(f"{name}: ")]
    return own[0] if own else lines[-1] if lines else ""


def user_environment() -> dict[str, str]:
    """Packer's own environment, as commands of the user expect it.

    A frozen program runs under a library path of its own, which foreign programs must not see; the
    one it was started with is kept beside it (PyInstaller).
    """
    env = dict(os.environ)
    if getattr(sys, "frozen", False):
        original = env.pop("LD_LIBRARY_PATH_ORIG", None)
        env.pop("LD_LIBRARY_PATH", None)
        if original is not None:
            env["LD_LIBRARY_PATH"] = original
    env["PATH"] = _with_sbin(env.get("PATH", ""))
    return env


def wrapper_environment() -> dict[str, str]:
    """What the wrapper passes on or not: Packer's environment, less its credentials."""
    return {
        name: value for name, value in user_environment().items() if not name.startswith(_PRIVATE)
    }


def tool_environment(*, inherit: bool) -> dict[str, str]:
    """For our own commands: messages that can be read by programs, and nothing of the user's.

    A wrapper may need what the user has set (SUDO_ASKPASS, proxies): it inherits.
    """
    env = wrapper_environment() if inherit else {"PATH": _with_sbin(os.environ.get("PATH", ""))}
    env["LC_ALL"] = env["LANG"] = "C.UTF-8"
    return env


def _with_sbin(path: str) -> str:
    parts = [part for part in path.split(":") if part]
    parts += [part for part in SBIN_PATH.split(":") if part not in parts]
    return ":".join(parts)
