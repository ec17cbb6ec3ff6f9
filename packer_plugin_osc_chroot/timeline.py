"""A timeline of builds as an SVG, for users who name a file: one row a build, what it waited for and
what it worked on in colours of their own.

The builds of one packer are processes of their own and share the file: each adds its row when it ends,
whichever way it does. What an earlier packer left in the file is replaced.
"""

import dataclasses
import errno
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

from packer_plugin_osc_chroot.cloud.private_files import lock_private
from packer_plugin_osc_chroot.phases import Timing
from packer_plugin_osc_chroot.ui import Ui

VARIABLE = "OSC_CHROOT_TIMELINE"

# The phases in which the cloud works and the build waits; what it runs for the user; the rest is ours.
WAITS = frozenset(
    {"create volume", "link volume", "unlink volume", "wait for snapshot", "wait for OMI"}
)
USERS = frozenset({"provision", "pre_mount_commands", "post_mount_commands"})
_COLOURS = {"wait": "#c9d3df", "provision": "#5b9f6b", "work": "#d9822b"}
_LEGEND = {
    "wait": "waits for OUTSCALE",
    "provision": "your commands",
    "work": "the plugin's own work",
}

# In pixels.
_WIDTH = 1000
_NAMES = 170
_ROW = 44
_BAR = 20
_TOP = 40
_CHARACTER = 6.5
# What of a label has room, in characters.
_LABEL = 26
# Another build adds its row in a moment, unless it was stopped: no build ends later for that.
_LOCK_SECONDS = 5.0
# No file of ours is larger, in characters.
_LARGEST = 16 << 20
# Files of ours begin like this; all that they were made from is in the comment.
_DATA = re.compile(r"<!-- osc-chroot (\{.*\}) -->")


@dataclasses.dataclass(frozen=True)
class Row:
    """One build. Times are of the kernel's monotonic clock, in seconds."""

    name: str
    omi_name: str
    timings: Sequence[Timing]


@contextmanager
def timeline(
    environ: Mapping[str, str], name: str, omi_name: str, *, ui: Ui
) -> Iterator[list[Timing]]:
    """The timings of the build in the block; written at its end where a file is asked for.

    A file that cannot be written is said, and no failure.
    """
    timings: list[Timing] = []
    try:
        yield timings
    finally:
        if path := environ.get(VARIABLE):
            try:
                _add(
                    Path(path),
                    Row(name, omi_name, timings),
                    run=environ.get("PACKER_RUN_UUID", ""),
                )
            except OSError as error:
                ui.error(f"{VARIABLE}: {path} cannot be written: {error.strerror or error}")


def _add(path: Path, row: Row, *, run: str) -> None:
    """Add a row to what other builds of the same packer have written."""
    with open(path, "a+", encoding="utf-8", errors="replace") as file:
        # A device may have no end.
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        if not lock_private(file.fileno(), seconds=_LOCK_SECONDS):
            raise OSError(errno.EAGAIN, "another process has it locked")
        file.seek(0)
        rows = [*_rows(file.read(_LARGEST), run=run), row]
        file.truncate(0)
        file.write(draw(rows, run=run))


def _rows(text: str, *, run: str) -> list[Row]:
    """Those of the same packer; none for a file that is another one's, or not ours."""
    found = _DATA.search(text)
    if found is None or not run:
        return []
    try:
        document: Any = json.loads(found[1])
        if document["run"] != run:
            return []
        return [
            Row(
                str(row["name"]),
                str(row["omi_name"]),
                [Timing(**timing) for timing in row["timings"]],
            )
            for row in document["rows"]
        ]
    except (ValueError, TypeError, KeyError, RecursionError):
        return []


def draw(rows: Sequence[Row], *, run: str = "") -> str:
    """The SVG."""
    all_timings = [timing for row in rows for timing in row.timings]
    begin = min((timing.begun for timing in all_timings), default=0.0)
    end = max((timing.begun + timing.seconds for timing in all_timings), default=begin)
    scale = (_WIDTH - _NAMES - 20) / max(end - begin, 0.001)
    height = _TOP + _ROW * len(rows) + 30
    data = {"run": run, "rows": [dataclasses.asdict(row) for row in rows]}
    # A comment must not hold two dashes; JSON has another way to write one.
    comment = json.dumps(data).replace("--", "-\\u002d").replace("->", "-\\u003e")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}"'
        ' font-family="sans-serif" font-size="11">',
        f"<!-- osc-chroot {comment} -->",
        '<rect width="100%" height="100%" fill="white"/>',
        *_legend(),
        *_axis(end - begin, scale, height),
    ]
    names = Counter(row.name for row in rows)
    for number, row in enumerate(rows):
        # Several sources may share a name: Packer tells a plugin the one of the source block.
        label = row.name if names[row.name] == 1 else f"{row.name}: {row.omi_name}"
        parts += _row(row, label, _TOP + _ROW * number, begin=begin, scale=scale)
    return "\n".join([*parts, "</svg>", ""])


def _legend() -> Iterator[str]:
    x = _NAMES
    for kind, text in _LEGEND.items():
        yield f'<rect x="{x}" y="10" width="12" height="12" fill="{_COLOURS[kind]}"/>'
        yield f'<text x="{x + 17}" y="20">{text}</text>'
        x += 180


def _axis(seconds: float, scale: float, height: int) -> Iterator[str]:
    """A line at each of about ten round numbers of seconds."""
    step = next(
        (step for step in (0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 600, 1800) if seconds / step <= 12),
        3600,
    )
    for number in range(int(seconds / step) + 1):
        x = _NAMES + number * step * scale
        yield f'<path d="M{x:.1f} {_TOP - 8}V{height - 24}" stroke="#e6e6e6"/>'
        yield (
            f'<text x="{x:.1f}" y="{height - 10}" text-anchor="middle" fill="#777">'
            f"{number * step:g} s</text>"
        )


def _row(row: Row, label: str, top: float, *, begin: float, scale: float) -> Iterator[str]:
    """Phases one after the other in the upper bar, what ran beside them in the lower one."""
    shown = label if len(label) <= _LABEL else f"{label[: _LABEL - 1]}…"
    yield (f'<text x="8" y="{top + _BAR - 6}">{escape(shown)}<title>{escape(label)}</title></text>')
    for timing in row.timings:
        x = _NAMES + (timing.begun - begin) * scale
        width = max(timing.seconds * scale, 0.5)
        y, bar = (top + _BAR + 1, _BAR / 2) if timing.beside else (top, _BAR)
        said = escape(f"{timing.name}: {timing.seconds:.2f} s")
        yield (
            f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{bar:g}" rx="1"'
            f' fill="{_COLOURS[_kind(timing.name)]}"><title>{said}</title></rect>'
        )
        if len(timing.name) * _CHARACTER < width and not timing.beside:
            yield f'<text x="{x + 4:.1f}" y="{y + _BAR - 6}">{escape(timing.name)}</text>'


def _kind(name: str) -> str:
    if name in WAITS:
        return "wait"
    return "provision" if name in USERS else "work"
