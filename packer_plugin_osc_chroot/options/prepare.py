"""Prepare: raw configurations in, a checked Config or every problem with it out.

Pure: no network, no files, no root. It finds everything that can be known before a build starts,
and tries the templates that are rendered later with made-up data, so that `packer validate` shows
their mistakes.
"""

import dataclasses
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from packer_plugin_osc_chroot.cloud.credentials import endpoint_problem, half_pair_problem
from packer_plugin_osc_chroot.options.config import COMPONENT_NAME, Config, Packer
from packer_plugin_osc_chroot.options.declaration import Kind, Option, options_of
from packer_plugin_osc_chroot.options.decode import WrongType, decode
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
    errors: list[str] = []
    warnings: list[str] = []
    values: dict[str, Any] = {}
    table = options_of(Config)
    errors += _unknown(raw, [row.name for row in table])
    for row in table:
        if row.name not in raw:
            continue
        try:
            rendered = _render(raw[row.name], row, scope, warnings)
            values[row.name] = decode(row.kind, rendered)
        except TemplateError as error:
            errors.append(f"{row.name}: {error}")
        except WrongType as error:
            errors.append(f"{row.name}{error.path}: {error}")
    errors += _check(table, values, failed=[error.split(":")[0].split("[")[0] for error in errors])
    if problem := half_pair_problem(values, environ):
        errors.append(problem)
    if problem := endpoint_problem(values.get("custom_endpoint_oapi", "")):
        errors.append(f"custom_endpoint_oapi: {problem}")
    secrets = [values[row.name] for row in table if row.secret and values.get(row.name)]
    secrets += [packer.user_variables.get(name, "") for name in packer.sensitive_variables]
    # An empty string or list of nothing is "not set" wherever the default is something.
    given = {
        row.name: values[row.name]
        for row in table
        if row.name in values and not (row.kind is Kind.STRING and values[row.name] == "")
    }
    return Prepared(
        config=None if errors else Config(**given, packer=packer),
        scope=scope,
        secrets=tuple(secret for secret in secrets if secret),
        warnings=tuple(warnings),
        errors=tuple(errors),
    )


def _packer(raw: Mapping[str, Any]) -> Packer:
    def text(key: str) -> str:
        return str(raw.get(key) or "")

    def flag(key: str) -> bool:
        return bool(decode(Kind.BOOL, raw.get(key) or False))

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


def _unknown(raw: Mapping[str, Any], known: Sequence[str]) -> Iterator[str]:
    for name in sorted(raw):
        if name in known or name.startswith("packer_"):
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        hint = f'did you mean "{near[0]}"?' if near else "see the documentation for what there is"
        yield f"{name}: unknown option; {hint}"


def _render(value: Any, row: Option, scope: Scope, warnings: list[str]) -> Any:
    """The value with its templates rendered once, or only compiled where they are late ones."""

    def text(source: str) -> str:
        if "{{" not in source:
            return source
        template = compile_template(source)
        if row.late:
            _try(template, row, scope)
            return source
        rendered = template.render_once_reporting(scope, DECODE_DATA)
        if rendered.missing:
            warnings.append(
                f"{row.name}: {', '.join(rendered.missing)} is not known when this option is read,"
                f' and became "<no value>" in "{rendered.text}"'
            )
        return rendered.text

    # Only late maps have their keys rendered (during the build); elsewhere keys are plain text.
    return _map_strings(value, text, keys=row.late)


def _try(template: Template, row: Option, scope: Scope) -> None:
    """Raises NeverRenders. Any other failure may be the made-up data's, and is no mistake yet."""
    try:
        template.render(scope, Fields(**{name: _MADE_UP[name] for name in row.fields}))
    except NeverRenders:
        raise
    except TemplateError:
        pass


def _map_strings(value: Any, change: Callable[[str], str], *, keys: bool) -> Any:
    match value:
        case str():
            return change(value)
        case list():
            return [_map_strings(item, change, keys=keys) for item in value]
        case dict():
            return {
                change(key) if keys else key: _map_strings(item, change, keys=keys)
                for key, item in value.items()
            }
    return value


def _check(
    table: Sequence[Option], values: Mapping[str, Any], *, failed: Sequence[str]
) -> list[str]:
    errors = []
    for row in table:
        value = values.get(row.name)
        if row.required and not value and row.name not in failed:
            errors.append(f"{row.name}: required, and not set")
        elif value and row.check and (problem := row.check(value)):
            errors.append(f"{row.name}: {problem}")
    return errors
