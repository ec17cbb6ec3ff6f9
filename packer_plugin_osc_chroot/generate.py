"""Writes what is generated from the options table and the list of commands: the components file that
the shim embeds, and the reference page.

`python -m packer_plugin_osc_chroot.generate ROOT` (see `make generate`).
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packer_plugin_osc_chroot import commands
from packer_plugin_osc_chroot.options.config import COMPONENT_KIND, COMPONENT_NAME, Config
from packer_plugin_osc_chroot.options.declaration import Option, options_of
from packer_plugin_osc_chroot.version import VERSION

COMPONENTS = Path("shim/internal/components/components.json")
REFERENCE = Path("docs/builder-reference.md")


def components() -> Mapping[str, Any]:
    """The plugin's version, commands and help, and its components: kind, name, config spec and output
    spec (cty's JSON types).

    Every attribute is optional there: what is required is Prepare's to say, with everything else
    that is wrong, and for legacy JSON templates too.
    """
    attributes = {row.name: {"type": row.kind.cty, "required": False} for row in options_of(Config)}
    builder = {
        "kind": COMPONENT_KIND,
        "name": COMPONENT_NAME,
        "config": {"attributes": attributes, "blocks": {}},
        "output": {"attributes": {}, "blocks": {}},
    }
    return {
        "version": VERSION,
        "commands": [command.name for command in commands.COMMANDS],
        "help": commands.parser().format_help(),
        "components": [builder],
    }


def reference() -> str:
    """The reference page of the builder's options (Markdown)."""
    rows = options_of(Config)
    required = [row for row in rows if row.required]
    optional = [row for row in rows if not row.required]
    lines = [
        "# Options of the builder `osc-chroot`",
        "",
        "<!-- Made from packer_plugin_osc_chroot/options/config.py by `make generate`. -->",
        "",
        f"Version {VERSION}.",
        "",
        "## Required",
        "",
        *(_entry(row) for row in required),
        "",
        "## Optional",
        "",
        *(_entry(row) for row in optional),
        "",
    ]
    return "\n".join(lines)


def _entry(row: Option) -> str:
    text = f"- `{row.name}` ({row.kind.described}) - {row.doc}"
    if row.default_text:
        text += f" Default: {row.default_text}."
    elif row.default not in (None, "", 0, ()):
        text += f" Default: `{row.default}`."
    if row.late:
        fields = ", ".join(f"`{{{{.{name}}}}}`" for name in row.fields)
        text += f" Rendered during the build, with {fields}."
    return text


def write(root: Path) -> None:
    """Write both files below the checkout `root`."""
    for path, text in (
        (root / COMPONENTS, json.dumps(components(), indent=2) + "\n"),
        (root / REFERENCE, reference()),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
