"""Commands of provisioners, run inside the root.

A command is one argument of `chroot ROOT /bin/sh -c`, never part of another shell's text. Without a
wrapper it gets a small clean environment: what Packer was started with (credentials, the host's
locale and paths) is no business of the image; proxies are. With a wrapper, the wrapper decides what
it passes on (`sudo` resets, `sudo -E` does not), from Packer's environment less its credentials.
"""

import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.host.commands import (
    SBIN_PATH,
    Host,
    exit_status,
    start_error,
    wrapper_environment,
)
from packer_plugin_osc_chroot.host.process import run_process

MARK_NAME = "PACKER_OSC_CHROOT_COMMAND"
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")


@dataclass(frozen=True)
class Chroot:
    """The root of a build, as a place to run commands in. Several may run at once."""

    host: Host
    root: Path

    def start(
        self,
        command: str,
        *,
        stdin: Iterable[bytes] | None = None,
        on_stdout: Callable[[bytes], None],
        on_stderr: Callable[[bytes], None],
        on_started: Callable[[], None] = lambda: None,
        token: CancelToken,
    ) -> int:
        """Run a command to its end and return its exit status, 128+n for a signal n.

        `stdin` is read in a thread of its own; the two sinks run in the calling one and must not
        block for ever. A cancel ends the command with all it started, also what has left its
        session. Raises Cancelled.
        """
        mark = f"{MARK_NAME}={secrets.token_hex(8)}"
        argv = ["chroot", str(self.root), "/bin/sh", "-c", command]
        if self.host.wrap is None:
            env = guest_environment()
            env[MARK_NAME] = mark.removeprefix(f"{MARK_NAME}=")
        else:
            # Through the wrapper the mark has to be an argument: sudo drops the environment.
            argv = ["env", mark, *argv]
            env = wrapper_environment()
        try:
            code = run_process(
                self.host.command(argv),
                env=env,
                token=token,
                stdin=stdin,
                on_stdout=on_stdout,
                on_stderr=on_stderr,
                on_started=on_started,
                kill=self.host.kill,
                on_pid=self.host.on_pid,
                mark=mark,
            )
        except (OSError, ValueError) as error:
            raise start_error(error, name="chroot", shown=command) from error
        return exit_status(code)


def guest_environment() -> dict[str, str]:
    env = {
        "PATH": SBIN_PATH,
        "HOME": "/root",
        "USER": "root",
        "LOGNAME": "root",
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        "TERM": os.environ.get("TERM", "dumb"),
    }
    for name in (*_PROXIES, *(proxy.upper() for proxy in _PROXIES)):
        if name in os.environ:
            env[name] = os.environ[name]
    return env
