"""The program's own command line: help, version, statuses, and what the shim is told of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from packer_plugin_osc_chroot import commands
from packer_plugin_osc_chroot.generate import COMPONENTS, components
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


@pytest.mark.parametrize("command", [command.name for command in commands.COMMANDS])
def test_every_command_has_help(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: packer-plugin-osc-chroot {command}")


def test_help_is_the_same_in_every_terminal() -> None:
    narrow = {**os.environ, "COLUMNS": "40", "PYTHONPATH": str(ROOT)}
    script = "from packer_plugin_osc_chroot import commands; print(commands.parser().format_help())"
    made = subprocess.run(
        [sys.executable, "-c", script], env=narrow, check=True, capture_output=True, text=True
    )
    assert made.stdout == commands.parser().format_help() + "\n"


def test_the_shim_has_the_help_and_the_list() -> None:
    told = json.loads((ROOT / COMPONENTS).read_text(encoding="utf-8"))
    made = components()
    assert told["help"] == made["help"]
    assert told["commands"] == made["commands"] == [command.name for command in commands.COMMANDS]
