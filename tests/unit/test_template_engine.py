"""What the template engine offers beyond Go's: final text, missing fields, limits, lazy loading."""

import subprocess
import sys
import time
from contextlib import suppress

import pytest

from packer_plugin_osc_chroot.template import engine
from packer_plugin_osc_chroot.template.engine import (
    Fields,
    Literal,
    Scope,
    TemplateError,
    compile_template,
)

_LONG = {str(n): f"{{{{user `{n + 1}`}}}}" + "{{print 1 2 3 4 5 6 7}}" * 200 for n in range(50)}
SCOPE = Scope(
    user_variables={
        "grows": "x{{user `grows`}}",
        "loop": "a{{user `name`}}",
        "name": "b",
        **_LONG,
    }
)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("sudo {{.Command}}", "sudo docker ps --format '{{.Names}}'"),
        ("sh -c {{printf `%q` .Command}}", "sh -c \"docker ps --format '{{.Names}}'\""),
        ("{{.Command | replace_all `docker` `podman`}}", "podman ps --format '{{.Names}}'"),
        ("{{user `loop`}} {{.Command}}", "ab docker ps --format '{{.Names}}'"),
        ("{{with .Command}}{{.}}{{end}}", "docker ps --format '{{.Names}}'"),
    ],
)
def test_final_text_is_not_rendered_again(template: str, expected: str) -> None:
    data = Fields(Command=Literal("docker ps --format '{{.Names}}'"))
    assert compile_template(template).render(SCOPE, data) == expected


def test_other_values_are_rendered_again() -> None:
    rendered = compile_template("{{.A}}").render(SCOPE, {"A": "{{.B}}", "B": "{{user `name`}}"})
    assert rendered == "b"
    assert compile_template("{{.A}}").render_once(SCOPE, {"A": "{{.B}}"}) == "{{.B}}"


def test_missing_fields_are_named() -> None:
    template = compile_template("{{.A}} {{.Tags.X}} {{.A}} {{$x := .C}}{{$x}}{{or .D 1}}")
    rendered = template.render_reporting(SCOPE, {"Tags": {}})
    assert rendered.text == "<no value> <no value> <no value> <no value>1"
    assert rendered.missing == (".A", ".Tags.X", ".C")
    assert compile_template("{{.A}}").render_reporting(SCOPE, {"A": "x"}).missing == ()


def test_errors_read_well() -> None:
    for template, message in (
        ("{{foo}}", 'function "foo" not defined'),
        ("a\n{{foo}}\n", 'line 2: function "foo" not defined'),
        ("{{if .A}}", "unexpected EOF: {{if}} has no {{end}}"),
        ("{{", "unclosed action"),
        ("{{$x}}", 'undefined variable "$x"'),
    ):
        with pytest.raises(TemplateError) as caught:
            compile_template(template)
        assert str(caught.value) == message
    with pytest.raises(TemplateError, match=r"no field Devise.*There is: \.Device"):
        compile_template("{{.Devise}}").render(SCOPE, Fields(Device="/dev/xvdf"))


@pytest.mark.parametrize(
    "template",
    [
        "{{" * 10_000,
        "{{" + "(" * 10_000 + "1" + ")" * 10_000 + "}}",
        "{{.X}}" * 170_000,
        "{{0x" + "1" * 1_000_000 + "}}",
        "{{range 1000000000000}}{{end}}",
        "{{define `a`}}{{template `a`}}{{end}}{{template `a`}}",
        "{{$x := `aaaa`}}{{range 64}}{{$x = print $x $x}}{{end}}",
        "{{replace_all `` .B .B}}",
        "{{range 10000}}{{if upper $.B}}{{end}}{{end}}",
        "{{user `grows`}}",
        "{{if .X}}" * 5_000 + "{{end}}" * 5_000,
        "{{printf `" + "%1000000d" * 100 + "`" + " 1" * 100 + "}}",
        "{{range 1000}}{{$x := printf `%+q` $.E}}{{end}}",
        "{{range 1000}}{{$x := upper $.E}}{{end}}",
        "{{range 1000}}{{$x := printf `%5000000s` `a`}}{{end}}",
        "".join(
            f"{{{{define `{n}`}}}}{f'{{{{template `{n + 1}`}}}}' * 2}{{{{end}}}}" for n in range(60)
        )
        + "{{define `60`}}{{end}}{{template `0`}}",
        "{{define `a`}}{{range 3}}{{template `a` .}}{{end}}{{end}}{{template `a`}}",
        "{{user `0`}}" + "{{print 1 2 3 4 5 6 7}}" * 200,
    ],
    ids=lambda template: template[:24],
)
def test_hostile_templates_end_with_an_error(template: str) -> None:
    started = time.process_time()
    with pytest.raises(TemplateError):
        compile_template(template).render(SCOPE, {"B": "b" * 1_000_000, "E": "é" * 1_000_000})
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("template", "length"),
    [
        ("}}" * 10_000, 20_000),
        ("{" * 1_000_000 + "}" * 1_000_000, 0),
        ("x" * 1_000_000 + "{{.X}}", 1_000_001),
        ("{{`" + "y" * 1_000_000 + "`}}", 1_000_000),
        ('{{"' + r"\"" * 250_000 + '"}}', 250_000),
        (" " * 1_000_000 + "{{- 1 -}}" + " " * 1_000_000, 1),
        ("{{/*" + "c" * 1_000_000 + "*/}}", 0),
        ("{{range 30000}}x{{end}}", 30_000),
        ("{{if .X}}" * 600 + "x" + "{{end}}" * 600, 1),
        ("{{html .B}}{{js .B}}{{urlquery .B}}", 3_000_000),
    ],
    ids=lambda value: str(value)[:24],
)
def test_huge_templates_are_rendered_in_a_second(template: str, length: int) -> None:
    started = time.process_time()
    data = {"B": "b" * 1_000_000, "X": "x"}
    if length:
        assert len(compile_template(template).render(SCOPE, data)) == length
    else:
        with suppress(TemplateError):
            assert compile_template(template).render(SCOPE, data) == ""
    assert time.process_time() - started < 1


def test_names_are_cleaned() -> None:
    assert compile_template("{{clean_omi_name `a:é[x]@'_/.`}}").render(SCOPE, {}) == "a---[x]@'_/."
    assert compile_template("{{clean_resource_name `a b%`}}").render(SCOPE, {}) == "a b-"


def test_uuid_differs() -> None:
    template = compile_template("{{uuid}}")
    one, other = template.render(SCOPE, {}), template.render(SCOPE, {})
    assert one != other
    assert [len(part) for part in one.split("-")] == [8, 4, 4, 4, 12]


def test_text_without_an_action_loads_no_jinja() -> None:
    program = (
        "import sys\n"
        "from packer_plugin_osc_chroot.template.engine import Scope, compile_template\n"
        "assert compile_template('{% raw %} }}').render(Scope(), {}) == '{% raw %} }}'\n"
        "assert 'jinja2' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_what_a_rendering_made_is_not_kept() -> None:
    """Commands through a wrapper are texts of any length and number."""
    template = compile_template("sudo {{.Command}}")
    before = engine._compile.cache_info().currsize
    for number in range(3):
        command = Literal(f"echo {number} {{{{.X}}}}")
        assert template.render(Scope(), Fields(Command=command)) == f"sudo {command}"
    assert engine._compile.cache_info().currsize == before
