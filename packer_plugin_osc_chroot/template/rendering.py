"""The state of one rendering: its budget, its final texts, and the frames of its running templates."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from packer_plugin_osc_chroot.template.errors import (
    MAX_STEPS,
    STEP_TEXT,
    NeverRenders,
    TemplateError,
)
from packer_plugin_osc_chroot.template.scope import Call
from packer_plugin_osc_chroot.template.values import NO_VALUE, Value


class Budget:
    """How much may still be done for one text, over all of its passes."""

    def __init__(self) -> None:
        self._steps = MAX_STEPS

    def spend(self, steps: int = 1) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise NeverRenders(
                f"the template takes more than {MAX_STEPS} steps",
                hint="A range or a template that calls itself must end, and texts that double grow"
                " fast",
            )

    def spend_text(self, text: str) -> None:
        """What it costs to go through a text."""
        self.spend(len(text) // STEP_TEXT)


class Literals:
    """Final text on its way through the passes, each piece under a mark that no template has."""

    def __init__(self) -> None:
        self._nonce = secrets.token_hex(8)
        self._texts: list[str] = []

    def mark(self, text: str) -> str:
        self._texts.append(str(text))
        return f"\ue000{self._nonce}.{len(self._texts) - 1}\ue001"

    def restore(self, text: str) -> str:
        """The text with its marks replaced; what they stand for is not searched for marks."""
        if not self._texts:
            return text
        first, *rest = text.split(f"\ue000{self._nonce}.")
        parts = [first]
        for part in rest:
            number, _, tail = part.partition("\ue001")
            parts += (self._texts[int(number)], tail)
        return "".join(parts)


@dataclass
class Rendering:
    """One execution of a template: what its calls share."""

    call: Call
    budget: Budget
    literals: Literals
    templates: Mapping[str, str]
    missing: dict[str, None] = field(default_factory=dict)


@dataclass(slots=True)
class Cell:
    name: str
    value: Value


class Frame:
    """One invocation of one template: its variables, and the state of its loops.

    Go resolves variables on a stack at run time, which differs from lexical scoping where a
    declaration was skipped; so does this.
    """

    def __init__(self, rendering: Rendering, dot: Value) -> None:
        self.rendering = rendering
        self.held: Value = NO_VALUE
        self.kept: dict[int, Value] = {}
        self.jump = ""
        self.ran: dict[int, bool] = {}
        self._marks: dict[int, int] = {}
        self._cells: list[Cell] = []
        self._by_name: dict[str, list[Cell]] = {}
        self.declare("$", dot)

    def declare(self, name: str, value: Value) -> None:
        cell = Cell(name, value)
        self._cells.append(cell)
        self._by_name.setdefault(name, []).append(cell)

    def cell(self, name: str) -> Cell:
        cells = self._by_name.get(name)
        if not cells:
            raise TemplateError(f"undefined variable: {name}")
        return cells[-1]

    def top(self, distance: int) -> Cell:
        return self._cells[-distance]

    @property
    def height(self) -> int:
        return len(self._cells)

    def drop(self, height: int) -> None:
        while len(self._cells) > height:
            self._by_name[self._cells.pop().name].pop()

    def mark(self, block: int) -> None:
        self._marks[block] = len(self._cells)

    def release(self, block: int) -> None:
        self.drop(self._marks[block])
