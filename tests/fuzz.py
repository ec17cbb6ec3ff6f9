"""What fuzzing tests share: a seed, mutated bytes and documents, and how many cases there were."""

import json
import string
from dataclasses import dataclass, field
from random import Random
from typing import Any

# Texts that have been trouble somewhere.
TEXTS = (
    *("", "\0", "\x1b[2J", "é", "\u202e", "../../etc", "-", "*", "true", "{{", "{{.Device}}"),
    *("{{user `a`}}", "{% x %}", "%s", "a\nb", "9" * 400, "x" * 5_000, "ami-00000001", "\ud800"),
)
NUMBERS = (0, -1, 1, 2**31, 2**63, 10**40, 0.5, 1e308, -0.0)


@dataclass
class Fuzz:
    """`factor` is how many times the usual number of cases is to be run."""

    seed: str
    factor: float = 1.0
    cases: int = 0
    random: Random = field(init=False)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)

    def rounds(self, count: int) -> range:
        """So many cases, counted."""
        count = max(1, round(count * self.factor))
        self.cases += count
        return range(count)

    def text(self) -> str:
        if self.random.random() < 0.5:
            return self.random.choice(TEXTS)
        letters = string.printable + "é\u3042\x00\x1b\u202e"
        return "".join(self.random.choices(letters, k=self.random.randrange(12)))

    def value(self, depth: int = 3) -> Any:
        """Any JSON value."""
        match self.random.randrange(8 if depth else 5):
            case 0:
                return None
            case 1:
                return self.random.random() < 0.5
            case 2:
                return self.random.choice(NUMBERS)
            case 3 | 4:
                return self.text()
            case 5:
                return [self.value(depth - 1) for _ in range(self.random.randrange(4))]
            case _:
                return {self.text(): self.value(depth - 1) for _ in range(self.random.randrange(4))}

    def document(self, document: Any) -> Any:
        """A copy with one thing somewhere in it changed, gone, doubled, or nested."""
        copy = json.loads(json.dumps(document))
        places = [*_places(copy)]
        if not places:
            return self.value()
        holder, key = self.random.choice(places)
        match self.random.randrange(6):
            case 0:
                del holder[key]
            case 1:
                holder[key] = [holder[key]]
            case 2 if isinstance(holder, list):
                holder.append(holder[key])
            case 3:
                holder[key] = {"Errors": holder[key]}
            case _:
                holder[key] = self.value()
        return copy

    def bytes(self, data: bytes) -> bytes:
        """Some of them changed, cut out, doubled or put in."""
        found = bytearray(data)
        for _ in range(self.random.randrange(1, 6)):
            at = self.random.randrange(len(found) + 1)
            match self.random.randrange(4):
                case 0:
                    found[at : at + 1] = self.random.randbytes(1)
                case 1:
                    del found[at : at + self.random.randrange(16)]
                case 2:
                    found[at:at] = self.random.randbytes(self.random.randrange(16))
                case _:
                    found[at:at] = found[at : at + 64]
        return bytes(found)

    def summary(self) -> str:
        return f"--seed={self.seed}: {self.cases} cases"


def _places(value: Any) -> Any:
    items: Any = ()
    if isinstance(value, dict):
        items = [*value.items()]
    elif isinstance(value, list):
        items = [*enumerate(value)]
    for key, inner in items:
        yield value, key
        yield from _places(inner)
