"""The points of a build at which something may happen to it: before, while and after each thing that
it does to the world (calls of the API, commands, operations on files, lines of the journal)."""

import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar
from unittest import mock

from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.host import chroot, commands, process, rootfs
from packer_plugin_osc_chroot.journal import journal

T = TypeVar("T")

When = Literal["before", "while", "after"]
WHENS: tuple[When, ...] = ("before", "while", "after")
# Seconds into a thing that "while" strikes. A shell's commands take longer than what else there is.
_INTO = 0.003
_INTO_SHELL = 0.05


class Chaos:
    """What is drawn from a seed, and how builds ended under it."""

    def __init__(self, *, seed: str, share: float, first: int = 1, of: int = 1) -> None:
        self.share = share
        self.first = first
        self.of = of
        self.random = random.Random(seed)
        self.ends: Counter[str] = Counter()
        self.possible = 0

    def draw(self, all_of_them: Sequence[T], *, sample: int) -> list[T]:
        """Some of them, in their order: the share that was asked for (of it, this run's slice), else a
        sample."""
        self.possible += len(all_of_them)
        count = round(len(all_of_them) * self.share) if self.share else sample
        drawn = self.random.sample(range(len(all_of_them)), min(count, len(all_of_them)))
        return [all_of_them[index] for index in sorted(drawn)][self.first - 1 :: self.of]

    def summary(self) -> str:
        ends = ", ".join(f"{count} {end}" for end, count in sorted(self.ends.items()))
        return f"{sum(self.ends.values())} of {self.possible} injections: {ends}; leaks: none"


class Points:
    """Numbers the things from 1, and calls `strike` with the name of the nth. Once only.

    Instead of a number it takes the beginning of a name: the first that has it is struck.
    """

    def __init__(self, at: int | str, when: When, strike: Callable[[str], None]) -> None:
        self.names: list[str] = []
        self.struck = ""
        self._at = at
        self._when = when
        self._strike = strike
        self._count = itertools.count(1)
        self._lock = threading.Lock()

    @contextmanager
    def point(self, name: str) -> Iterator[None]:
        with self._lock:
            number = next(self._count)
            self.names.append(name)
        hit = not self.struck and self._is_hit(number, name)
        if hit and self._when == "before":
            self._hit(name)
        if hit and self._when == "while":
            into = _INTO_SHELL if name.startswith("command /bin/sh") else _INTO
            threading.Timer(into, self._hit, [name]).start()
        yield
        if hit and self._when == "after":
            self._hit(name)

    def _is_hit(self, number: int, name: str) -> bool:
        return name.startswith(self._at) if isinstance(self._at, str) else number == self._at

    def _hit(self, name: str) -> None:
        self.struck = name
        self._strike(name)

    @contextmanager
    def installed(self) -> Iterator["Points"]:
        """Around a build in this process."""
        once, run, append = Cloud._once, process.run_process, journal.append
        call = rootfs.LocalFiles.call

        def traced_once(cloud: Cloud, action: str, body: Mapping[str, Any]) -> Any:
            with self.point(f"{'trial' if body.get('DryRun') else 'call'} {action}"):
                return once(cloud, action, body)

        def traced_run(argv: Any, **arguments: Any) -> int:
            with self.point(f"command {' '.join(argv)[:60]}"):
                return run(argv, **arguments)

        def traced_call(files: Any, name: str, *given: Any, **more: Any) -> Any:
            with self.point(f"files {name}"):
                return call(files, name, *given, **more)

        def traced_append(file: int, event: Mapping[str, Any], *, sync: bool) -> None:
            with self.point(f"journal {event['event']}"):
                append(file, event, sync=sync)

        with (
            mock.patch.object(Cloud, "_once", traced_once),
            mock.patch.object(commands, "run_process", traced_run),
            mock.patch.object(chroot, "run_process", traced_run),
            mock.patch.object(rootfs.LocalFiles, "call", traced_call),
            mock.patch.object(journal, "append", traced_append),
        ):
            yield self


def kill(name: str) -> None:
    """The end of this process, right now; says where."""
    os.write(1, f"struck {name}\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
