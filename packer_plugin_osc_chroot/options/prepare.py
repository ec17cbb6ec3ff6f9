"""Prepare: raw configurations in, a checked Config or every problem with it out.

Pure: no network, no files, no root. It finds everything that can be known before a build starts,
and tries the templates that are rendered later with made-up data, so that `packer validate` shows
their mistakes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from packer_plugin_osc_chroot.cloud.credentials import from_environment
from packer_plugin_osc_chroot.options.access import check_access
from packer_plugin_osc_chroot.options.config import COMPONENT_NAME, AccessOptions, Config, Packer
from packer_plugin_osc_chroot.options.data_sources import DataSource
from packer_plugin_osc_chroot.options.declaration import Kind, options_of
from packer_plugin_osc_chroot.options.decode import decode
from packer_plugin_osc_chroot.options.rendering import rendered
from packer_plugin_osc_chroot.options.report import Report
from packer_plugin_osc_chroot.options.rules import Rules
from packer_plugin_osc_chroot.options.tables import read_rows
from packer_plugin_osc_chroot.template.engine import Scope

GENERATED_DATA: Mapping[str, str] = {
    "BuildRegion": "the Region of the build",
    "Device": "the path of the disk that is built on",
    "MountPath": "where its root filesystem is mounted on this VM",
    "PartitionDevice": "the path of the partition with that filesystem",
    "SourceOMI": "the source OMI's id; empty with `from_scratch`, as the next two",
    "SourceOMIName": "the source OMI's name",
    "SourceOMITags": "the source OMI's tags, as JSON text: `try(jsondecode(build.SourceOMITags), {})`"
    " makes a map of it",
}
"""What templates may use as `build.NAME` beside core's own names, and what each is."""

MAX_SHOWN = 200
"""Errors, and warnings: what goes to Packer is one message of 4 MiB at most."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """`config` is None exactly when there are errors. `secrets` are values never to be shown."""

    config: Config | None
    scope: Scope
    secrets: tuple[str, ...]
    warnings: tuple[str, ...]
    errors: tuple[str, ...]


def prepare(
    raw_configs: Sequence[Mapping[str, Any]],
    *,
    started_at: datetime,
    environ: Mapping[str, str],
) -> Prepared:
    """Decode, render and check. `started_at` is what `{{timestamp}}` shows."""
    raw: dict[str, Any] = {}
    for config in raw_configs:
        raw.update({key: value for key, value in config.items() if value is not None})
    packer = _packer(raw)
    scope = Scope(
        build_name=packer.build_name,
        build_type=packer.builder_type,
        template_path=packer.template_path,
        packer_version=packer.core_version,
        user_variables=packer.user_variables if "packer_user_variables" in raw else None,
        started_at=started_at,
    )
    report = Report()
    values = _read(Config, raw, scope, environ, report)
    region = values.get("region") or from_environment(environ, "region")
    region = "" if report.has_failed("region") else region
    Rules(values, region=region, is_forced=packer.force, report=report).check()
    secrets = _secrets(Config, values)
    secrets += [packer.user_variables.get(name, "") for name in packer.sensitive_variables]
    return Prepared(
        config=None if report.errors else Config(**_given(Config, values), packer=packer),
        scope=scope,
        secrets=tuple(secret for secret in secrets if secret),
        warnings=_shown(report.warnings),
        errors=_shown(report.errors),
    )


@dataclasses.dataclass(frozen=True)
class PreparedDataSource:
    """As `Prepared`. Packer has no place for warnings of a data source: they are for the log."""

    options: AccessOptions | None
    secrets: tuple[str, ...]
    warnings: tuple[str, ...]
    errors: tuple[str, ...]


def prepare_data_source(
    source: DataSource,
    raw: Mapping[str, Any],
    *,
    started_at: datetime,
    environ: Mapping[str, str],
) -> PreparedDataSource:
    """As `prepare`, for one block of an HCL2 template: what is not set is null there."""
    report = Report()
    set_ = {key: value for key, value in raw.items() if value is not None}
    values = _read(source.options, set_, Scope(started_at=started_at), environ, report)
    return PreparedDataSource(
        options=None if report.errors else source.options(**_given(source.options, values)),
        secrets=tuple(_secrets(source.options, values)),
        warnings=_shown(report.warnings),
        errors=_shown(report.errors),
    )


def _read(
    table: type,
    raw: Mapping[str, Any],
    scope: Scope,
    environ: Mapping[str, str],
    report: Report,
) -> dict[str, Any]:
    """The values of a table that has AccessOptions; what is wrong with each, and with the access."""
    rows = options_of(table)
    values = read_rows(rows, rendered(rows, raw, scope, report), "", report)
    check_access(values, environ, report)
    return values


def _secrets(table: type, values: Mapping[str, Any]) -> list[str]:
    return [values[row.name] for row in options_of(table) if row.secret and values.get(row.name)]


def _given(table: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """An empty string is "not set" wherever the default is something."""
    return {
        row.name: values[row.name]
        for row in options_of(table)
        if row.name in values and not (row.kind is Kind.STRING and values[row.name] == "")
    }


def _shown(messages: Sequence[str]) -> tuple[str, ...]:
    """Those that somebody may read."""
    if len(messages) <= MAX_SHOWN:
        return tuple(messages)
    return (*messages[:MAX_SHOWN], f"and {len(messages) - MAX_SHOWN} more")


def _packer(raw: Mapping[str, Any]) -> Packer:
    def text(key: str) -> str:
        return str(raw.get(key) or "")

    def flag(key: str) -> bool:
        return bool(decode(Kind.BOOL, raw.get(key) or False, key, Report()))

    variables = raw.get("packer_user_variables")
    if not isinstance(variables, Mapping):
        variables = {}
    sensitive = raw.get("packer_sensitive_variables")
    return Packer(
        build_name=text("packer_build_name"),
        builder_type=text("packer_builder_type") or COMPONENT_NAME,
        core_version=text("packer_core_version"),
        template_path=text("packer_template_path"),
        debug=flag("packer_debug"),
        force=flag("packer_force"),
        on_error=text("packer_on_error"),
        user_variables={str(key): str(value) for key, value in variables.items()},
        sensitive_variables=tuple(map(str, sensitive)) if isinstance(sensitive, list) else (),
    )
