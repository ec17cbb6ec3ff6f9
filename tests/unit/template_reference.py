"""The reference for templates: the Go SDK itself, run by tests/interpolate, and ours beside it."""

import base64
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from packer_plugin_osc_chroot.template.engine import (
    DECODE_DATA,
    Fields,
    Scope,
    StringMap,
    TemplateError,
    compile_template,
)
from packer_plugin_osc_chroot.template.values import to_bytes

MODULE = Path(__file__).parent.parent / "interpolate"
STARTED_AT = datetime(2024, 3, 5, 7, 8, 9, 120000, UTC)
_MEMORY = 4 << 30
_STRUCT_TYPE = b"*struct {"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Case:
    """A template, how it is rendered, and with what; `mode` is validate, once or render."""

    template: str
    mode: str = "once"
    data: object = None
    scope: Scope = Scope(started_at=STARTED_AT)


def build_reference(directory: Path) -> Path:
    """Builds the Go program; seconds when Go's cache is warm."""
    program = directory / "interpolate"
    subprocess.run(
        ["go", "build", "-o", str(program), "."],
        cwd=MODULE,
        check=True,
        capture_output=True,
        text=True,
        timeout=280,
    )
    return program


def ask_reference(program: Path, cases: Sequence[Case]) -> list[bytes | None]:
    """What Go's SDK renders for each case; None where it fails."""
    lines = "".join(json.dumps(_as_json(case)) + "\n" for case in cases)
    # A template may grow without bounds there: that must not be the machine's end.
    limited = ["prlimit", f"--as={_MEMORY}", str(program)]
    done = subprocess.run(
        limited, input=lines.encode(), check=True, capture_output=True, timeout=600
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(cases)
    texts = [
        None if answer["Error"] else base64.b64decode(answer["Text"] or "") for answer in answers
    ]
    # The name of a struct's type is the Go builder's own affair; ours refuses to print one.
    return [None if text and _STRUCT_TYPE in text else text for text in texts]


def ask_ours(case: Case) -> bytes | None:
    """What this plugin renders; None where it fails (with the right exception)."""
    try:
        template = compile_template(case.template)
        if case.mode == "validate":
            return b""
        render = template.render_once if case.mode == "once" else template.render
        return to_bytes(render(case.scope, case.data))
    except TemplateError:
        return None


def _as_json(case: Case) -> Mapping[str, object]:
    scope = case.scope
    return {
        "Template": case.template,
        "Mode": case.mode,
        "Data": _data(case.data),
        "BuildName": scope.build_name,
        "BuildType": scope.build_type,
        "TemplatePath": scope.template_path,
        "PackerVersion": scope.packer_version,
        "UserVariables": None if scope.user_variables is None else dict(scope.user_variables),
        "StartedAt": (scope.started_at - _EPOCH) // timedelta(microseconds=1) * 1000,
    }


def _data(data: object) -> list[Any]:
    if data is DECODE_DATA:
        return ["decode"]
    match data:
        case None:
            return ["nil"]
        case StringMap():
            return ["strings", data]
        case Fields():
            return ["struct", [[name, _data(value)] for name, value in data.items()]]
        case Mapping():
            return ["map", {name: _data(value) for name, value in data.items()}]
        case list():
            return ["list", [_data(item) for item in data]]
        case _:
            return ["value", data]
