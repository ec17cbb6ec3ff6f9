"""Figures: gathered over several runs, shown as a table, written as JSON, compared with others."""

import dataclasses
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Sample:
    """One run's value of a figure, and its lower bound then; 0 where there is none."""

    value: float
    bound: float = 0.0


@dataclasses.dataclass
class Figure:
    """`bound_name` says what the lower bound is, empty for a figure that has none."""

    name: str
    unit: str
    bound_name: str = ""
    samples: list[Sample] = dataclasses.field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(sample.value for sample in self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        values = [sample.value for sample in self.samples]
        return min(values), max(values)

    @property
    def bound(self) -> float:
        return statistics.median(sample.bound for sample in self.samples)

    @property
    def ratio(self) -> float:
        """The median of the runs' own ratios; 0 without a bound."""
        if not self.bound_name:
            return 0.0
        return statistics.median(sample.value / sample.bound for sample in self.samples)

    def document(self) -> dict[str, Any]:
        least, most = self.spread
        found: dict[str, Any] = {
            "unit": self.unit,
            "median": self.median,
            "least": least,
            "most": most,
            "values": [sample.value for sample in self.samples],
        }
        if self.bound_name:
            found |= {"bound": self.bound, "bound_name": self.bound_name, "ratio": self.ratio}
        return found


def table(figures: Sequence[Figure], base: Mapping[str, Any]) -> Iterator[str]:
    """Lines. `base` is the document of an earlier run, or empty."""
    rows = [["figure", "median", "least - most", "bound", "ratio", *(["before"] if base else [])]]
    earlier = base.get("figures", {})
    for figure in figures:
        least, most = figure.spread
        row = [
            figure.name,
            f"{_number(figure.median)} {figure.unit}".strip(),
            f"{_number(least)} - {_number(most)}",
            f"{_number(figure.bound)} {figure.bound_name}" if figure.bound_name else "",
            f"{figure.ratio:.2f}" if figure.bound_name else "",
        ]
        if base:
            before = earlier.get(figure.name)
            row.append(_compared(figure, before) if isinstance(before, dict) else "")
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _compared(figure: Figure, before: Mapping[str, Any]) -> str:
    median = float(before.get("median", 0.0))
    if not median:
        return _number(median)
    return f"{_number(median)} ({(figure.median / median - 1) * 100:+.0f} %)"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def write(file: Path, figures: Sequence[Figure], about: Mapping[str, Any]) -> None:
    document = {**about, "figures": {figure.name: figure.document() for figure in figures}}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=2) + "\n")


def read(file: Path) -> dict[str, Any]:
    """Raises OSError, and ValueError for what is no document of ours."""
    document = json.loads(file.read_text())
    if not isinstance(document, dict) or not isinstance(document.get("figures"), dict):
        raise ValueError(f"{file} is no file that `make bench` wrote")
    return document
