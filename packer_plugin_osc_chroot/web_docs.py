"""Makes `.web-docs`, what Packer's integrations page shows, from the pages in `docs/`.

That site has a page of the plugin and one of each component, and none of the guides: what a page has to
include is written into it, and links to what is not there lead to the repository.
"""

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from packer_plugin_osc_chroot.options.config import BUILDER_KIND, COMPONENT_NAME
from packer_plugin_osc_chroot.options.data_sources import DATA_SOURCE_KIND
from packer_plugin_osc_chroot.version import OWNER

_REPOSITORY = f"{OWNER}/packer-plugin-osc-chroot"
_FILES = f"https://github.com/{_REPOSITORY}/blob/main"
_RAW_FILES = f"https://raw.githubusercontent.com/{_REPOSITORY}/main"
_SITE = f"/packer/integrations/{OWNER}/osc-chroot"

_OVERVIEW = "docs/README.md"
# Each kind of component: what the site calls it, and where its pages are.
_KINDS = {
    BUILDER_KIND: ("builder", "docs/builders/{slug}.md"),
    DATA_SOURCE_KIND: ("data-source", "docs/data-source-{slug}.md"),
}

# With the note below it that says what made the page.
_TITLE = re.compile(r"\A# .+\n+(?:<!-- .+ -->\n+)?")
_INCLUDE = re.compile(r"^<!-- include (\S+) -->$", re.MULTILINE)
_FENCED = re.compile(r"^( *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#+ )", re.MULTILINE)
_LINK = re.compile(r"(!?)(\[[^\]]*\])\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")

Json = Mapping[str, Any]


def web_docs(components: Iterable[Json], read: Callable[[str], str]) -> dict[str, str]:
    """The files below the checkout, by path. `read` gives the text of a page of `docs/`."""
    places = {_OVERVIEW: _SITE}
    pages = {_OVERVIEW: ".web-docs/README.md"}
    blocks = []
    for component in components:
        name = component["name"]
        kind, slug, page = (
            _KINDS[component["kind"]][0],
            _slug(name),
            page_of(component["kind"], name),
        )
        places[page] = f"{_SITE}/latest/components/{kind}/{slug}"
        pages[page] = f".web-docs/components/{kind}/{slug}/README.md"
        blocks.append(_block("component", type=kind, name=name, slug=slug))
    made = {target: _web_page(page, places, read) for page, target in pages.items()}
    return {**made, ".web-docs/metadata.hcl": _metadata(blocks)}


def page_of(kind: str, name: str) -> str:
    """Where a component's page is, below the checkout."""
    return _KINDS[kind][1].format(slug=_slug(name))


def _slug(name: str) -> str:
    return name.removeprefix(f"{COMPONENT_NAME}-")


def _web_page(page: str, places: Mapping[str, str], read: Callable[[str], str]) -> str:
    def included(found: re.Match[str]) -> str:
        other = _resolved(page, found[1])
        body = _outside_fences(_body(other, places, read), lambda text: _HEADING.sub(r"#\1", text))
        return body.rstrip("\n")

    return _INCLUDE.sub(included, _body(page, places, read))


def _body(page: str, places: Mapping[str, str], read: Callable[[str], str]) -> str:
    """A page without its title, which the site gives it, its links leading where they do there."""

    def moved(found: re.Match[str]) -> str:
        mark, text, target, anchor = found.groups(default="")
        path = _resolved(page, target)
        place = places.get(path) or f"{_RAW_FILES if mark else _FILES}/{path}"
        return f"{mark}{text}({place}{anchor})"

    return _outside_fences(_TITLE.sub("", read(page)), lambda text: _LINK.sub(moved, text))


def _outside_fences(text: str, change: Callable[[str], str]) -> str:
    parts = _FENCED.split(text)
    return "".join(part if i % 2 else change(part) for i, part in enumerate(parts))


def _resolved(page: str, target: str) -> str:
    return posixpath.normpath(str(PurePosixPath(page).parent / target))


def _metadata(components: Iterable[str]) -> str:
    """What the integrations page is told of the plugin."""
    inside = [
        '  name = "OUTSCALE chroot"\n'
        '  description = "Make OUTSCALE machine images in a chroot, without starting a VM."\n'
        f'  identifier = "packer/{OWNER}/osc-chroot"\n',
        _block(
            "docs",
            process_docs=True,
            readme_location="./README.md",
            external_url=f"https://github.com/{_REPOSITORY}",
        ),
        _block("license", type="MPL-2.0", url=f"{_FILES}/LICENSE"),
        *components,
    ]
    return f"integration {{\n{''.join(inside)}}}\n"


def _block(kind: str, **attributes: str | bool) -> str:
    # Strings and booleans are written in HCL as in JSON.
    lines = [f"    {name} = {json.dumps(value)}\n" for name, value in attributes.items()]
    return f"  {kind} {{\n{''.join(lines)}  }}\n"
