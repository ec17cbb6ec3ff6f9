"""The program's own command line: help, version, statuses, and what the shim is told of it."""

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from packer_plugin_osc_chroot import commands
from packer_plugin_osc_chroot.generate import COMPONENTS, components
from packer_plugin_osc_chroot.localcloud import command as localcloud
from packer_plugin_osc_chroot.options.config import COMPONENT_NAME
from packer_plugin_osc_chroot.options.data_sources import DATA_SOURCES
from packer_plugin_osc_chroot.version import VERSION

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "packer_plugin_osc_chroot", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_help_tells_every_command_and_status() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert done.stdout == commands.parser().format_help()
    for command in commands.COMMANDS:
        assert command.summary in done.stdout
    assert all(f'"{name}"' in done.stdout for name in (COMPONENT_NAME, *DATA_SOURCES))
    assert "exit status:" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= commands.HELP_WIDTH


def test_version() -> None:
    assert run("--version").stdout == f"packer-plugin-osc-chroot {VERSION}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("lokalcloud",),
        ("serve",),
        ("--jelp",),
        *((command.name, "--no-such-option") for command in commands.COMMANDS),
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "usage: packer-plugin-osc-chroot" in done.stderr
    assert "Traceback" not in done.stderr


def every_parser() -> Iterator[argparse.ArgumentParser]:
    """The program's and those of its commands, outside in."""
    pending = [commands.parser()]
    for command in commands.COMMANDS:
        pending.append(importlib.import_module(command.module).parser())
    for parser in pending:
        yield parser
        if parser.prog == commands.PROGRAM:
            continue
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                pending += action.choices.values()


@pytest.mark.parametrize("command", [command.name for command in commands.COMMANDS])
def test_every_command_has_help(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: packer-plugin-osc-chroot {command}")


@pytest.mark.parametrize("parser", list(every_parser()), ids=lambda parser: parser.prog)
def test_all_help_has_one_style(
    parser: argparse.ArgumentParser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    text = parser.format_help()
    monkeypatch.setenv("COLUMNS", "200")
    assert parser.format_help() == text
    assert max(map(len, text.splitlines())) <= commands.HELP_WIDTH
    assert parser.description and parser.description[0].isupper()
    assert parser.description.strip().endswith(".")
    status = text.split("exit status")[1]
    assert "  2  " in status, "each command line can be wrong"
    for action in parser._actions:
        # The program's own are argparse's.
        if action.help and action.help is not argparse.SUPPRESS:
            assert action.help[0].islower() or action.help.startswith(("SHELL", "OMI"))
            assert not action.help.endswith(".")


def test_paragraphs_are_filled_and_examples_kept() -> None:
    prose = "word " * 30
    filled = commands.HelpFormatter("x")._fill_text(f"{prose}\n\n  a   b\nend\n", 100, "")
    first, second, gap, example, end = filled.splitlines()
    assert len(first) <= 100 and f"{first} {second}" == prose.strip()
    assert (gap, example, end) == ("", "  a   b", "end")


def test_the_shim_has_the_help_and_the_list() -> None:
    told = json.loads((ROOT / COMPONENTS).read_text(encoding="utf-8"))
    made = components()
    assert told["help"] == made["help"]
    assert told["commands"] == made["commands"] == [command.name for command in commands.COMMANDS]


def test_a_command_without_two_dashes_is_told_where_they_go(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        localcloud.main(["run", "packer", "build", "-color=false", "web.pkr.hcl"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "the command comes after --: run [options] -- packer build" in said
    with pytest.raises(SystemExit):
        localcloud.main(["status", "x"])
    assert "unrecognized arguments: x" in capsys.readouterr().err
