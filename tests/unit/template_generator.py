"""Random templates from a grammar: mostly well-formed, some with a part broken or misplaced."""

import random
from collections.abc import Callable

from template_cases import MAP, SCOPE, STRUCT
from template_reference import Case

from packer_plugin_osc_chroot.template.engine import DECODE_DATA, StringMap

_STRINGS = ["a", "b,c", "", "é", "x y", "7", "%d|%v", "A-B", "<&>", "2006-01-02"]
_NUMBERS = ["0", "1", "2", "-1", "3", "1.5", "1.0", "'a'", "0x1F", "1e3", "2i", "007"]
_FIELDS = [
    ".Device",
    ".Name",
    ".Empty",
    ".N",
    ".Zero",
    ".F",
    ".T",
    ".No",
    ".Nil",
    ".L",
    ".None",
    ".Tags",
    ".Tags.Name",
    ".Tags.Missing",
    ".M",
    ".M.y.z",
    ".M.n",
    ".Missing",
    ".Missing.Deep",
    ".MountPath",
]
_VERBS = [
    "%d",
    "%s",
    "%v",
    "%q",
    "%x",
    "%5v",
    "%-6s",
    "%05d",
    "%.2f",
    "%t",
    "%c",
    "%+v",
    "%%",
    "%g",
]
_ONE = ["not", "len", "html", "js", "urlquery", "print", "println", "upper", "lower", "user"]
_TWO = ["eq", "ne", "lt", "le", "gt", "ge", "and", "or", "index", "slice", "print"]
_ESCAPED = [r"\n", r"\t", r"\\", r"\"", r"\x41", r"\u00e9", r"\101", r"\a", "%", "é", "{%", "${x}"]
_GO_LAYOUT = [
    "2006",
    "06",
    "01",
    "1",
    "Jan",
    "January",
    "02",
    "_2",
    "2",
    "002",
    "__2",
    "Mon",
    "Monday",
]
_GO_LAYOUT += [
    "15",
    "03",
    "3",
    "04",
    "4",
    "05",
    "5",
    ".000",
    ".999",
    ",00",
    "PM",
    "pm",
    "MST",
    "Z07:00",
]
_GO_LAYOUT += ["-0700", "Z0700", "-07", "T", " ", "-", "x", "_"]
_STRFTIME = [
    "%Y",
    "%m",
    "%d",
    "%H",
    "%M",
    "%S",
    "%b",
    "%B",
    "%a",
    "%A",
    "%I",
    "%p",
    "%y",
    "%Z",
    "%z",
]
_STRFTIME += ["%L", "%%", "%j", "%", " ", "-", "x"]


class _Generator:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._variables: list[str] = []

    def case(self) -> Case:
        self._variables = []
        pick = self._random
        template = self._body(pick.randint(1, 3), in_range=False)
        if pick.random() < 0.15:
            template = f'{{{{define "t"}}}}{self._definition()}{{{{end}}}}{template}'
        if pick.random() < 0.12:
            template = self._break(template)
        data = pick.choice([MAP, MAP, MAP, STRUCT, DECODE_DATA, None, {}, StringMap(Device="d")])
        mode = pick.choice(["once", "once", "once", "render", "validate"])
        return Case(template, mode, data, SCOPE)

    def _definition(self) -> str:
        """A body that does not call itself: with a growing argument Go would take all memory."""
        body = self._body(1, in_range=False)
        return body.replace('template "t"', 'template "u"')

    def _break(self, template: str) -> str:
        """One character removed, doubled or replaced, somewhere."""
        if not template:
            return "{{"
        at = self._random.randrange(len(template))
        put = self._random.choice(["", template[at] * 2, " ", "}", "(", "|", '"', ".", "$", "-"])
        return template[:at] + put + template[at + 1 :]

    def _body(self, depth: int, *, in_range: bool) -> str:
        parts = []
        for _ in range(self._random.randint(1, 3)):
            parts.append(self._random.choice(["t", " x ", "\n", "", "}"]))
            parts.append(self._statement(depth, in_range=in_range))
        return "".join(parts)

    def _action(self, inside: str) -> str:
        left = self._random.choice(["{{", "{{", "{{ ", "{{- "])
        right = self._random.choice(["}}", "}}", " }}", " -}}"])
        return left + inside + right

    def _statement(self, depth: int, *, in_range: bool) -> str:
        pick = self._random
        simple: list[Callable[[], str]] = [
            lambda: self._action(self._pipeline(2)),
            lambda: self._action(self._pipeline(2)),
            self._declaration,
            lambda: self._action(f'template "t" {self._pipeline(1)}'),
            lambda: pick.choice(["{{/* a comment */}}", "{{- /* {{ */ -}}", "{{ /* no */ }}"]),
            lambda: f'{{{{block "u" {self._operand(0)}}}}}<{{{{.}}}}>{{{{end}}}}',
        ]
        if in_range:
            simple.append(lambda: self._action(pick.choice(["break", "continue"])))
        if depth == 0 or pick.random() < 0.5:
            return pick.choice(simple)()
        count = len(self._variables)
        keyword = pick.choice(["if", "with", "range"])
        inside = self._pipeline(1)
        if keyword == "range":
            inside = pick.choice([inside, ".L", ".Tags", ".M", "3", ".None"])
        if pick.random() < 0.4:
            names = [self._new_variable()]
            if keyword == "range" and pick.random() < 0.5:
                names.append(self._new_variable())
            inside = f"{', '.join(names)} := {inside}"
        inner_range = in_range or keyword == "range"
        text = self._action(f"{keyword} {inside}") + self._body(depth - 1, in_range=inner_range)
        if pick.random() < 0.3 and keyword != "range":
            text += self._action(f"else {keyword} {self._pipeline(1)}")
            text += self._body(depth - 1, in_range=in_range)
        if pick.random() < 0.4:
            text += self._action("else") + self._body(depth - 1, in_range=in_range)
        if pick.random() < 0.9:
            del self._variables[count:]
        return text + self._action("end")

    def _new_variable(self) -> str:
        name = self._random.choice(["$a", "$b", "$c"])
        self._variables.append(name)
        return name

    def _declaration(self) -> str:
        value = self._pipeline(1)
        if self._variables and self._random.random() < 0.4:
            return self._action(f"{self._random.choice(self._variables)} = {value}")
        return self._action(f"{self._new_variable()} := {value}")

    def _pipeline(self, depth: int) -> str:
        text = self._command(depth)
        while self._random.random() < 0.25:
            text += self._random.choice([" | ", "|"]) + self._stage(depth)
        return text

    def _stage(self, depth: int) -> str:
        name = self._random.choice([*_ONE, *_TWO, "printf " + self._layout()])
        return f"{name} {self._operand(0)}" if self._random.random() < 0.4 else name

    def _layout(self) -> str:
        verbs = self._random.choices(_VERBS, k=self._random.randint(1, 2))
        return f'"{" ".join(verbs)}"'

    def _command(self, depth: int) -> str:
        pick = self._random
        operand = self._operand
        match pick.randint(0, 9):
            case 0 | 1:
                return f"{pick.choice(_ONE)} {operand(depth)}"
            case 2 | 3:
                return f"{pick.choice(_TWO)} {operand(depth)} {operand(depth)}"
            case 4:
                given = " ".join(operand(depth) for _ in range(pick.randint(0, 3)))
                return f"printf {self._layout()} {given}"
            case 5:
                call = pick.choice(
                    [
                        f'split {operand(depth)} "," {pick.choice(_NUMBERS)}',
                        f"replace {operand(0)} {operand(0)} {pick.choice(_NUMBERS)} {operand(0)}",
                        f"replace_all {operand(0)} {operand(0)} {operand(0)}",
                        f"slice {operand(0)} {pick.choice(_NUMBERS)}",
                        f"index .L {pick.choice(_NUMBERS)}",
                        f"isotime {operand(0)}",
                        f'isotime "{"".join(pick.choices(_GO_LAYOUT, k=pick.randint(1, 6)))}"',
                        f'strftime "{"".join(pick.choices(_STRFTIME, k=pick.randint(1, 5)))}"',
                        f"pwd {operand(0)}",
                        "template_dir",
                        "packer_version",
                        f"build {operand(0)}",
                        "timestamp",
                        "build_name",
                    ]
                )
                return call
            case _:
                return operand(depth)

    def _operand(self, depth: int) -> str:
        pick = self._random
        choices: list[Callable[[], str]] = [
            lambda: f'"{pick.choice(_STRINGS)}"',
            lambda: pick.choice(_NUMBERS),
            lambda: pick.choice(_FIELDS),
            lambda: pick.choice(_FIELDS),
            lambda: pick.choice([".", "$", "true", "false", "nil", "$.Device"]),
            lambda: f"`{pick.choice(_STRINGS)}`",
            lambda: f'"{"".join(pick.choices(_ESCAPED, k=pick.randint(1, 3)))}"',
        ]
        if self._variables:
            choices.append(lambda: pick.choice(self._variables))
            choices.append(lambda: pick.choice(self._variables) + ".Name")
        if depth > 0:
            choices.append(lambda: f"({self._pipeline(depth - 1)})")
            choices.append(lambda: f"({self._pipeline(depth - 1)}).Name")
        return pick.choice(choices)()


def generated(seed: int, count: int) -> list[Case]:
    """The cases of a seed: always the same."""
    generator = _Generator(seed)
    return [generator.case() for _ in range(count)]
