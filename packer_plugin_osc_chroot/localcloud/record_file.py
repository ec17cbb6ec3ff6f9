"""The file of `--record`: a line of JSON for each call.

Where it cannot be written any more (a full disk), the Region goes on without it: that is told once,
and the file keeps the whole lines up to there, so that no part of the record is missing in between.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from packer_plugin_osc_chroot.localcloud.openapi import Json


class RecordFile:
    """Replaces `file`, until it is closed. Raises OSError where it cannot be opened."""

    def __init__(self, file: Path, *, tell: Callable[[str], None]) -> None:
        self._file = file
        self._tell = tell
        self._stream = open(file, "wb", buffering=0)
        # Bytes of whole lines.
        self._length = 0
        self._is_complete = True

    def close(self) -> None:
        self._stream.close()

    def write(self, line: Json) -> None:
        if not self._is_complete:
            return
        data = json.dumps(line).encode() + b"\n"
        left = memoryview(data)
        try:
            while left:
                left = left[self._stream.write(left) :]
        except OSError as error:
            self._is_complete = False
            with suppress(OSError):
                os.ftruncate(self._stream.fileno(), self._length)
            self._tell(f"--record {self._file}: {error.strerror}: later calls are not in it")
        else:
            self._length += len(data)
