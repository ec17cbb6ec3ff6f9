"""Keeps secrets out of what is shown: the log's filter and the Ui's wrapper share one replacement."""

import logging
import threading
from collections.abc import Iterable

from packer_plugin_osc_chroot.ui import Ui

REPLACEMENT = "<sensitive>"


class Redactor:
    """Replaces known secrets in texts. Thread-safe; secrets are only ever added."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._lock = threading.Lock()
        self._secrets: tuple[str, ...] = ()
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        with self._lock:
            known = {*self._secrets, *(secret for secret in secrets if secret)}
            # Longest first, so that a secret inside another leaves nothing readable of it.
            self._secrets = tuple(sorted(known, key=len, reverse=True))

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, REPLACEMENT)
        return text


class RedactingFormatter(logging.Formatter):
    """A log format whose whole output, tracebacks included, is redacted."""

    def __init__(self, fmt: str, redact: Redactor) -> None:
        super().__init__(fmt)
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(super().format(record))


class RedactingUi:
    """Passes everything on to another Ui, redacted."""

    def __init__(self, ui: Ui, redact: Redactor) -> None:
        self._ui = ui
        self._redact = redact

    def say(self, text: str) -> None:
        self._ui.say(self._redact(text))

    def message(self, text: str) -> None:
        self._ui.message(self._redact(text))

    def error(self, text: str) -> None:
        self._ui.error(self._redact(text))

    def machine(self, category: str, *args: str) -> None:
        self._ui.machine(category, *(self._redact(arg) for arg in args))

    def ask(self, query: str) -> str:
        return self._ui.ask(self._redact(query))
