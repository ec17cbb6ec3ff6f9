"""Parses the tokens of a template into its syntax tree, refusing what Go's parser refuses.

Blocks are kept on a stack of our own, so that their depth is not the interpreter's; only
parentheses recurse, to a limit.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from packer_plugin_osc_chroot.template import literals
from packer_plugin_osc_chroot.template.errors import (
    MAX_EXPRESSION_DEPTH,
    MAX_NODES,
    MAX_NUMBER,
    TemplateError,
)
from packer_plugin_osc_chroot.template.lexer import Kind, Token, syntax_error, tokenize
from packer_plugin_osc_chroot.template.tree import (
    ROOT,
    Action,
    Body,
    Bool,
    Branch,
    Break,
    Chain,
    Command,
    Continue,
    Dot,
    Field,
    Identifier,
    Invoke,
    Nil,
    Number,
    Operand,
    Pipe,
    Range,
    Statement,
    String,
    Text,
    Tree,
    Variable,
    is_blank,
)

_OPERANDS = frozenset(
    [
        Kind.BOOL,
        Kind.CHARACTER,
        Kind.COMPLEX,
        Kind.DOT,
        Kind.FIELD,
        Kind.IDENTIFIER,
        Kind.NUMBER,
        Kind.NIL,
        Kind.RAW_STRING,
        Kind.STRING,
        Kind.VARIABLE,
        Kind.OPEN,
    ]
)
_CONSTANTS = (Bool, Dot, Nil, Number, String)


def parse(source: str, functions: Collection[str]) -> Tree:
    """The tree of a template's text; a name outside `functions` is an error, called or not.

    Raises TemplateError.
    """
    return _Parser(source, tokenize(source), functions).run()


@dataclass
class _Block:
    """One open `if`, `with`, `range`, `define`, `block` or the whole text."""

    keyword: str
    start: Token | None = None
    pipe: Pipe | None = None
    name: str = ""
    body: list[Statement] = field(default_factory=list)
    otherwise: list[Statement] | None = None
    outer_variables: list[str] = field(default_factory=list)
    outer_count: int = 0
    outer_range_depth: int = 0
    escapes: bool = False
    chained: bool = False
    """`else if`: this block's `end` ends the one around it too."""

    @property
    def statements(self) -> list[Statement]:
        return self.body if self.otherwise is None else self.otherwise


class _Parser:
    def __init__(self, source: str, tokens: list[Token], functions: Collection[str]) -> None:
        self._source = source
        self._tokens = tokens
        self._functions = functions
        self._next = 0
        self._variables: list[str] = ["$"]
        self._range_depth = 0
        self._depth = 0
        self._nodes = 0
        self._templates: dict[str, Body] = {}
        self._blocks = [_Block("")]

    def run(self) -> Tree:
        while (token := self._take()).kind is not Kind.END:
            if token.kind is Kind.TEXT:
                self._blocks[-1].statements.append(Text(token.text))
            else:
                self._count(token)
                self._action()
        if len(self._blocks) > 1:
            block = self._blocks[-1]
            raise self._error(
                block.start or token, f"unexpected EOF: {{{{{block.keyword}}}}} has no {{{{end}}}}"
            )
        self._define(ROOT, tuple(self._blocks[0].body), token)
        return Tree(self._templates, self._nodes)

    # Tokens

    def _take(self) -> Token:
        token = self._tokens[self._next]
        if token.kind is not Kind.END:
            self._next += 1
        return token

    def _take_word(self) -> Token:
        self._skip_space()
        return self._take()

    def _peek_word(self) -> Token:
        self._skip_space()
        return self._tokens[self._next]

    def _skip_space(self) -> None:
        while self._tokens[self._next].kind is Kind.SPACE:
            self._next += 1

    def _error(self, token: Token, problem: str) -> TemplateError:
        return syntax_error(self._source, token.position, problem)

    def _unexpected(self, token: Token, context: str) -> TemplateError:
        name = token.text if token.kind is Kind.END else f'"{token.text}"'
        return self._error(token, f"unexpected {name} in {context}")

    def _expect_right(self, context: str) -> None:
        token = self._take_word()
        if token.kind is not Kind.RIGHT:
            raise self._unexpected(token, context)

    def _count(self, token: Token) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._error(token, f"the template has more than {MAX_NODES} parts")

    # Statements

    def _action(self) -> None:
        token = self._peek_word()
        if token.kind is not Kind.KEYWORD:
            pipe = self._pipeline("command", Kind.RIGHT)
            self._blocks[-1].statements.append(Action(pipe))
            return
        self._take()
        match token.text:
            case "if" | "with" | "range":
                self._open(token, chained=False)
            case "else":
                self._else(token)
            case "end":
                self._end(token)
            case "break" | "continue":
                self._jump(token)
            case "template":
                self._template()
            case "block":
                self._block(token)
            case _:
                self._definition(token)

    def _open(self, token: Token, *, chained: bool) -> None:
        outer = len(self._variables)
        pipe = self._pipeline(token.text, Kind.RIGHT)
        block = _Block(token.text, token, pipe, chained=chained)
        block.outer_variables, block.outer_count = self._variables, outer
        block.outer_range_depth = self._range_depth
        if token.text == "range":
            self._range_depth += 1
        self._blocks.append(block)

    def _else(self, token: Token) -> None:
        block = self._blocks[-1]
        if block.keyword not in ("if", "with", "range") or block.otherwise is not None:
            raise self._unexpected(token, f"{{{{{block.keyword}}}}}" if block.keyword else "input")
        block.otherwise = []
        self._range_depth = block.outer_range_depth
        following = self._peek_word()
        if following.kind is Kind.KEYWORD and following.text in ("if", "with"):
            if following.text != block.keyword:
                raise self._unexpected(following, f"else of {{{{{block.keyword}}}}}")
            self._count(token)
            self._open(self._take(), chained=True)
            return
        self._expect_right("else")

    def _end(self, token: Token) -> None:
        self._expect_right("end")
        if len(self._blocks) == 1:
            raise self._unexpected(token, "input")
        while self._close(token):
            pass

    def _close(self, token: Token) -> bool:
        """Ends the innermost block; True when the one around it ends with it."""
        block = self._blocks.pop()
        self._variables = block.outer_variables
        del self._variables[block.outer_count :]
        self._range_depth = block.outer_range_depth
        around = self._blocks[-1]
        body, otherwise = tuple(block.body), tuple(block.otherwise or ())
        if block.pipe is None:
            self._define(block.name, body, token)
            return False
        if block.keyword == "range":
            around.statements.append(Range(block.pipe, body, otherwise, block.escapes))
        else:
            around.statements.append(
                Branch(block.keyword == "with", block.pipe, body, otherwise, block.escapes)
            )
        if block.escapes and self._belongs_further_out(around):
            around.escapes = True
        return block.chained

    @staticmethod
    def _belongs_further_out(block: _Block) -> bool:
        """Whether a jump out of something in this block leaves the block too."""
        return block.keyword != "range" or block.otherwise is not None

    def _jump(self, token: Token) -> None:
        self._expect_right(f"{{{{{token.text}}}}}")
        if self._range_depth == 0:
            raise self._error(token, f"{{{{{token.text}}}}} outside {{{{range}}}}")
        block = self._blocks[-1]
        block.statements.append(Break() if token.text == "break" else Continue())
        if self._belongs_further_out(block):
            block.escapes = True

    def _name(self, context: str) -> str:
        token = self._take_word()
        if token.kind not in (Kind.STRING, Kind.RAW_STRING):
            raise self._unexpected(token, context)
        return self._string(token)

    def _template(self) -> None:
        name = self._name("template clause")
        pipe = None
        if self._peek_word().kind is Kind.RIGHT:
            self._take()
        else:
            pipe = self._pipeline("template clause", Kind.RIGHT)
        self._blocks[-1].statements.append(Invoke(name, pipe))

    def _block(self, token: Token) -> None:
        name = self._name("block clause")
        pipe = self._pipeline("block clause", Kind.RIGHT)
        self._blocks[-1].statements.append(Invoke(name, pipe))
        self._open_template(token, name)

    def _definition(self, token: Token) -> None:
        if len(self._blocks) > 1:
            raise self._unexpected(token, f"{{{{{self._blocks[-1].keyword}}}}}")
        name = self._name("define clause")
        self._expect_right("define clause")
        self._open_template(token, name)

    def _open_template(self, token: Token, name: str) -> None:
        block = _Block(token.text, token, name=name)
        block.outer_variables, block.outer_count = self._variables, len(self._variables)
        block.outer_range_depth = self._range_depth
        self._variables = ["$"]
        self._range_depth = 0
        self._blocks.append(block)

    def _define(self, name: str, body: Body, token: Token) -> None:
        existing = self._templates.get(name)
        if existing is None or is_blank(existing):
            self._templates[name] = body
        elif not is_blank(body):
            raise self._error(token, f'multiple definition of template "{name}"')

    # Pipelines

    def _pipeline(self, context: str, end: Kind) -> Pipe:
        start = self._peek_word()
        variables, assigns = self._declarations(context)
        commands: list[Command] = []
        while (token := self._take_word()).kind is not end:
            if token.kind not in _OPERANDS:
                raise self._unexpected(token, context)
            self._next -= 1
            commands.append(self._command())
        if not commands:
            raise self._error(token, f"missing value for {context}")
        for stage, command in enumerate(commands[1:], start=2):
            if isinstance(command.operands[0], _CONSTANTS):
                raise self._error(start, f"non executable command in pipeline stage {stage}")
        if len(commands) > MAX_EXPRESSION_DEPTH:
            raise self._error(start, f"pipeline of more than {MAX_EXPRESSION_DEPTH} stages")
        text = self._source[start.position : token.position].rstrip(" \t\r\n")
        return Pipe(tuple(variables), assigns, tuple(commands), text, start.position)

    def _declarations(self, context: str) -> tuple[list[str], bool]:
        """`$x :=`, `$x =`, and in a range `$i, $x :=`; what is none of these stays unread."""
        variables: list[str] = []
        assigns = False
        while (token := self._peek_word()).kind is Kind.VARIABLE:
            position = self._next
            self._take()
            following = self._peek_word()
            if following.kind in (Kind.ASSIGN, Kind.DECLARE):
                self._take()
                assigns = following.kind is Kind.ASSIGN
                variables.append(token.text)
                self._variables.append(token.text)
                break
            if following.kind is not Kind.COMMA:
                self._next = position
                break
            self._take()
            variables.append(token.text)
            self._variables.append(token.text)
            if context != "range" or len(variables) > 1:
                raise self._error(token, f"too many declarations in {context}")
            if self._peek_word().kind not in (Kind.VARIABLE, Kind.RIGHT, Kind.CLOSE):
                raise self._error(token, "range can only initialize variables")
        return variables, assigns

    def _command(self) -> Command:
        operands: list[Operand] = []
        while True:
            operand = self._operand()
            if operand is not None:
                operands.append(operand)
            token = self._take()
            if token.kind is Kind.SPACE:
                continue
            if token.kind in (Kind.RIGHT, Kind.CLOSE):
                self._next -= 1
            elif token.kind is not Kind.PIPE:
                raise self._unexpected(token, "operand")
            return Command(tuple(operands))

    def _operand(self) -> Operand | None:
        token = self._peek_word()
        if token.kind not in _OPERANDS:
            return None
        self._count(token)
        self._take()
        term = self._term(token)
        fields: list[str] = []
        while self._tokens[self._next].kind is Kind.FIELD:
            fields.append(self._take().text[1:])
        if not fields:
            return term
        if isinstance(term, Field):
            return Field((*term.names, *fields))
        if isinstance(term, Variable):
            return Variable(term.name, tuple(fields))
        if isinstance(term, Pipe | Identifier):
            return Chain(term, tuple(fields))
        raise self._error(token, f'unexpected . after term "{token.text}"')

    def _term(self, token: Token) -> Operand:
        match token.kind:
            case Kind.IDENTIFIER:
                if token.text not in self._functions:
                    raise self._error(token, f'function "{token.text}" not defined')
                return Identifier(token.text)
            case Kind.DOT:
                return Dot()
            case Kind.NIL:
                return Nil()
            case Kind.BOOL:
                return Bool(token.text == "true")
            case Kind.FIELD:
                return Field((token.text[1:],))
            case Kind.VARIABLE:
                if token.text not in self._variables:
                    raise self._error(token, f'undefined variable "{token.text}"')
                return Variable(token.text, ())
            case Kind.STRING | Kind.RAW_STRING:
                return String(self._string(token))
            case Kind.OPEN:
                return self._parenthesized(token)
            case _:
                return self._number(token)

    def _parenthesized(self, token: Token) -> Pipe:
        if self._depth >= MAX_EXPRESSION_DEPTH:
            raise self._error(token, f"parentheses nested more than {MAX_EXPRESSION_DEPTH} deep")
        self._depth += 1
        try:
            return self._pipeline("parenthesized pipeline", Kind.CLOSE)
        finally:
            self._depth -= 1

    def _string(self, token: Token) -> str:
        value = literals.unquote(token.text)
        if value is None:
            raise self._error(token, f"invalid escape in the string {token.text}")
        return value

    def _number(self, token: Token) -> Number:
        if token.kind is Kind.CHARACTER:
            constant = literals.character(token.text)
            if constant is None:
                raise self._error(token, f"malformed character constant: {token.text}")
            return constant
        if len(token.text) > MAX_NUMBER:
            raise self._error(token, f"a number of more than {MAX_NUMBER} characters")
        read = literals.complex_number if token.kind is Kind.COMPLEX else literals.number
        value = read(token.text)
        if isinstance(value, str):
            raise self._error(token, value)
        return value
