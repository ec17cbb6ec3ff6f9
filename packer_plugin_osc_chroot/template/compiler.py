"""Compiles a template's syntax tree to a Jinja2 syntax tree, and that with Jinja2.

Each template body becomes a Jinja block, control structures become Jinja's own, everything that
Go evaluates by its own rules becomes a call of a runtime function. Blocks nested deeper than
CPython takes them go on in a Jinja block of their own (a section).
"""

import functools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, StrictUndefined, nodes
from jinja2 import Template as JinjaTemplate

from packer_plugin_osc_chroot.template import runtime, tree
from packer_plugin_osc_chroot.template.builtins import SHORT_CIRCUIT
from packer_plugin_osc_chroot.template.errors import TemplateError
from packer_plugin_osc_chroot.template.registry import FUNCTIONS
from packer_plugin_osc_chroot.template.scope import Parameter

_SECTION_DEPTH = 10
"""Blocks inside each other in one Jinja block: CPython takes 20 loops."""
_MAY_GIVE_NIL = SHORT_CIRCUIT | {"index"}
_CHAIN_LENGTH = 50
"""Links of an `else if` chain in one Jinja block."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """Immutable, and safe to render from several threads. `templates`: the block of each name.
    `parts`: the size of what was compiled."""

    jinja: JinjaTemplate
    templates: dict[str, str]
    parts: int

    @property
    def root(self) -> str:
        return self.templates[tree.ROOT]


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=False, optimized=False, undefined=StrictUndefined, cache_size=0
    )
    environment.globals = runtime.environment_globals(FUNCTIONS)
    return environment


def compile_tree(parsed: tree.Tree) -> Compiled:
    """Raises TemplateError where an expression is too deep for Python."""
    compiler = _Compiler()
    templates = {name: compiler.add(body) for name, body in parsed.templates.items()}
    try:
        template = nodes.Template(compiler.blocks())
        template.set_environment(_environment())
        return Compiled(_environment().from_string(template), templates, parsed.parts)
    except (RecursionError, MemoryError, SyntaxError) as error:
        raise TemplateError("an expression of the template is nested too deep") from error


def _call(name: str, *arguments: nodes.Expr) -> nodes.Call:
    return nodes.Call(nodes.Name(name, "load"), list(arguments), [], None, None)


def _do(name: str, *arguments: nodes.Expr) -> nodes.ExprStmt:
    return nodes.ExprStmt(_call(name, *arguments))


def _fail(message: str) -> nodes.Call:
    return _call("fail", nodes.Const(message))


def _jumps(block: tree.Branch | tree.Range) -> Sequence[str]:
    return ("break", "continue") if block.escapes else ()


class _Compiler:
    """Makes one Jinja block of each body it is given, and of the sections that these need."""

    def __init__(self) -> None:
        self._pending: deque[tuple[str, tree.Body]] = deque()
        self._names = 0
        self._ids = 0

    def add(self, body: tree.Body) -> str:
        """The name of the Jinja block that the body will be."""
        self._names += 1
        name = f"body_{self._names}"
        self._pending.append((name, body))
        return name

    def blocks(self) -> list[nodes.Node]:
        blocks: list[nodes.Node] = []
        while self._pending:
            name, body = self._pending.popleft()
            blocks.append(nodes.Block(name, _Body(self).compile(body), False, False))
        return blocks

    def new_id(self) -> int:
        self._ids += 1
        return self._ids


class _Body:
    """The compilation of one body: where in it we are."""

    def __init__(self, compiler: _Compiler) -> None:
        self._compiler = compiler
        self._dot = runtime.DOT
        self._depth = 0
        self._loops = 0

    def compile(self, body: tree.Body) -> list[nodes.Node]:
        compiled: list[nodes.Node] = []
        for statement in body:
            compiled += self._statement(statement)
        return compiled

    # Statements

    def _statement(self, statement: tree.Statement) -> list[nodes.Node]:
        match statement:
            case tree.Text(text):
                return [nodes.Output([nodes.TemplateData(text)])]
            case tree.Action(pipe):
                value = self._pipe(pipe)
                if pipe.variables:
                    return [nodes.ExprStmt(value)]
                return [nodes.Output([_call("show", value, nodes.Const(pipe.text))])]
            case tree.Invoke(name, argument):
                dot = nodes.Name("no_value", "load") if argument is None else self._pipe(argument)
                return [nodes.Output([_call("invoke", nodes.Const(name), dot)])]
            case tree.Break():
                return [self._jump("break")]
            case tree.Continue():
                return [self._jump("continue")]
            case tree.Branch() | tree.Range():
                if self._depth >= _SECTION_DEPTH:
                    return self._section((statement,), jumps=_jumps(statement))
                self._depth += 1
                block = nodes.Const(self._compiler.new_id())
                inner = (
                    self._range(statement, block)
                    if isinstance(statement, tree.Range)
                    else [self._branch(statement)]
                )
                self._depth -= 1
                return [_do("mark", block), *inner, _do("release", block)]

    def _section(self, body: tree.Body, *, jumps: Sequence[str]) -> list[nodes.Node]:
        """The body in a Jinja block of its own, run at this place.

        `jumps` are those in it that belong to a range around it.
        """
        name = self._compiler.add(body)
        dot = nodes.Name(self._dot, "load")
        compiled: list[nodes.Node] = [nodes.Output([_call("section", nodes.Const(name), dot)])]
        for kind in jumps:
            jumped = _call("jumped", nodes.Const(kind))
            compiled.append(nodes.If(jumped, [self._jump(kind)], [], []))
        return compiled

    def _jump(self, kind: str) -> nodes.Node:
        if not self._loops:
            return _do("jump", nodes.Const(kind))
        return nodes.Break() if kind == "break" else nodes.Continue()

    def _branch(self, branch: tree.Branch) -> nodes.If:
        first = self._link(branch)
        links: list[nodes.If] = []
        otherwise = branch.otherwise
        while len(otherwise) == 1 and isinstance(otherwise[0], tree.Branch):
            # An else branch that is another branch is an `else if`, and shares our variables' end.
            if len(links) == _CHAIN_LENGTH:
                first.else_ = self._section(otherwise, jumps=_jumps(otherwise[0]))
                break
            links.append(self._link(otherwise[0]))
            otherwise = otherwise[0].otherwise
        else:
            first.else_ = self.compile(otherwise)
        first.elif_ = links
        return first

    def _link(self, branch: tree.Branch) -> nodes.If:
        condition = self._pipe(branch.pipe)
        if not branch.rebinds_dot:
            return nodes.If(_call("test", condition), self.compile(branch.body), [], [])
        outer, self._dot = self._dot, f"dot_{self._compiler.new_id()}"
        target = nodes.Name(self._dot, "param")
        body = nodes.With([target], [_call("held")], self.compile(branch.body))
        self._dot = outer
        return nodes.If(_call("hold", condition), [body], [], [])

    def _range(self, statement: tree.Range, block: nodes.Const) -> list[nodes.Node]:
        pipe = statement.pipe
        turns = _call(
            "turns",
            self._pipe(pipe),
            nodes.Const(pipe.variables),
            nodes.Const(pipe.assigns),
            block,
        )
        outer, self._dot = self._dot, f"dot_{self._compiler.new_id()}"
        self._loops += 1
        target = nodes.Name(self._dot, "store")
        loop = nodes.For(target, turns, self.compile(statement.body), [], None, False)
        self._loops -= 1
        self._dot = outer
        if not statement.otherwise:
            return [loop]
        # Jinja's own else would also run after a loop whose turns all ended by continue.
        if statement.escapes:
            # A break in an else branch ends this range, a continue belongs to the one around it.
            otherwise = self._section(statement.otherwise, jumps=("continue",))
            otherwise.append(_do("jumped", nodes.Const("break")))
        else:
            otherwise = self.compile(statement.otherwise)
        return [loop, nodes.If(nodes.Not(_call("ran", block)), otherwise, [], [])]

    # Expressions

    def _pipe(self, pipe: tree.Pipe) -> nodes.Expr:
        value: nodes.Expr | None = None
        for command in pipe.commands:
            value = self._command(command, value)
        assert value is not None
        if pipe.variables:
            names = nodes.Const(pipe.variables)
            return _call("assign" if pipe.assigns else "declare", names, value)
        return value

    def _command(self, command: tree.Command, final: nodes.Expr | None) -> nodes.Expr:
        """A command's value; `final` is what the stage before it gives as its last argument."""
        word, *arguments = command.operands
        given: list[nodes.Expr] = [] if final is None else [final]
        has_arguments = bool(arguments or given)
        match word:
            case tree.Identifier(name):
                value = self._function(name, arguments, given)
                return _call("settle", value) if name in _MAY_GIVE_NIL else value
            case tree.Field() | tree.Chain() | tree.Variable(_, [_, *_]):
                return _call("settle", self._fields(word, has_arguments, given))
            case tree.Nil():
                return _fail("nil is not a command")
            case _ if has_arguments:
                return _fail("only functions take arguments")
            case tree.Dot() | tree.Variable():
                return _call("settle", self._value(word))
            case _:
                return self._value(word)

    def _fields(
        self,
        word: tree.Field | tree.Chain | tree.Variable,
        has_arguments: bool,
        given: list[nodes.Expr],
    ) -> nodes.Expr:
        receiver: nodes.Expr
        match word:
            case tree.Field(names):
                receiver, prefix = nodes.Name(self._dot, "load"), ""
            case tree.Variable(name, names):
                receiver, prefix = _call("variable", nodes.Const(name)), name
            case tree.Chain(tree.Pipe() as pipe, names):
                receiver, prefix = self._pipe(pipe), f"({pipe.text})"
            case tree.Chain(tree.Identifier(name), names):
                receiver, prefix = self._function(name, [], []), name
            case _:
                raise AssertionError(word)
        path = f"{prefix}.{'.'.join(names)}"
        return _call("field", nodes.Const((names, path, has_arguments)), receiver, *given)

    def _value(self, word: tree.Operand) -> nodes.Expr:
        """An operand without arguments, where any type will do."""
        match word:
            case tree.Dot():
                return nodes.Name(self._dot, "load")
            case tree.Nil():
                return nodes.Name("no_value", "load")
            case tree.Bool(value) | tree.String(value):
                return nodes.Const(value)
            case tree.Number():
                return self._number(word)
            case tree.Identifier(name):
                return self._function(name, [], [])
            case tree.Variable(name, ()):
                return _call("variable", nodes.Const(name))
            case tree.Pipe():
                return self._pipe(word)
            case _:
                return self._fields(word, False, [])

    @staticmethod
    def _number(number: tree.Number) -> nodes.Expr:
        ideal = number.ideal
        if ideal is None:
            return _fail(f"{number.text} overflows int")
        if isinstance(ideal, complex):
            return _call("complex_number", nodes.Const(ideal.real), nodes.Const(ideal.imag))
        return nodes.Const(ideal)

    def _function(
        self, name: str, arguments: Sequence[tree.Operand], given: list[nodes.Expr]
    ) -> nodes.Expr:
        function = FUNCTIONS[name]
        wrong = function.wrong_count(len(arguments) + len(given))
        if wrong:
            return _fail(wrong)
        values = [
            self._argument(name, argument, function.parameter(at))
            for at, argument in enumerate(arguments)
        ]
        if name in SHORT_CIRCUIT:
            return self._short_circuit(name, values, given)
        return _call(runtime.function_global(name), *values, *given)

    def _argument(
        self, function: str, argument: tree.Operand, parameter: Parameter | None
    ) -> nodes.Expr:
        if parameter is not Parameter.ANY:
            expected = "string" if parameter is Parameter.STRING else "int"
            match argument:
                case tree.String() if parameter is Parameter.STRING:
                    pass
                case tree.Number(_, int(integer), _) if parameter is Parameter.INT:
                    return nodes.Const(integer)
                case tree.String(text) | tree.Number(text):
                    return _fail(f"{function}: expected {expected}, found {text}")
                case tree.Bool() | tree.Nil():
                    return _fail(f"{function}: expected {expected}, found a bool or nil")
                case _:
                    pass
        return self._value(argument)

    def _short_circuit(
        self, name: str, values: list[nodes.Expr], given: list[nodes.Expr]
    ) -> nodes.Expr:
        """`and` and `or`: their arguments are evaluated until one decides, what is piped always."""
        kept = nodes.Const(self._compiler.new_id())
        *firsts, result = [*values, _call("kept", kept)] if given else values
        for value in reversed(firsts):
            held = _call("held")
            results = (held, result) if name == "or" else (result, held)
            result = nodes.CondExpr(_call("hold", value), *results)
        if given:
            no_value = nodes.Name("no_value", "load")
            return nodes.CondExpr(_call("keep", kept, *given), result, no_value)
        return result
