"""Shell completion: `packer-plugin-osc-chroot completion SHELL` prints a script for bash, zsh or fish.

The scripts are made from the commands' argparse parsers and know the whole command line: nothing is
started at a press of the tab key.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from packer_plugin_osc_chroot import commands
from packer_plugin_osc_chroot.commands import PROGRAM, HelpFormatter, exit_status

_FUNCTION = "_" + PROGRAM.replace("-", "_")
_EPILOG = f"""\
to use it in this shell and those to come:
  bash  echo 'source <({PROGRAM} completion bash)' >>~/.bashrc
  zsh   echo 'source <({PROGRAM} completion zsh)' >>~/.zshrc    (after compinit)
  fish  mkdir -p ~/.config/fish/completions
        {PROGRAM} completion fish \\
            >~/.config/fish/completions/{PROGRAM}.fish
"""


class Kind(Enum):
    """What an argument's value is, as far as a shell can help with it."""

    WORDS = auto()
    FILE = auto()
    DIRECTORY = auto()
    OTHER = auto()


@dataclass(frozen=True)
class Value:
    kind: Kind
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Option:
    names: tuple[str, ...]
    help: str
    value: Value | None
    """None where it takes none."""


@dataclass(frozen=True)
class Level:
    """What may follow some words of the command line."""

    at: str
    """These words, a space before each."""
    commands: Mapping[str, str]
    """Subcommands and their help."""
    options: Sequence[Option]
    positionals: Sequence[Value]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=f"{PROGRAM} completion",
        description="Print a script that has SHELL complete this program's command lines.",
        epilog=f"{_EPILOG}\n{exit_status()}",
        formatter_class=HelpFormatter,
    )
    made.add_argument("shell", metavar="SHELL", choices=list(_SCRIPTS), help="bash, zsh or fish")
    return made


def main(argv: list[str]) -> int:
    """Run the command line `argv` (less the program's name); the exit status."""
    shell = parser().parse_args(argv).shell
    sys.stdout.write(_SCRIPTS[shell](list(levels())))
    return 0


def levels() -> Iterator[Level]:
    """The whole command line, outside in."""
    yield from _levels(commands.parser(), "", deeper=False)
    for command in commands.COMMANDS:
        module = importlib.import_module(command.module)
        yield from _levels(module.parser(), f" {command.name}", deeper=True)


def _levels(made: argparse.ArgumentParser, at: str, *, deeper: bool) -> Iterator[Level]:
    named: dict[str, str] = {}
    options: list[Option] = []
    positionals: list[Value] = []
    below: list[tuple[str, argparse.ArgumentParser]] = []
    # argparse has no public way to ask a parser what is in it.
    for action in made._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {each.dest: each.help or "" for each in action._choices_actions}
            helps = helps or {each.name: each.summary for each in commands.COMMANDS}
            named.update(helps)
            below += [(f"{at} {name}", action.choices[name]) for name in helps]
        elif action.option_strings:
            value = None if action.nargs == 0 else _value(action)
            options.append(Option(tuple(action.option_strings), _help(action), value))
        else:
            positionals.append(_value(action))
    yield Level(at, named, options, positionals)
    if deeper:
        for below_at, each in below:
            yield from _levels(each, below_at, deeper=True)


def _value(action: argparse.Action) -> Value:
    if action.choices is not None:
        return Value(Kind.WORDS, tuple(map(str, action.choices)))
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    # As in zero|typical|FILE.
    words = tuple(part for part in metavar.split("|") if part.islower())
    for ending, kind in (("FILE", Kind.FILE), ("DIR", Kind.DIRECTORY)):
        if metavar.endswith(ending):
            return Value(kind, words)
    return Value(Kind.OTHER, words)


def _help(action: argparse.Action) -> str:
    """What fits beside an option: up to the first colon, parenthesis or end of a sentence."""
    text = action.help or ""
    for end in (": ", " (", ". ", "; "):
        text = text.partition(end)[0]
    return text


def _value_cases(
    found: Sequence[Level],
    *,
    words: Callable[[Sequence[str]], str],
    file: str,
    directory: str,
    end: Sequence[str] = (),
) -> str:
    """The branches of a `case` of bash or zsh: what to do where an option's value comes next."""
    lines = []
    for level in found:
        for option in level.options:
            if option.value is None:
                continue
            where = " | ".join(_quoted(f"{level.at} {name}") for name in option.names)
            value = option.value
            actions = [words(value.words)] if value.words else []
            actions += {Kind.FILE: [file], Kind.DIRECTORY: [directory]}.get(value.kind, [])
            action = "; ".join([*actions, *end])
            lines.append(f"        {where}) {action} ;;")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """For bash, zsh and fish alike (shlex.quote's '"'"' is not fish's)."""
    return "'" + text.replace("'", "'\\''") + "'"


def _named(level: Level) -> list[str]:
    """The words that may stand next, options aside."""
    return [*level.commands, *(word for value in level.positionals for word in value.words)]


def _options(level: Level) -> list[str]:
    return [name for option in level.options for name in option.names]


def _takes_file(level: Level) -> bool:
    return any(value.kind is Kind.FILE for value in level.positionals)


def _reached(found: Sequence[Level]) -> str:
    return " | ".join(_quoted(level.at) for level in found if level.at)


def bash(found: Sequence[Level]) -> str:
    values = _value_cases(
        found,
        words=lambda words: f"words={_quoted(' '.join(words))}",
        file="compopt -o default",
        directory="compopt -o dirnames",
    )
    words = []
    for level in found:
        options = _quoted(" ".join(_options(level)))
        named = "compopt -o default" if _takes_file(level) else f"words={options}"
        if _named(level):
            named = f"words={_quoted(' '.join(_named(level)))}"
        words.append(f"            {_quoted(level.at + ': -')}*) words={options} ;;")
        words.append(f"            {_quoted(level.at + ': ')}*) {named} ;;")
    return f"""\
# bash completion for {PROGRAM}
{_FUNCTION}() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} at='' words='' i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        if [ "${{COMP_WORDS[i]}}" = -- ]; then
            compopt -o default
            return
        fi
        case "$at ${{COMP_WORDS[i]}}" in
            {_reached(found)}) at+=" ${{COMP_WORDS[i]}}" ;;
        esac
    done
    case "$at ${{COMP_WORDS[COMP_CWORD - 1]}}" in
{values}
        *) case "$at: $current" in
{chr(10).join(words)}
        esac ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}}
complete -F {_FUNCTION} {PROGRAM}
"""


def zsh(found: Sequence[Level]) -> str:
    values = _value_cases(
        found,
        words=lambda words: f"compadd -- {' '.join(map(_quoted, words))}",
        file="_files",
        directory="_files -/",
        end=["return"],
    )
    cases = []
    for level in found:
        named = " ".join(_quoted(f"{name}:{text}") for name, text in level.commands.items())
        options = " ".join(
            _quoted(f"{name}:{option.help}") for option in level.options for name in option.names
        )
        cases.append(f"        {_quoted(level.at)}) named=({named}); options=({options})")
        if _takes_file(level):
            cases.append("            _files")
        for value in level.positionals:
            if value.words:
                cases.append(f"            compadd -- {' '.join(map(_quoted, value.words))}")
        cases.append("            ;;")
    return f"""\
#compdef {PROGRAM}
{_FUNCTION}() {{
    local at='' i
    local -a named options
    for ((i = 2; i < CURRENT; i++)); do
        if [[ $words[i] == -- ]]; then
            shift $i words
            ((CURRENT -= i))
            _normal
            return
        fi
        case "$at $words[i]" in
            {_reached(found)}) at+=" $words[i]" ;;
        esac
    done
    case "$at $words[CURRENT-1]" in
{values}
    esac
    case "$at" in
{chr(10).join(cases)}
    esac
    (($#named)) && _describe command named
    _describe -o option options
}}
compdef {_FUNCTION} {PROGRAM}
"""


def fish(found: Sequence[Level]) -> str:
    at = f"_{_FUNCTION}_at"
    lines = []
    for level in found:
        here = f"complete -c {PROGRAM} -n \"{at} '{level.at}'\""
        for name, text in level.commands.items():
            lines.append(f"{here} -a {name} -d {_quoted(text)}")
        for option in level.options:
            flags = "".join(
                f" -l {name[2:]}" if name.startswith("--") else f" -s {name[1:]}"
                for name in option.names
            )
            lines.append(f"{here}{flags}{_fish_value(option.value)} -d {_quoted(option.help)}")
        if _takes_file(level):
            lines.append(f"{here} -F")
        for value in level.positionals:
            if value.words:
                lines.append(f"{here} -a {_quoted(' '.join(value.words))}")
    return f"""\
# fish completion for {PROGRAM}
function {at} --description 'Whether these are the subcommands so far'
    set -l at
    for word in (commandline -opc)[2..]
        test "$word" = --; and return 1
        contains -- "$at $word" {_reached(found).replace(" | ", " ")}; and set at "$at $word"
    end
    test "$at" = "$argv[1]"
end
complete -c {PROGRAM} -f
complete -c {PROGRAM} -n 'contains -- -- (commandline -opc)' -F
{chr(10).join(lines)}
"""


def _fish_value(value: Value | None) -> str:
    if value is None:
        return ""
    offered = [*value.words]
    if value.kind is Kind.DIRECTORY:
        offered.append("(__fish_complete_directories)")
    flags = " -r -F" if value.kind is Kind.FILE else " -x"
    return f"{flags} -a {_quoted(' '.join(offered))}" if offered else flags


_SCRIPTS: Mapping[str, Callable[[Sequence[Level]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
