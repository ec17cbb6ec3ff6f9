"""What one check found, as one line for people and one object for programs."""

from dataclasses import dataclass
from enum import StrEnum

from packer_plugin_osc_chroot.errors import BuildError


class State(StrEnum):
    """How a check ended. Only a problem would stop a build that leaves the options at their default."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    # Something else has to be mended first.
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """`message` is what was found, `hint` what to do about it; empty where there is nothing to do."""

    check: str
    state: State
    message: str
    hint: str = ""

    def line(self) -> str:
        text = f"{self.message.rstrip('.')}. {self.hint}" if self.hint else self.message
        return f"{self.state:<8} {self.check}: {' '.join(text.split())}"


def ok(check: str, message: str) -> Finding:
    return Finding(check, State.OK, message)


def warning(check: str, message: str, hint: str) -> Finding:
    return Finding(check, State.WARNING, message, hint)


def problem(check: str, message: str, hint: str) -> Finding:
    return Finding(check, State.PROBLEM, message, hint)


def unknown(check: str, message: str) -> Finding:
    return Finding(check, State.UNKNOWN, message)


def failed(check: str, error: BuildError) -> Finding:
    """The problem that an error of the build's own code describes."""
    return Finding(check, State.PROBLEM, error.message, error.hint)
