"""Templates as the rest of the builder uses them: compile a string, render it.

A string without an action is rendered by giving it back: Jinja2 is loaded by the first one that
has one. How often a text is rendered is the option's affair: Packer renders a configuration once
when it is decoded, and what is rendered late again and again until nothing changes.
"""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packer_plugin_osc_chroot.template.errors import (
    MAX_PASSES,
    MAX_SOURCE,
    PART_STEPS,
    NeverRenders,
    TemplateError,
)
from packer_plugin_osc_chroot.template.scope import Call, Scope
from packer_plugin_osc_chroot.template.values import (
    DECODE_DATA,
    Fields,
    Literal,
    StringMap,
    from_data,
)

if TYPE_CHECKING:
    from packer_plugin_osc_chroot.template.compiler import Compiled
    from packer_plugin_osc_chroot.template.rendering import Budget, Literals
    from packer_plugin_osc_chroot.template.values import Value

__all__ = [
    "DECODE_DATA",
    "Fields",
    "Literal",
    "NeverRenders",
    "Rendered",
    "Scope",
    "StringMap",
    "Template",
    "TemplateError",
    "compile_template",
]


@dataclass(frozen=True)
class Rendered:
    """A rendered text. `missing`: what it shows as `<no value>`, as its template writes it."""

    text: str
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Template:
    """A compiled template: immutable, may be rendered by several threads at once.

    Data is a mapping (a missing key gives `<no value>`; StringMap is Go's map[string]string),
    Fields (a struct: a missing field is an error), DECODE_DATA, or None. A string in it that is a
    Literal is final text: later passes leave it alone.
    """

    source: str
    compiled: "Compiled | None"

    def render_once(self, scope: Scope, data: object) -> str:
        """One pass: what the values hold is not looked at. Raises TemplateError."""
        return self.render_once_reporting(scope, data).text

    def render_once_reporting(self, scope: Scope, data: object) -> Rendered:
        """`render_once`, and what had no value."""
        return self._render(scope, data, passes=1)

    def render(self, scope: Scope, data: object) -> str:
        """Passes until the text stays the same. Raises TemplateError, also when it never does."""
        return self.render_reporting(scope, data).text

    def render_reporting(self, scope: Scope, data: object) -> Rendered:
        """`render`, and what had no value."""
        return self._render(scope, data, passes=MAX_PASSES)

    def _render(self, scope: Scope, data: object, *, passes: int) -> Rendered:
        if self.compiled is None:
            return Rendered(self.source, ())
        from packer_plugin_osc_chroot.template.rendering import Budget, Literals

        values = from_data(data)
        budget, literals = Budget(), Literals()
        missing: dict[str, None] = {}
        template, text = self, self.source
        for _ in range(passes):
            before = text
            text = template._pass(scope, values, budget, literals, missing)
            if text == before or passes == 1:
                break
            template = compile_template(text)
            if template.compiled is not None:
                budget.spend_text(text)
                budget.spend(template.compiled.parts * PART_STEPS)
        else:
            raise NeverRenders(
                "the rendered text holds template text again and again",
                hint="A variable's value is rendered too: it must not refer to itself",
            )
        shown = tuple(missing) if "<no value>" in text else ()
        return Rendered(literals.restore(text), shown)

    def _pass(
        self,
        scope: Scope,
        data: "Value",
        budget: "Budget",
        literals: "Literals",
        missing: dict[str, None],
    ) -> str:
        if self.compiled is None:
            return self.source
        from packer_plugin_osc_chroot.template import runtime
        from packer_plugin_osc_chroot.template.rendering import Rendering

        compiled = self.compiled
        rendering = Rendering(Call(scope, data), budget, literals, compiled.templates)
        try:
            text = runtime.run(compiled.jinja, rendering, compiled.root)
        except RecursionError as error:
            raise TemplateError("an expression of the template is nested too deep") from error
        missing.update(rendering.missing)
        return text


def compile_template(text: str) -> Template:
    """Raises TemplateError: bad syntax, or a function that does not exist, called or not."""
    # Not kept: it may be any text that a rendering made.
    return _compile(text) if "{{" in text else Template(text, None)


# Each late option is compiled by Prepare, tried before anything is made, and used.
@functools.lru_cache(maxsize=256)
def _compile(text: str) -> Template:
    if len(text) > MAX_SOURCE:
        raise TemplateError(f"the template has {len(text)} characters, more than {MAX_SOURCE}")
    from packer_plugin_osc_chroot.template.compiler import compile_tree
    from packer_plugin_osc_chroot.template.parser import parse
    from packer_plugin_osc_chroot.template.registry import FUNCTIONS

    return Template(text, compile_tree(parse(text, FUNCTIONS)))
