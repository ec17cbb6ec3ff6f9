"""The errors of the template language, and the limits that bound hostile input."""

from packer_plugin_osc_chroot.errors import BuildError

MAX_SOURCE = 16 << 20
"""Characters of template text."""
MAX_NODES = 2_500
"""Actions, arguments and blocks of one template: what compiles within about a second."""
MAX_TOKENS = 20_000
"""Tokens of one template."""
MAX_NUMBER = 1_000
"""Characters of a number."""
MAX_EXPRESSION_DEPTH = 40
"""Parentheses and pipeline stages inside each other; CPython's own parser stops at about 90."""
MAX_VALUE = 16 << 20
"""Characters of one value or of a rendered text."""
STEP_TEXT = 100
"""Characters of an argument, a result or a pass that count as one step: the slowest functions take
a quarter of a microsecond for each."""
CALL_STEPS = 5
"""What a template that is called costs beside its own steps."""
PART_STEPS = 10
"""What each part costs that is compiled for another pass."""
MAX_STEPS = 100_000
"""Function calls, loop turns and printed values of one text, over all its passes."""
MAX_CALL_DEPTH = 4_000
"""Templates calling templates."""
MAX_PASSES = 100
"""Renderings of a text whose values hold template text again."""


class TemplateError(BuildError):
    """A template that cannot be compiled or rendered; the message never holds a variable's value."""


class NeverRenders(TemplateError):
    """A template that fails whatever the data's values are: a field that does not exist, a refused
    function, a limit. Known as soon as it is rendered with made-up values."""
