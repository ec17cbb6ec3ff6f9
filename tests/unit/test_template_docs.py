"""docs/templates.md names every function, and none that there is not; its limits are the engine's."""

import re
from pathlib import Path

from packer_plugin_osc_chroot.template import errors
from packer_plugin_osc_chroot.template.registry import FUNCTIONS

TEXT = (Path(__file__).parents[2] / "docs" / "templates.md").read_text(encoding="utf-8")


def test_every_function_is_named() -> None:
    section = TEXT.split("## Functions")[1].split("## Limits")[0]
    spans = [double or single for double, single in re.findall(r"``(.+?)``|`([^`]+)`", section)]
    # A span with a call starts with the function.
    named = {span.split()[0] for span in spans if re.fullmatch(r"[a-z_]+( .*)?", span)}
    assert named - {"variables", "strings"} == set(FUNCTIONS)


def test_limits() -> None:
    limits = TEXT.split("## Limits")[1]
    for limit in (errors.MAX_NODES, errors.MAX_STEPS, errors.MAX_PASSES):
        assert f"{limit:,}" in limits
    assert f"{errors.MAX_VALUE >> 20} MiB" in limits
