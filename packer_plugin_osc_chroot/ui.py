"""What the build says: one protocol, and the forms that need no Packer.

The stream to Packer is made in `service/stream.py`; secrets are removed on the way, in `redaction.py`.
"""

import logging
from collections.abc import Iterable
from typing import Protocol

from packer_plugin_osc_chroot.errors import BuildError


def printable(text: str) -> str:
    """Text of others on one line of a screen: what could move its cursor or colour it becomes "?"."""
    return "".join(char if char.isprintable() else "?" for char in text)


class Ui(Protocol):
    """The user's screen. Each text may have several lines."""

    def say(self, text: str) -> None:
        """A headline of the story ("==> …")."""

    def message(self, text: str) -> None:
        """A detail below the last headline."""

    def error(self, text: str) -> None:
        """Something that went wrong, before the build's one final error."""

    def machine(self, category: str, *args: str) -> None:
        """A line for `packer -machine-readable`."""

    def ask(self, query: str) -> str:
        """Ask the user. Raises BuildError where nobody can answer."""


class LogUi:
    """For what has no screen: a data source. Nobody is there to answer."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log

    def say(self, text: str) -> None:
        self._log.info("%s", text)

    def message(self, text: str) -> None:
        self._log.info("%s", text)

    def error(self, text: str) -> None:
        self._log.error("%s", text)

    def machine(self, category: str, *args: str) -> None:
        self._log.info("%s", ",".join((category, *args)))

    def ask(self, query: str) -> str:
        raise BuildError(f"{query}: there is nobody to ask")


class RecordingUi:
    """Keeps what was said, as (kind, text) pairs; answers questions from `answers`."""

    def __init__(self, answers: Iterable[str] = ()) -> None:
        self.said: list[tuple[str, str]] = []
        self._answers = iter(answers)

    def say(self, text: str) -> None:
        self.said.append(("say", text))

    def message(self, text: str) -> None:
        self.said.append(("message", text))

    def error(self, text: str) -> None:
        self.said.append(("error", text))

    def machine(self, category: str, *args: str) -> None:
        self.said.append(("machine", ",".join((category, *args))))

    def ask(self, query: str) -> str:
        self.said.append(("ask", query))
        return next(self._answers)

    @property
    def text(self) -> str:
        return "\n".join(text for _, text in self.said)
