"""How long each kind of wait took before on this VM, kept between builds and shared by them.

A few times for each kind and endpoint. Builds that write at the same time lose one another's, which is
no matter.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from packer_plugin_osc_chroot.cloud.private_files import read_private, replace_private

_FILE = "wait-times.json"
_LONGEST = 86400.0
# So many times of each kind are kept, the latest; and so many kinds.
_TIMES = 8
_KINDS = 64


class WaitTimes:
    """Thread-safe. Without a directory they are those of this process."""

    def __init__(self, directory: Path | None = None, *, endpoint: str = "") -> None:
        self._path = directory / _FILE if directory else None
        self._endpoint = endpoint
        self._known: dict[str, list[float]] = {}
        self._lock = threading.Lock()

    def of(self, kind: str) -> list[float]:
        """In seconds, the latest last; empty for a kind that is not known."""
        with self._lock:
            self._read()
            return list(self._known.get(self._key(kind), ()))

    def add(self, kind: str, seconds: float) -> None:
        with self._changed():
            times = [*self._known.pop(self._key(kind), []), round(seconds, 3)]
            # At the end: what was not used for longest is dropped first.
            self._known[self._key(kind)] = times[-_TIMES:]
            while len(self._known) > _KINDS:
                del self._known[next(iter(self._known))]

    def forget(self, kind: str) -> None:
        """What was learnt of it is not so any more."""
        with self._changed():
            self._known.pop(self._key(kind), None)

    @contextmanager
    def _changed(self) -> Iterator[None]:
        with self._lock:
            self._read()
            yield
            if self._path is not None:
                replace_private(self._path, json.dumps(self._known).encode())

    def _key(self, kind: str) -> str:
        return f"{kind} {self._endpoint}"

    def _read(self) -> None:
        if self._path is not None and (data := read_private(self._path)):
            self._known = _parse(data)


def _parse(data: bytes) -> dict[str, list[float]]:
    """What of it makes sense."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    found = {key: _times(value) for key, value in list(document.items())[-_KINDS:]}
    return {key: times for key, times in found.items() if times}


def _times(value: Any) -> list[float]:
    if not isinstance(value, list):
        return []
    numbers = [each for each in value[-_TIMES:] if isinstance(each, int | float)]
    # This is false for NaN too.
    return [float(each) for each in numbers if 0 <= each <= _LONGEST]
