"""Prepare: raw configurations in, a checked Config or every problem with it out.

Pure: no network, no files, no root. It finds everything that can be known before a build starts,
and tries the templates that are rendered later with made-up data, so that `packer validate` shows
their mistakes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from packer_plugin_osc_chroot.cloud.credentials import endpoint_problem, half_pair_problem
from packer_plugin_osc_chroot.options.config import COMPONENT_NAME, Config, Packer
from packer_plugin_osc_chroot.options.declaration import Kind, Option, options_of
from packer_plugin_osc_chroot.options.decode import decode, decode_rows
from packer_plugin_osc_chroot.options.report import Report
from packer_plugin_osc_chroot.options.rules import check_rules
from packer_plugin_osc_chroot.template.engine import (
    DECODE_DATA,
    Fields,
    NeverRenders,
    Scope,
    StringMap,
    Template,
    TemplateError,
    compile_template,
)

GENERATED_VARS = (
    "BuildRegion",
    "Device",
    "MountPath",
    "PartitionDevice",
    "SourceOMI",
    "SourceOMIName",
    "SourceOMITags",
)
"""What templates may use as `build.NAME` beside core's own names."""


_MADE_UP: Mapping[str, object] = {
    "BuildRegion": "eu-west-2",
    "Command": "true",
    "Device": "xvdf",
    "MountPath": "/mnt/xvdf",
    "PartitionDevice": "/dev/xvdf1",
    "SourceOMI": "ami-1a2b3c4d",
    "SourceOMIName": "name",
    "SourceOMITags": StringMap({}),
}


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
    table = options_of(Config)
    values = decode_rows(table, _rendered(table, raw, scope, report), "", report)
    _check(table, values, report)
    check_rules(values, report)
    if problem := half_pair_problem(values, environ):
        report.errors.append(problem)
    if problem := endpoint_problem(values.get("custom_endpoint_oapi", "")):
        report.error("custom_endpoint_oapi", problem)
    secrets = [values[row.name] for row in table if row.secret and values.get(row.name)]
    secrets += [packer.user_variables.get(name, "") for name in packer.sensitive_variables]
    # An empty string or list of nothing is "not set" wherever the default is something.
    given = {
        row.name: values[row.name]
        for row in table
        if row.name in values and not (row.kind is Kind.STRING and values[row.name] == "")
    }
    return Prepared(
        config=None if report.errors else Config(**given, packer=packer),
        scope=scope,
        secrets=tuple(secret for secret in secrets if secret),
        warnings=tuple(report.warnings),
        errors=tuple(report.errors),
    )


def _packer(raw: Mapping[str, Any]) -> Packer:
    def text(key: str) -> str:
        return str(raw.get(key) or "")

    def flag(key: str) -> bool:
        return bool(decode(Kind.BOOL, raw.get(key) or False, key, Report()))

    variables = raw.get("packer_user_variables") or {}
    return Packer(
        build_name=text("packer_build_name"),
        builder_type=text("packer_builder_type") or COMPONENT_NAME,
        core_version=text("packer_core_version"),
        template_path=text("packer_template_path"),
        debug=flag("packer_debug"),
        force=flag("packer_force"),
        on_error=text("packer_on_error"),
        user_variables={str(key): str(value) for key, value in variables.items()},
        sensitive_variables=tuple(
            str(name) for name in raw.get("packer_sensitive_variables") or ()
        ),
    )


def _rendered(
    table: Sequence[Option], raw: Mapping[str, Any], scope: Scope, report: Report
) -> dict[str, Any]:
    """`raw` with its templates rendered once, or only compiled where they are late ones.

    What cannot be rendered is left out.
    """
    rows = {spelling.name: row for row in table for spelling in row.spellings}
    rendered = {}
    for name, value in raw.items():
        if row := rows.get(name):
            value = _render(value, name, row, scope, report)
        if not report.has_failed(name):
            rendered[name] = value
    return rendered


def _render(value: Any, path: str, row: Option, scope: Scope, report: Report) -> Any:
    match value:
        case str():
            try:
                return _render_text(value, path, row, scope, report)
            except TemplateError as error:
                report.error(path, str(error))
        case list():
            return [
                _render(item, f"{path}[{i}]", row, scope, report) for i, item in enumerate(value)
            ]
        case dict():
            return {
                _render(key, path, row, scope, report): _render(
                    item, f"{path}.{key}", row, scope, report
                )
                for key, item in value.items()
            }
    return value


def _render_text(text: str, path: str, row: Option, scope: Scope, report: Report) -> str:
    if "{{" not in text:
        return text
    template = compile_template(text)
    if row.late:
        _try(template, row, scope)
        return text
    rendered = template.render_once_reporting(scope, DECODE_DATA)
    if rendered.missing:
        report.warn(
            path,
            f"{', '.join(rendered.missing)} is not known when this option is read,"
            f' and became "<no value>" in "{rendered.text}"',
        )
    return rendered.text


def _try(template: Template, row: Option, scope: Scope) -> None:
    """Raises NeverRenders. Any other failure may be the made-up data's, and is no mistake yet."""
    try:
        template.render(scope, Fields(**{name: _MADE_UP[name] for name in row.fields}))
    except NeverRenders:
        raise
    except TemplateError:
        pass


def _check(table: Sequence[Option], values: Mapping[str, Any], report: Report) -> None:
    for row in table:
        value = values.get(row.name)
        if any(report.has_failed(spelling.name) for spelling in row.spellings):
            continue
        if row.required and not value:
            report.error(row.name, "required, and not set")
        elif value and row.check and (problem := row.check(value)):
            report.error(row.name, problem)
