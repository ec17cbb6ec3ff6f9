"""COMMAND of `localcloud run`: started, sent the signals that come, and waited for."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from packer_plugin_osc_chroot.localcloud.region_options import Stopped

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Child:
    """COMMAND, and what signals do before, while and after it runs.

    The handler only takes notes and passes signals on. It never raises: whatever is being set up or
    tidied comes to its end.
    """

    def __init__(self, *, say: Callable[[str], None]) -> None:
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._early_signals: list[int] = []
        self._ended = False
        self._asked_to_stop = False
        self._asked_to_end = False

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Handle them; from the end on they are ignored, as only the exit status is still to come.

        Python's own end would give the default action back to a handler, but not to this.
        """
        for number in _SIGNALS:
            signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._ended:
            # Ends the waiting for what COMMAND left. Tidying up is quick, and is not left halfway.
            self._asked_to_stop = True
        elif self._process is None:
            self._early_signals.append(number)
        elif number != signal.SIGINT:  # From the terminal: COMMAND has got that too.
            self._pass_on(self._process, number)

    def _pass_on(self, process: "subprocess.Popen[bytes]", number: int) -> None:
        if number == signal.SIGINT:
            process.send_signal(number)
            return
        if number == signal.SIGQUIT:
            number = signal.SIGTERM
        process.send_signal(signal.SIGKILL if self._asked_to_end else number)
        self._asked_to_end = True

    def check_early_signals(self) -> None:
        """Raises Stopped where one came before COMMAND was started."""
        if self._early_signals:
            raise Stopped(self._early_signals[0])

    def asked_to_stop(self) -> bool:
        """Whether a signal came after COMMAND had ended."""
        return self._asked_to_stop

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Run COMMAND to its end: its exit status as a shell would have it.

        A signal that has come already keeps it from being started.
        """
        try:
            if self._early_signals:
                return 128 + self._early_signals[0]
            self._process = subprocess.Popen(command, env=environment)
            # They came while it was being started, when it may not have got them itself.
            for number in self._early_signals:
                self._pass_on(self._process, number)
            status = self._process.wait()
        except OSError as error:
            self._say(f"{command[0]}: {error.strerror}")
            if isinstance(error, FileNotFoundError) and os.environ.get("SUDO_USER"):
                self._say(
                    "sudo has a PATH of its own: give the command's whole path, or run this as root"
                )
            status = 127
        finally:
            self._ended = True
        return status if status >= 0 else 128 - status
