"""Writes what is generated from the options tables and the list of commands: the components file that
the shim embeds, and the reference pages. From those and the other pages of `docs/` comes `.web-docs`.

`python -m packer_plugin_osc_chroot.generate ROOT` (see `make generate`).
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packer_plugin_osc_chroot import commands
from packer_plugin_osc_chroot.options.config import BUILDER_KIND, COMPONENT_NAME, Config
from packer_plugin_osc_chroot.options.data_sources import (
    DATA_SOURCE_KIND,
    DATA_SOURCES,
    OMI,
    DataSource,
)
from packer_plugin_osc_chroot.options.declaration import Kind, Option, options_of
from packer_plugin_osc_chroot.options.duration import format_duration
from packer_plugin_osc_chroot.options.filters import (
    API_FILTERS,
    TAG_PREFIX,
    TAGS,
    ApiFilter,
    Shape,
)
from packer_plugin_osc_chroot.options.prepare import GENERATED_DATA
from packer_plugin_osc_chroot.version import VERSION
from packer_plugin_osc_chroot.web_docs import page_of, web_docs

COMPONENTS = "shim/internal/components/components.json"
REFERENCE = "docs/builder-reference.md"
# Where the pages are that are not generated.
_CHECKOUT = Path(__file__).resolve().parent.parent


def components() -> Mapping[str, Any]:
    """The plugin's version, commands and help, and its components: kind, name, config spec and output
    spec (cty's JSON types).

    Every attribute is optional there: what is required is Prepare's to say, with everything else
    that is wrong, and for legacy JSON templates too.
    """
    builder = {
        "kind": BUILDER_KIND,
        "name": COMPONENT_NAME,
        "config": _spec(Config),
        "output": {"attributes": {}, "blocks": {}},
    }
    return {
        "version": VERSION,
        "commands": [command.name for command in commands.COMMANDS],
        "help": commands.parser().format_help(),
        "components": [builder, *map(_data_source, DATA_SOURCES.values())],
    }


def _data_source(source: DataSource) -> dict[str, Any]:
    return {
        "kind": DATA_SOURCE_KIND,
        "name": source.name,
        "config": _spec(source.options),
        "output": _spec(source.outputs),
    }


def _spec(table: type) -> dict[str, Any]:
    """The inside of a block, every spelling of its options included."""
    attributes: dict[str, Any] = {}
    blocks: dict[str, Any] = {}
    for row in options_of(table):
        for spelling in row.spellings:
            if spelling.table is None:
                attributes[spelling.name] = {"type": spelling.kind.cty, "required": False}
            else:
                nesting = "single" if spelling.kind is Kind.BLOCK else "list"
                blocks[spelling.name] = {"nesting": nesting, **_spec(spelling.table)}
    return {"attributes": attributes, "blocks": blocks}


def reference() -> str:
    """The reference page of the builder's options (Markdown)."""
    lines = [
        *_head("Options of the builder `osc-chroot`", "config.py"),
        "An option that is `null`, an empty string or `0` is not set, as with Packer's own builders; so"
        " is a tag or a filter that is `null`. Where a tag or a filter is given twice, in the map or as"
        " blocks, the last one counts, with a warning.",
        "",
        *_options(Config),
        "## Filters of `source_omi_filter`",
        "",
        *_filters(),
        "",
        "## Build data",
        "",
        "Provisioners and post-processors see, as `build.NAME` in HCL2 and ``{{build `NAME`}}`` in"
        " JSON:",
        "",
        *(f"- `{name}` - {doc}" for name, doc in GENERATED_DATA.items()),
        "",
        "Of Packer's own names, `ID` is the id of the volume that is built on.",
        "",
    ]
    return "\n".join(lines)


def data_source_reference(source: DataSource) -> str:
    """The reference page of a data source (Markdown)."""
    lines = [
        *_head(f"The data source `{source.name}`", "data_sources.py"),
        source.summary,
        "",
        "```hcl",
        *source.example.splitlines(),
        "```",
        "",
        "It runs where packer does, as any user, on an OUTSCALE VM or elsewhere (not on Windows). Its"
        f" credentials must be allowed to call {source.actions}. `packer validate` checks its options,"
        " and asks the API only with `-evaluate-datasources`.",
        "",
        *_options(source.options),
        "## Output",
        "",
        *(_entry(row, {}) for row in options_of(source.outputs)),
        "",
    ]
    if any(row.kind is not Kind.STRING for row in options_of(source.outputs)):
        lines += [
            "Where `packer validate` does not ask the API, Packer takes numbers for 0, and lists and"
            " maps for empty ones: an option that must have one is then found missing. With"
            " `-evaluate-datasources` it is not.",
            "",
        ]
    if source is OMI:
        lines += ["## Filters", "", *_filters(), ""]
    return "\n".join(lines)


def _head(title: str, module: str) -> list[str]:
    return [
        f"# {title}",
        "",
        f"<!-- Made from packer_plugin_osc_chroot/options/{module} by `make generate`. -->",
        "",
        f"Version {VERSION}.",
        "",
    ]


def _options(table: type) -> list[str]:
    rows = options_of(table)
    shown: dict[type, str] = {}
    return [
        "## Required",
        "",
        *([_entry(row, shown) for row in rows if row.required] or ["Nothing."]),
        "",
        "## Optional",
        "",
        *(_entry(row, shown) for row in rows if not row.required),
        "",
    ]


def _filters() -> list[str]:
    return [
        "| API | other names | values |",
        "| --- | --- | --- |",
        *(_filter_row(each) for each in API_FILTERS),
    ]


def _filter_row(each: ApiFilter) -> str:
    values = [f"`{value}`" for value in each.choices]
    values += [f"`{older}` stands for `{today}`" for older, today in each.renamed.items()]
    if each.shape is not Shape.STRINGS:
        values = [each.shape.value]
    names = [f"`{name}`" for name in each.older]
    if each is TAGS:
        names.append(f"`{TAG_PREFIX}KEY` for the value of one tag")
    cells = (f"`{each.name}`", ", ".join(names), ", ".join(values))
    return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|"


def _entry(row: Option, shown: dict[type, str], indent: str = "") -> str:
    """One row, and below it what is inside its block. `shown`: which option has shown a table."""
    text = f"{indent}- `{row.name}` ({row.kind.value}) - {row.doc}"
    if row.required and indent:
        # Those outside of blocks have a section of their own.
        text += " Required."
    if row.kind is Kind.DURATION:
        text += f" Default: `{format_duration(row.default)}`."
    elif row.default_text:
        text += f" Default: {row.default_text}."
    elif row.default not in (None, "", 0, (), {}):
        text += f" Default: `{row.default}`."
    if row.late:
        fields = ", ".join(f"`{{{{.{name}}}}}`" for name in row.fields)
        text += f" Rendered during the build, with {fields}."
    if row.single:
        text += f" `{row.single}` (a string) gives one."
    if row.pair:
        key, value = (pair.name for pair in options_of(row.pair))
        text += f" Also as blocks: `{row.block} {{ {key} = …, {value} = … }}`."
    if row.older:
        older = ", ".join(f"`{name}`" for name in row.older)
        text += f" Older spelling: {older}."
    if row.table is None:
        return text
    if first := shown.get(row.table):
        return f"{text} Each as in `{first}`."
    shown[row.table] = row.name
    inside = (_entry(inner, shown, indent + "  ") for inner in options_of(row.table))
    return "\n".join((text, *inside))


def generated() -> dict[str, str]:
    """The text of each generated file, by its path in the checkout."""
    described = components()
    texts = {COMPONENTS: json.dumps(described, indent=2) + "\n", REFERENCE: reference()}
    texts |= {
        page_of(DATA_SOURCE_KIND, each.name): data_source_reference(each)
        for each in DATA_SOURCES.values()
    }

    def read(page: str) -> str:
        return texts.get(page) or (_CHECKOUT / page).read_text(encoding="utf-8")

    return texts | web_docs(described["components"], read)


def write(root: Path) -> None:
    """Write all of them below `root`."""
    for name, text in generated().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
