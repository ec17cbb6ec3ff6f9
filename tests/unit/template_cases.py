"""Hand-made templates for the comparison with Go's SDK: each corner of the language once.

Most of them stand in templates/*.txt, one a line.

A difference ever found by a generated case becomes a case here.
"""

from datetime import UTC, datetime
from pathlib import Path

from template_reference import STARTED_AT, Case

from packer_plugin_osc_chroot.template.engine import DECODE_DATA, Fields, Scope, StringMap

MAP = {
    "Device": "/dev/xvdf",
    "Name": "my <image> & 'co'",
    "Empty": "",
    "N": 7,
    "Zero": 0,
    "F": 2.5,
    "T": True,
    "No": False,
    "Nil": None,
    "L": ["a", "b", 3, None, 1.5],
    "None": [],
    "Tags": StringMap(Name="web", Env="prod é"),
    "M": {"x": "1", "y": {"z": "deep"}, "n": None},
}
STRUCT = Fields(
    Device="/dev/xvdf",
    MountPath="/mnt",
    Tags=StringMap(Name="web", Env="prod"),
)
SCOPE = Scope(
    build_name="web",
    build_type="osc-chroot",
    template_path="dir/../templates/web.json",
    packer_version="1.16.0",
    user_variables={
        "a": "plain",
        "nested": "<{{user `a`}}>",
        "twice": "{{user `nested`}}",
        "broken": "{{",
        "self": "{{user `self`}}",
        "grows": "x{{user `grows`}}",
        "device": "{{.Device}}",
    },
    started_at=STARTED_AT,
)


def _read(name: str) -> list[str]:
    """The templates of a file: one a line."""
    path = Path(__file__).parent / "templates" / f"{name}.txt"
    return path.read_text(encoding="utf-8").rstrip("\n").split("\n")


PLACEHOLDER = (
    "Build_Place. To set this dynamically in the Packer template, you must use the `build` function"
)
LINES = "a\n{{- 1 -}}\n b {{ 1\n}}\n{{`x\r\ny`}}\n"
MORE = [
    LINES,
    '{{"a\nb"}}',
    "{{1}}\n\n",
    "x \t\r\n {{- 1 -}} \t\r\n y",
    "x\u00a0{{- 1 -}}\u00a0y",
    "x\f{{- 1 -}}\vy",
    "{{-\n1\n-}} x",
    "{{\t1\t}}",
    "{{1\u00a0}}",
    "{{`a\nb`}}",
    "{{'\n'}}",
    "{{/* a\nb */}}x",
    "{{.Dev\u0301}}",
    "{{.\u0661}}",
    "{{$\u0661 := 1}}{{$\u0661}}",
    "{{\u00b2}}",
    "{{range .L -}} x {{- end}}",
    "{{if true -}} \n a \n {{- else -}} \n b \n {{- end}}",
    "{{" * 3,
    "{{ | }}",
    '{{print "|"}}',
    "{{1 \x00}}",
    "\x00{{1}}",
    '{{"\x00"}}',
    '{{define "a"}}\n\u00a0{{end}}{{define "a"}}x{{end}}{{template "a"}}',
    '{{define "a"}}{{/* c */}}{{end}}{{define "a"}}x{{end}}{{template "a"}}',
    '{{define "a"}}\x1c{{end}}{{define "a"}}x{{end}}',
    "".join("{{if true}}" for _ in range(60)) + "x" + "{{end}}" * 60,
    "".join("{{range 1}}" for _ in range(45)) + "{{break}}" + "y{{end}}" * 45,
    "{{range 3}}" + "{{if true}}" * 30 + "{{continue}}" + "{{end}}" * 30 + "z{{end}}w",
    "{{range 3}}" + "{{with 1}}" * 25 + "{{break}}" + "{{end}}" * 25 + "z{{end}}w",
    "{{if false}}a" + "".join(f"{{{{else if eq 149 {n}}}}}{n}" for n in range(150)) + "{{end}}",
    "{{$x := 1}}" + "{{if $x}}" * 25 + "{{$x = 5}}{{$y := 2}}" + "{{end}}" * 25 + "{{$x}}",
    '{{define "r"}}{{if .}}{{template "r" (slice . 1)}}{{len .}},{{end}}{{end}}'
    '{{template "r" "' + "a" * 600 + '"}}',
]


def hand_made() -> list[Case]:
    """Every hand-made case."""
    cases: list[Case] = []
    data = {**MAP, "Place": PLACEHOLDER}
    for template in [*_read("syntax"), *_read("builtins"), *_read("packer"), *MORE]:
        cases.append(Case(template, "validate", None, SCOPE))
        cases.append(Case(template, "once", data, SCOPE))
    for template in _read("packer"):
        cases.append(Case(template, "render", data, SCOPE))
        cases.append(Case(template, "once", DECODE_DATA, Scope(started_at=STARTED_AT)))
    for template in [*_read("structs"), *_read("syntax")]:
        cases.append(Case(template, "once", STRUCT, SCOPE))
    for template in _read("structs"):
        cases.append(Case(template, "once", DECODE_DATA, SCOPE))
        cases.append(Case(template, "once", None, SCOPE))
        cases.append(Case(template, "render", STRUCT, SCOPE))
        cases.append(Case(template, "once", {}, SCOPE))
        cases.append(Case(template, "once", StringMap(Device="x", Name="y"), SCOPE))
    for moment in (
        datetime(2000, 1, 1, 0, 0, 0, 0, UTC),
        datetime(2024, 12, 31, 12, 59, 59, 999999, UTC),
        datetime(2023, 11, 10, 23, 1, 2, 100, UTC),
    ):
        scope = Scope(started_at=moment)
        cases += [Case(t, "once", None, scope) for t in _read("packer") if "time" in t]
    return cases
