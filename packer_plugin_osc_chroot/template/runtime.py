"""What a compiled template calls while it renders: fields, variables, loops, and the driver.

A rendering keeps its own stack of running template bodies, so that templates calling templates
are not limited by Python's stack, and counts its steps, so that every rendering ends.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jinja2 import Template as JinjaTemplate
from jinja2 import pass_context
from jinja2.runtime import Context

from packer_plugin_osc_chroot.template import formatting
from packer_plugin_osc_chroot.template.errors import (
    CALL_STEPS,
    MAX_CALL_DEPTH,
    MAX_VALUE,
    NeverRenders,
    TemplateError,
)
from packer_plugin_osc_chroot.template.rendering import Frame, Rendering
from packer_plugin_osc_chroot.template.scope import Function, Parameter
from packer_plugin_osc_chroot.template.values import (
    NO_VALUE,
    Byte,
    GoMap,
    GoSlice,
    GoStruct,
    Literal,
    NoValue,
    Value,
    is_true,
    join,
    type_name,
)

FRAME = "go_frame"
DOT = "go_dot"


class _Entry(str):
    """What a template body yields in place of text to have another body run there.

    Jinja passes everything it yields through str(), which keeps this type.
    """

    block: str
    frame: Frame
    dot: Value

    def __str__(self) -> str:
        return self


class _LoopJump(Exception):
    """A break or continue that leaves the body it stands in."""


def run(template: JinjaTemplate, rendering: Rendering, root: str) -> str:
    """Renders a compiled template from the body named `root`. Raises TemplateError."""
    data = rendering.call.data
    stack = [_start(template, root, Frame(rendering, data), data)]
    parts: list[str] = []
    size = 0
    while stack:
        body, frame = stack[-1]
        try:
            part = next(body)
        except StopIteration:
            stack.pop()
        except _LoopJump as jump:
            stack.pop()
            frame.jump = str(jump)
        else:
            if isinstance(part, _Entry):
                if len(stack) > MAX_CALL_DEPTH:
                    raise NeverRenders(f"templates call each other more than {MAX_CALL_DEPTH} deep")
                stack.append(_start(template, part.block, part.frame, part.dot))
                continue
            size += len(part)
            if size > MAX_VALUE:
                raise NeverRenders("the rendered text is too long")
            parts.append(part)
    return join(parts)


def _start(
    template: JinjaTemplate, block: str, frame: Frame, dot: Value
) -> tuple[Iterator[str], Frame]:
    context = template.new_context({FRAME: frame, DOT: dot})
    return iter(template.blocks[block](context)), frame


def _frame(context: Context) -> Frame:
    frame = context[FRAME]
    assert isinstance(frame, Frame)
    frame.rendering.budget.spend()
    return frame


@pass_context
def _show(context: Context, value: Value, source: str) -> str:
    rendering = _frame(context).rendering
    if value is None or isinstance(value, NoValue):
        rendering.missing[(value.path if value else "") or source] = None
    text = formatting.show(value)
    rendering.budget.spend_text(text)
    if _is_final(value):
        return rendering.literals.mark(text)
    return text


def _is_final(value: Value) -> bool:
    match value:
        case str():
            return isinstance(value, Literal)
        case GoMap() | GoStruct():
            return any(map(_is_final, value.entries.values()))
        case GoSlice():
            return any(map(_is_final, value.items))
        case _:
            return False


@pass_context
def _field(
    context: Context, access: tuple[tuple[str, ...], str, bool], value: Value, *_final: Value
) -> Value:
    """Looks names up one in another; `access` has them, the source text, whether it is called."""
    _frame(context)
    names, path, has_arguments = access
    for at, name in enumerate(names):
        value = _one_field(value, name, path, has_arguments and at == len(names) - 1)
    return value


def _one_field(value: Value, name: str, path: str, has_arguments: bool) -> Value:
    if isinstance(value, NoValue):
        return value if value.path else NoValue(path)
    if isinstance(value, GoMap | GoStruct) and (name in value.entries or isinstance(value, GoMap)):
        if has_arguments:
            raise TemplateError(f"{name} takes no arguments")
        return value.entries.get(name, NoValue(path))
    if isinstance(value, GoStruct):
        known = ", ".join(f".{known}" for known in value.entries)
        raise NeverRenders(f"{path}: there is no field {name}", hint=f"There is: {known}")
    if value is None:
        raise TemplateError(f"{path}: nil has no field {name}")
    raise TemplateError(f"{path}: a value of type {type_name(value)} has no field {name}")


@pass_context
def _variable(context: Context, name: str) -> Value:
    return _frame(context).cell(name).value


@pass_context
def _declare(context: Context, names: tuple[str, ...], value: Value) -> Value:
    frame = _frame(context)
    for name in names:
        frame.declare(name, value)
    return value


@pass_context
def _assign(context: Context, names: tuple[str, ...], value: Value) -> Value:
    frame = _frame(context)
    for name in names:
        frame.cell(name).value = value
    return value


def _settle(value: Value) -> Value:
    """A command's result: a nil interface becomes no value at all."""
    return NO_VALUE if value is None else value


def _test(value: Value) -> bool:
    return is_true(value)


@pass_context
def _hold(context: Context, value: Value) -> bool:
    """Whether the value is true; the `held` that follows gives it."""
    frame = _frame(context)
    frame.held = value
    return is_true(value)


@pass_context
def _held(context: Context) -> Value:
    return _frame(context).held


@pass_context
def _keep(context: Context, place: int, value: Value) -> bool:
    """Evaluates a value before the expression that uses it; always true."""
    _frame(context).kept[place] = value
    return True


@pass_context
def _kept(context: Context, place: int) -> Value:
    return _frame(context).kept[place]


@pass_context
def _mark(context: Context, block: int) -> None:
    _frame(context).mark(block)


@pass_context
def _release(context: Context, block: int) -> None:
    _frame(context).release(block)


@pass_context
def _turns(
    context: Context, value: Value, names: tuple[str, ...], assigns: bool, block: int
) -> Iterator[Value]:
    """The turns of a range: sets its variables, drops those of the turn before, gives its dot."""
    frame = _frame(context)
    frame.ran[block] = False
    height = frame.height
    for index, element in _elements(value, len(names)):
        frame.rendering.budget.spend()
        frame.drop(height)
        frame.ran[block] = True
        values = (element,) if len(names) == 1 else (index, element)
        for at, name in enumerate(names):
            cell = frame.cell(name) if assigns else frame.top(len(names) - at)
            cell.value = values[at]
        yield element
    frame.drop(height)


def _elements(value: Value, variables: int) -> Iterator[tuple[Value, Value]]:
    match value:
        case None | NoValue():
            return
        case GoMap():
            yield from sorted(value.entries.items())
        case GoSlice():
            yield from enumerate(value.items[: value.length])
        case int() if not isinstance(value, bool):
            if variables > 1:
                raise TemplateError("a range over a number has one variable")
            kind = Byte if isinstance(value, Byte) else int
            for number in range(value):
                yield NO_VALUE, kind(number)
        case _:
            raise TemplateError(f"range cannot iterate over a value of type {type_name(value)}")


@pass_context
def _ran(context: Context, block: int) -> bool:
    return _frame(context).ran[block]


@pass_context
def _invoke(context: Context, name: str, dot: Value) -> str:
    rendering = _frame(context).rendering
    rendering.budget.spend(CALL_STEPS)
    block = rendering.templates.get(name)
    if block is None:
        raise TemplateError(f'template "{name}" not defined')
    entry = _Entry()
    entry.block, entry.frame, entry.dot = block, Frame(rendering, dot), dot
    return entry


@pass_context
def _section(context: Context, block: str, dot: Value) -> str:
    entry = _Entry()
    entry.block, entry.frame, entry.dot = block, _frame(context), dot
    return entry


def _jump(kind: str) -> None:
    raise _LoopJump(kind)


@pass_context
def _jumped(context: Context, kind: str) -> bool:
    frame = _frame(context)
    if frame.jump != kind:
        return False
    frame.jump = ""
    return True


def _fail(message: str) -> None:
    raise TemplateError(message)


def _complex(real: float, imaginary: float) -> complex:
    return complex(real, imaginary)


def _check_argument(function: Function, index: int, value: Value) -> None:
    match function.parameter(index):
        case Parameter.STRING if not isinstance(value, str):
            expected = "string"
        case Parameter.INT if isinstance(value, bool | Byte) or not isinstance(value, int):
            expected = "int"
        case _:
            return
    if value is None or isinstance(value, NoValue):
        path = value.path if value else ""
        raise TemplateError(
            f"{function.name}: {path or 'the argument'} has no value here; expected {expected}"
        )
    raise TemplateError(f"{function.name}: expected {expected}, got {type_name(value)}")


def _callable(function: Function) -> Callable[..., Value]:
    """The function as Jinja calls it: checks its arguments, keeps final text final."""

    @pass_context
    def call(context: Context, *arguments: Value) -> Value:
        rendering = _frame(context).rendering
        for index, value in enumerate(arguments):
            _check_argument(function, index, value)
            if isinstance(value, str):
                rendering.budget.spend_text(value)
        result: Value = function.implementation(rendering.call, *arguments)
        if isinstance(result, str):
            if len(result) > MAX_VALUE:
                raise NeverRenders(f"{function.name} makes a text that is too long")
            rendering.budget.spend_text(result)
            if any(map(_is_final, arguments)):
                return Literal(result)
        return result

    return call


def function_global(name: str) -> str:
    """Under which name the environment has a function of templates."""
    return f"call_{name}"


def environment_globals(functions: Mapping[str, Function]) -> dict[str, Any]:
    """All that the code of a compiled template refers to by name."""
    return {
        "no_value": NO_VALUE,
        "show": _show,
        "field": _field,
        "variable": _variable,
        "declare": _declare,
        "assign": _assign,
        "settle": _settle,
        "test": _test,
        "hold": _hold,
        "held": _held,
        "keep": _keep,
        "kept": _kept,
        "mark": _mark,
        "release": _release,
        "turns": _turns,
        "ran": _ran,
        "invoke": _invoke,
        "section": _section,
        "jump": _jump,
        "jumped": _jumped,
        "fail": _fail,
        "complex_number": _complex,
        **{function_global(name): _callable(function) for name, function in functions.items()},
    }
