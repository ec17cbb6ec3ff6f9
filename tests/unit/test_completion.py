"""The completion scripts, asked by the shells themselves."""

import os
import pty
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from documents import blocks

from packer_plugin_osc_chroot import commands, completion
from packer_plugin_osc_chroot.commands import PROGRAM

# What is typed before the tab key, and what is then offered (of which these, and nothing like those).
CASES = [
    ("", {"localcloud", "completion"}, {"run", "serve"}),
    ("localcloud ", {"run", "serve", "status", "export", "clean"}, {"localcloud"}),
    ("localcloud ru", {"run"}, {"serve"}),
    ("localcloud run --l", {"--latency"}, {"--export"}),
    ("localcloud run --latency ", {"typical", "zero"}, {"run", "--latency"}),
    ("localcloud run --latency t", {"typical"}, {"zero"}),
    ("localcloud export --s", {"--state"}, {"--latency"}),
    ("localcloud run --disks ", {"by-id"}, {"--latency", "a.raw"}),
    ("completion ", {"bash", "zsh", "fish"}, {"localcloud"}),
    ("localcloud status --exports --", {"--state"}, {"--latency"}),
]
# Files of the working directory are the shell's own to offer.
FILES = [
    ("localcloud run --export ", {"a.raw", "regions"}),
    ("localcloud run --latency a", {"a.raw"}),
    ("localcloud run --state ", {"regions"}),
    ("localcloud export ami-12345678 ", {"a.raw"}),
    ("localcloud run -- ./", {"regions"}),
]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "a.raw").touch()
    (tmp_path / "regions").mkdir()
    found = list(completion.levels())
    (tmp_path / "bash").write_text(completion.bash(found))
    (tmp_path / "zsh").write_text(completion.zsh(found))
    (tmp_path / "fish").write_text(completion.fish(found))
    return tmp_path


def words(line: str) -> list[str]:
    """As a shell splits the line; the last word is the one being typed."""
    return [PROGRAM, *shlex.split(line), *([""] if line[-1:] in ("", " ") else [])]


@pytest.mark.parametrize(("line", "offered", "not_offered"), CASES)
def test_bash(directory: Path, line: str, offered: set[str], not_offered: set[str]) -> None:
    typed = words(line)
    script = (
        f"source ./bash; COMP_WORDS=({shlex.join(typed)}); COMP_CWORD={len(typed) - 1};"
        f" _packer_plugin_osc_chroot 2>/dev/null; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(
        ["bash", "-c", script], cwd=directory, check=True, capture_output=True, text=True
    )
    found = set(done.stdout.split())
    assert offered <= found
    assert not found & not_offered


@pytest.mark.parametrize(
    ("line", "offered", "not_offered"), [*CASES, *((line, files, set()) for line, files in FILES)]
)
def test_fish(directory: Path, line: str, offered: set[str], not_offered: set[str]) -> None:
    script = f"source ./fish; complete -C {shlex.quote(f'{PROGRAM} {line}')}"
    environment = {**os.environ, "HOME": str(directory), "XDG_CONFIG_HOME": str(directory)}
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        cwd=directory,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    found = {row.split("\t")[0].removeprefix("./").rstrip("/") for row in done.stdout.splitlines()}
    assert offered <= found
    assert not found & not_offered


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_files_at_the_prompt(directory: Path, shell: str) -> None:
    for line, files in FILES:
        press_tab(shell, line, files, directory=directory)


def test_zsh(directory: Path) -> None:
    for line, offered, not_offered in CASES:
        shown = press_tab("zsh", line, offered, directory=directory)
        told = set(shown.replace("/", " ").split())
        assert not told & not_offered, (line, shown)


def press_tab(shell: str, line: str, offered: set[str], *, directory: Path) -> str:
    """What an interactive shell shows when the tab key is pressed after `line`: these, at least."""
    start = {
        "bash": "bind 'set bell-style none'; bind 'set show-all-if-ambiguous on'; source ./bash",
        # One candidate a line, no menu, nothing asked.
        "zsh": "autoload -Uz compinit; compinit -u -D; setopt no_beep; source ./zsh;"
        " zstyle ':completion:*' list-packed false; LISTMAX=0",
    }[shell]
    argv = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}[shell]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(directory)
        environment = {**os.environ, "TERM": "dumb", "PS1": "", "HISTFILE": "", "COLUMNS": "200"}
        os.execvpe(argv[0], argv, {**environment, "HOME": str(directory)})
    try:
        os.write(terminal, f"{start}; PS1='rea''dy> '\n".encode())
        _read_until(terminal, {"ready> "}, quiet=0)
        tabs = "\t" if shell == "zsh" else "\t\t"
        os.write(terminal, f"{PROGRAM} {line}{tabs}".encode())
        shown = _read_until(terminal, offered, quiet=0.3)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.close(terminal)
        os.waitpid(pid, 0)
    # The line itself is not what was offered, but what its last word was completed to is.
    typed, _, last = f"{PROGRAM} {line}".rpartition(" ")
    return last + shown.replace(f"{typed} {last}".rstrip(), "")


def _read_until(terminal: int, wanted: set[str], *, quiet: float) -> str:
    """Until all of these were shown, and nothing more comes for so many seconds."""
    os.set_blocking(terminal, False)
    shown = ""
    begun = last = time.monotonic()
    while (missing := {each for each in wanted if each not in shown}) or (
        time.monotonic() - last < quiet
    ):
        try:
            shown += os.read(terminal, 65536).decode(errors="replace")
            last = time.monotonic()
        except BlockingIOError:
            assert time.monotonic() - begun < 20, f"not shown: {missing}, but {shown!r}"
            time.sleep(0.02)
    return shown


def test_every_command_is_in_every_script() -> None:
    found = list(completion.levels())
    assert {level.at for level in found} >= {f" {command.name}" for command in commands.COMMANDS}
    for script in (completion.bash, completion.zsh, completion.fish):
        text = script(found)
        for command in commands.COMMANDS:
            assert command.name in text


def test_a_shell_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        completion.main(["tcsh"])
    assert ended.value.code == 2
    assert "bash" in capsys.readouterr().err


def test_the_help_s_lines_are_those_of_the_guide() -> None:
    """Which tests/e2e/test_documented_commands.py runs."""
    shown = completion.parser().format_help().split("those to come:\n")[1].split("\n\n")[0]
    lines = [line[8:].partition("    (")[0] for line in shown.splitlines()]
    (block,) = [
        block.text
        for block in blocks(Path("docs/guides/commands.md"))
        if "completion bash" in block.text
    ]
    assert lines == block.splitlines()
