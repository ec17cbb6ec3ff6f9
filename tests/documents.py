"""The documents of this project, taken apart: their fenced blocks, commands, links and headings."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
# A file's name, as the comment that a block begins with.
_NAME = re.compile(r"(?:#|//) (\S+\.\w+|Jenkinsfile)\n")
_LINK = re.compile(r"\]\(([^()\s]+)\)|<(https?://[^>\s]+)>")


@dataclass(frozen=True)
class Block:
    """A fenced block; `line` is the one of its fence, counted from 1."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file_name(self) -> str:
        """The file that the block shows; empty where it names none."""
        named = _NAME.match(self.text)
        return named[1] if named else ""

    @property
    def commands(self) -> list[str]:
        """Of a `shell` block: each command line, as a shell sees it."""
        return [line for line in self.text.replace("\\\n", " ").splitlines() if line]


def text_of(page: Path) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: Path) -> Iterator[Block]:
    text = text_of(page)
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(page, line, found[2], textwrap.dedent(found[3]))


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", text_of(page))


def links(page: Path) -> list[str]:
    """The targets of links and pictures."""
    spanless = re.sub(r"`[^`\n]*`", "", prose(page))
    return [inline or bare for inline, bare in _LINK.findall(spanless)]


def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page may name, as GitHub makes it of the heading."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.strip().lower())
        found.add(words.replace(" ", "-"))
    return found
