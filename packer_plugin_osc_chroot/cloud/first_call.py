"""What the builds on a VM tell each other of their keys: many with wrong ones send one wrong signature.

Four in a row lock an access key for a minute (user guide), and one template may have more builds than
that. So the first call goes alone, and the others learn from its answer. Like all that builds tell
each other it is a hint: a build that cannot have it goes on without.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from packer_plugin_osc_chroot.cloud.credentials import Credentials
from packer_plugin_osc_chroot.cloud.private_files import (
    lock_private,
    open_private,
    read_private,
    replace_private,
)
from packer_plugin_osc_chroot.cloud.standing import not_sent
from packer_plugin_osc_chroot.errors import CloudError

_FILE = "first-calls.json"
_LOCK = "first-calls.lock"
# Seconds that an answer counts for others. A clock that is set right after a refusal is soon seen.
_GOOD_SECONDS, _REFUSED_SECONDS = 60.0, 10.0
# Seconds that another build's first call is waited for.
_WAIT_SECONDS = 3.0
# So many pairs of keys are known, the latest.
_KEYS = 16


class FirstCalls:
    """Thread-safe. Without a directory nobody tells and nobody is told."""

    def __init__(self, directory: Path | None, credentials: Credentials, *, endpoint: str) -> None:
        self._directory = directory
        # Enough to tell pairs of keys apart, and nothing to find them by.
        pair = f"{endpoint} {credentials.access_key} {credentials.secret_key}"
        self._keys = hashlib.sha256(pair.encode()).hexdigest()[:16]
        self._good = directory is None

    @contextmanager
    def turn(self, action: str) -> Iterator[None]:
        """Around a call. Raises CloudError where another build with these keys was just refused it."""
        if not self._good:
            with self._alone():
                known = self._known().get(self._keys, {})
                if "action" in known or _age(known) >= _GOOD_SECONDS:
                    _check_refused(action, known)
                    with self._told(action):
                        yield
                    return
            self._good = True
        yield

    @contextmanager
    def _told(self, action: str) -> Iterator[None]:
        """Tell the others how this call ends."""
        try:
            yield
        except CloudError as error:
            if error.status in (401, 403):
                self._tell(
                    action=action,
                    message=error.message,
                    status=error.status,
                    codes=error.codes,
                    types=error.types,
                    hint=error.hint,
                )
            raise
        self._good = True
        self._tell()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """With the lock, or without it where it cannot be had in time."""
        assert self._directory is not None
        opened = open_private(self._directory / _LOCK, create=True)
        try:
            if opened is not None:
                lock_private(opened, seconds=_WAIT_SECONDS)
            yield
        finally:
            if opened is not None:
                os.close(opened)

    def _tell(self, **answer: Any) -> None:
        assert self._directory is not None
        known = self._known()
        known.pop(self._keys, None)
        kept = dict([*known.items()][1 - _KEYS :])
        kept[self._keys] = {"at": time.time(), **answer}
        replace_private(self._directory / _FILE, json.dumps(kept).encode())

    def _known(self) -> dict[str, Mapping[str, Any]]:
        """What of the file makes sense."""
        assert self._directory is not None
        try:
            document = json.loads(read_private(self._directory / _FILE) or b"{}")
        except (ValueError, RecursionError):
            return {}
        if not isinstance(document, dict):
            return {}
        return {key: value for key, value in document.items() if isinstance(value, dict)}


def _age(known: Mapping[str, Any]) -> float:
    """In seconds; infinite for what has no time, or one to come."""
    at = known.get("at")
    # The largest numbers of JSON are no floats.
    age = time.time() - at if isinstance(at, int | float) and abs(at) < 1e12 else -1.0
    return age if age >= 0 else float("inf")


def _check_refused(action: str, known: Mapping[str, Any]) -> None:
    # Another action may be permitted where this one is not.
    if known.get("action") != action or _age(known) > _REFUSED_SECONDS:
        return
    refused = CloudError(
        str(known.get("message", "")),
        action=action,
        status=401 if known.get("status") != 403 else 403,
        codes=_texts(known.get("codes")),
        types=_texts(known.get("types")),
        hint=str(known.get("hint", "")),
    )
    raise not_sent(action, refused, "these credentials were just refused to another build")


def _texts(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []
