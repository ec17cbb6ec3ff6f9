"""What the functions of templates can see, and how a function declares itself to the compiler."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any

from packer_plugin_osc_chroot.template.values import Value


@dataclass(frozen=True)
class Scope:
    """What a template's functions can see besides its data; empty text means "not available".

    `user_variables` None means that there are none at all (HCL2): calling `user` is an error.
    `started_at` is the start of the plugin's process, in UTC.
    """

    build_name: str = ""
    build_type: str = ""
    template_path: str = ""
    packer_version: str = ""
    user_variables: Mapping[str, str] | None = None
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Call:
    """What one call of a function gets besides its arguments: the scope, and the main data."""

    scope: Scope
    data: Value


class Parameter(Enum):
    """The type of a function's parameter, as Go declares it."""

    STRING = auto()
    INT = auto()
    ANY = auto()
    """interface{}, or reflect.Value: takes everything, nil too."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function of templates: its parameters in order, then any number of `variadic` ones."""

    name: str
    parameters: tuple[Parameter, ...]
    variadic: Parameter | None
    implementation: Callable[..., Any]

    def parameter(self, index: int) -> Parameter | None:
        if index < len(self.parameters):
            return self.parameters[index]
        return self.variadic

    def wrong_count(self, count: int) -> str:
        """What is wrong with so many arguments; empty when nothing is."""
        least = len(self.parameters)
        if count < least or (count > least and self.variadic is None):
            more = "at least " if self.variadic is not None else ""
            return f"wrong number of args for {self.name}: want {more}{least} got {count}"
        return ""
