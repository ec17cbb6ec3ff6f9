"""Values decoded by this plugin and by Packer's own SDK: the same results, the same refusals."""

import base64
import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from template_reference import build_reference

from packer_plugin_osc_chroot.options.declaration import Kind
from packer_plugin_osc_chroot.options.decode import decode, load_json
from packer_plugin_osc_chroot.options.report import Report

SEED, COUNT = 5, 3_000
# As the Go program calls them.
KINDS = {
    "string": Kind.STRING,
    "bool": Kind.BOOL,
    "int": Kind.INT,
    "duration": Kind.DURATION,
    "strings": Kind.STRINGS,
    "tuples": Kind.TUPLES,
    "string_map": Kind.STRING_MAP,
}
_TEXTS = ["", "x", "true", "True", "tRue", "f", "0", "1", "15", "0x1F", "010", "0b11", "0o17", "08"]
_TEXTS += ["1_000", "1__0", "-5", "+5", "--5", " 5", "5.0", "1e3", "\u0663", "15m", "1h30m", "1.5s"]
_TEXTS += ["-3m", "2d", "a,b", "a,,b", ",", "é", "9223372036854775807", "9223372036854775808"]
# Of those that float64 does not hold exactly, Packer's own parser of JSON makes others.
_NUMBERS = [0, 1, 2, 15, -3, 1.5, 2.0, -0.25, 1e21, 1e-7, 1e300, 4503599627370496]


def values(seed: int, count: int) -> list[Any]:
    pick = random.Random(seed)

    def value(depth: int) -> Any:
        match pick.randint(0, 9 if depth else 5):
            case 0 | 1 | 2:
                return pick.choice(_TEXTS)
            case 3:
                return pick.choice(_NUMBERS)
            case 4:
                return pick.choice([True, False])
            case 5:
                return None if depth < 3 else pick.choice(_TEXTS)
            case 6 | 7 | 8:
                return [value(depth - 1) for _ in range(pick.randint(0, 3))]
        keys = pick.sample(["a", "b", "c"], pick.randint(0, 3))
        return {key: value(depth - 1) for key in keys}

    return [found for _ in range(count) if (found := value(3)) is not None]


def differs_on_purpose(kind: Kind, value: Any) -> bool:
    """What the SDK makes something of, though it can only be a mistake."""
    match kind:
        case Kind.INT:
            return isinstance(value, float) and not (value.is_integer() and abs(value) < 2**63)
        case Kind.DURATION:
            return isinstance(value, int | float) or value == ""
        case Kind.STRINGS:
            return isinstance(value, dict) and not value
        case Kind.TUPLES:
            return not isinstance(value, list) or not all(
                isinstance(item, str | list) for item in value
            )
        case Kind.STRING_MAP:
            maps = value if isinstance(value, list) else [value]
            if any(isinstance(each, dict) and None in each.values() for each in maps):
                return True
            return isinstance(value, list) and not all(isinstance(item, dict) for item in value)
    return False


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_reference(tmp_path_factory.mktemp("interpolate"))


def ask_reference(program: Path, cases: list[tuple[str, Any]]) -> list[Any]:
    """What the SDK decodes, as JSON; an error as the text ERROR."""
    lines = [
        json.dumps({"Mode": "decode", "Kind": kind, "Template": json.dumps(value), "Data": ["nil"]})
        for kind, value in cases
    ]
    given = "\n".join(lines).encode()
    done = subprocess.run([str(program)], input=given, check=True, capture_output=True, timeout=120)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return [
        "ERROR" if answer["Error"] else json.loads(base64.b64decode(answer["Text"]))
        for answer in answers
    ]


def ask_ours(kind: Kind, value: Any) -> Any:
    report = Report()
    found = decode(kind, load_json(json.dumps(value)), "option", report)
    return "ERROR" if report.errors else json.loads(json.dumps(found))


def test_values_are_decoded_as_packer_does(
    reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [
        (name, value)
        for value in [*_TEXTS, *_NUMBERS, *values(SEED, COUNT)]
        for name, kind in KINDS.items()
        if not differs_on_purpose(kind, value)
    ]
    with capsys.disabled():
        print(f" [{len(cases)} cases, seed {SEED}]", end="")
    differences = [
        f"{name} {value!r}\n  Go:   {theirs!r}\n  ours: {ours!r}"
        for (name, value), theirs in zip(cases, ask_reference(reference, cases), strict=True)
        if (ours := ask_ours(KINDS[name], value)) != theirs and not (theirs is None and not ours)
    ]
    assert not differences, f"{len(differences)} differ:\n" + "\n".join(differences[:30])
