"""What options must be together: rules over several of them, known without a network."""

from collections.abc import Mapping
from typing import Any

from packer_plugin_osc_chroot.options.report import Report


def check_rules(values: Mapping[str, Any], report: Report) -> None:
    """`values` are decoded, by the names of their options; those that are not set are missing."""
    _check_source(values, report)


def _check_source(values: Mapping[str, Any], report: Report) -> None:
    if values.get("from_scratch") or report.has_failed("source_omi_filter"):
        return
    if not values.get("source_omi") and not values.get("source_omi_filter"):
        report.error("source_omi", "required, and neither it nor source_omi_filter is set")
