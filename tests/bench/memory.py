"""The memory of the plugin's processes while something runs: their PSS, so shared pages count once."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

_EVERY = 0.1


class Peak:
    """The largest sum over the processes seen at a time, and each program's largest process; in MiB."""

    def __init__(self) -> None:
        self.sum = 0.0
        self.programs: dict[str, float] = {}

    def look(self, pids: Iterable[int], program: str) -> None:
        total = 0.0
        for pid in pids:
            executable = _executable(pid)
            if program not in executable:
                continue
            size = _pss(pid)
            total += size
            name = os.path.basename(executable)
            self.programs[name] = max(size, self.programs.get(name, 0.0))
        self.sum = max(self.sum, total)

    @classmethod
    @contextmanager
    def watched(cls, pids: Callable[[], Iterable[int]], program: str) -> Iterator[Self]:
        """`pids` tells the processes to look at; those count whose executable's path has `program`."""
        peak = cls()
        over = threading.Event()

        def watch() -> None:
            while not over.wait(_EVERY):
                peak.look(pids(), program)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield peak
        finally:
            over.set()
            thread.join()


def _executable(pid: int) -> str:
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/exe")
    return ""


def _pss(pid: int) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0
