"""What Prepare has to say: every error and warning, each with the path of the value it is about."""

import dataclasses
import re
from collections.abc import Iterator
from itertools import islice

_MAX_MESSAGE = 2_000
_STEP = re.compile(r"[.\[]")
# More steps than any option has; the rest of a path is a map's key.
_MAX_STEPS = 8


@dataclasses.dataclass
class Report:
    """Collects; a path is an option's name and what leads on from it: `tags.Name`, `mounts[1][2]`.

    Paths may be given with an option's own name; they are shown as the template has them.
    """

    errors: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    _failed: set[str] = dataclasses.field(default_factory=set)
    _written: dict[str, str] = dataclasses.field(default_factory=dict)

    def write_as(self, path: str, written: str) -> None:
        """The option at `path` is called by another name in the template."""
        self._written[path] = written

    def error(self, path: str, problem: str) -> None:
        self.errors.append(_bounded(f"{self._as_written(path)}: {problem}"))
        self.fail(path)

    def warn(self, path: str, problem: str) -> None:
        self.warnings.append(_bounded(f"{self._as_written(path)}: {problem}"))

    def fail(self, path: str) -> None:
        """Marks a path whose error has been given under another one."""
        self._failed.update(_upwards(self._as_written(path)))

    def has_failed(self, path: str) -> bool:
        """Whether the value there, or anything inside it, has an error."""
        return self._as_written(path) in self._failed

    def _as_written(self, path: str) -> str:
        for top in _upwards(path):
            if top in self._written:
                return self._written[top] + path.removeprefix(top)
        return path


def _bounded(message: str) -> str:
    """A message quotes what it is about, and that may have any length and any character."""
    message = message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]}…"
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in message)


def _upwards(path: str) -> Iterator[str]:
    """The path and those of what it is in, the nearest first."""
    yield path
    for step in reversed([*islice(_STEP.finditer(path), _MAX_STEPS)]):
        yield path[: step.start()]
