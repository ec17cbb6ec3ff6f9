"""Templates in raw values, at Prepare: rendered once, or tried with made-up data where they are late.

What is rendered late is kept as it was written. Source of the rules: Packer's `config.Decode`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from packer_plugin_osc_chroot.options import checks
from packer_plugin_osc_chroot.options.declaration import Kind, Option
from packer_plugin_osc_chroot.options.decode import describe
from packer_plugin_osc_chroot.options.report import Report
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


def rendered(
    rows: Sequence[Option], raw: Mapping[str, Any], scope: Scope, report: Report
) -> dict[str, Any]:
    """`raw` with the templates of each option rendered; one that fails is reported and left out."""
    by_name = {spelling.name: row for row in rows for spelling in row.spellings}
    values = {}
    for name, value in raw.items():
        if row := by_name.get(name):
            try:
                value = _render(value, name, row, scope, report)
            except RecursionError:
                report.error(name, "is nested too deep")
        if not report.has_failed(name):
            values[name] = value
    return values


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
            items: dict[Any, Any] = {}
            for key, item in value.items():
                name = _render(key, path, row, scope, report)
                if name in items:
                    report.warn(
                        path, f'"{key}" is "{name}", which is given before; this one counts'
                    )
                items[name] = _render(item, f"{path}.{key}", row, scope, report)
            return items
    return value


def _render_text(text: str, path: str, row: Option, scope: Scope, report: Report) -> str:
    if "{{" not in text:
        return text
    template = compile_template(text)
    if row.late:
        _try(template, row, scope)
        if problem := _known_problem(template, row, scope):
            report.error(path, problem)
        return text
    result = template.render_once_reporting(scope, DECODE_DATA)
    if result.missing:
        shown = "" if row.secret else f" in {describe(result.text)}"
        report.warn(
            path,
            f"{', '.join(result.missing)} is not known when this option is read, and became"
            f' "<no value>"{shown}',
        )
    return result.text


def _try(template: Template, row: Option, scope: Scope) -> None:
    """Raises NeverRenders. Any other failure may be the made-up data's, and is no mistake yet."""
    try:
        template.render(scope, Fields(**{name: _MADE_UP[name] for name in row.fields}))
    except NeverRenders:
        raise
    except TemplateError:
        pass


def _known_problem(template: Template, row: Option, scope: Scope) -> str | None:
    """What is wrong with what it renders to, where it asks for nothing that only the build knows."""
    try:
        text = template.render(scope, Fields())
    except NeverRenders:
        # It asks.
        return None
    except TemplateError as error:
        # Before it has asked: so it is with any data.
        return str(error)
    problem = checks.text(text)
    if not problem and row.check and row.kind is Kind.STRING:
        problem = row.check(text)
    return problem
