"""Python source to words and the role of every identifier among them, by the syntax tree and the rules of scoping.

The words are those of Python's grammar, as `tokenize` finds them. The roles are

    definition        the name in the definition of a function or class
    parameter         of this function, where it is declared and wherever it is used
    local             any other variable that this function binds
    free              a variable of a function around this one
    global            any other variable: of the module, of a class around, of Python itself
    call              a name that is called, whatever it is
    attribute         a name after a dot
    method            a name after a dot that is called
    keyword           the name of an argument, in a call or in a class pattern
    import            a name in an import statement

What binds a name, and where it is looked for, is in the Python reference, section 4.2. A variable of a comprehension is
local to the function that the comprehension is in, and a class body has its variables as a function has.
"""

from __future__ import annotations

import ast
import io
import keyword
import tokenize
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from seqlab.data.sources import stdlib

OUTSIDE = "O"  # the tag of what is no identifier

_NO_WORDS = {tokenize.COMMENT, tokenize.NL, tokenize.ENDMARKER}
_STAND_INS = {
    tokenize.STRING: "<string>",  # whatever it says: a docstring would be hundreds of words
    tokenize.NEWLINE: "<newline>",
    tokenize.INDENT: "<indent>",
    tokenize.DEDENT: "<dedent>",
}
_FSTRING_START = getattr(tokenize, "FSTRING_START", None)  # from Python 3.12 on what is in an f-string is tokens too
_FSTRING_END = getattr(tokenize, "FSTRING_END", None)

_Place = tuple[int, int]  # line, from 1 on, and UTF-8 byte in it, as in a syntax tree
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
_Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


class Function(NamedTuple):
    """A function that is in no other, from its `def` to its last word.

    line   where it begins
    words  strings are "<string>", and a block is between "<indent>" and "<dedent>"
    roles  one per word; None for an identifier that these rules do not explain, in the grammar of a newer Python
    """

    line: int
    words: tuple[str, ...]
    roles: tuple[str | None, ...]


def functions(source: str) -> list[Function] | None:
    """Those of a module in the order of the file, methods among them; None where it is no Python."""
    tree = stdlib.syntax_tree(source)
    if tree is None:
        return None
    words = list(_words(source))
    places = [word.place for word in words]
    visitor = _Roles(_Identifiers(words))
    for node in _outermost(tree):
        visitor.visit(node)
    found = []
    for node in _outermost(tree):
        begin = bisect_left(places, (node.lineno, node.col_offset))
        while words[begin].text == "<dedent>":  # of the block before
            begin += 1
        inside = words[begin : bisect_left(places, _end(node))]
        roles = tuple(_tag(word, visitor.roles) for word in inside)
        found.append(Function(node.lineno, tuple(word.text for word in inside), roles))
    return found


class _Word(NamedTuple):
    text: str
    place: _Place
    identifier: bool


def _words(source: str) -> Iterator[_Word]:
    lines = source.split("\n")
    fstrings = 0
    for kind, text, (row, column), _, _ in tokenize.generate_tokens(io.StringIO(source).readline):
        if kind in _NO_WORDS:
            continue
        if column and not lines[row - 1].isascii():
            column = len(lines[row - 1][:column].encode())
        if kind == _FSTRING_START:
            if not fstrings:
                yield _Word("<string>", (row, column), False)
            fstrings += 1
        elif kind == _FSTRING_END:
            fstrings -= 1
        elif not fstrings:
            identifier = kind == tokenize.NAME and not keyword.iskeyword(text)
            yield _Word(_STAND_INS.get(kind, text), (row, column), identifier)


def _tag(word: _Word, roles: dict[_Place, str]) -> str | None:
    if not word.identifier:
        return OUTSIDE
    return roles.get(word.place) or (OUTSIDE if keyword.issoftkeyword(word.text) else None)


def _outermost(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        elif isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from _outermost(child)


def _start(node: ast.expr | ast.stmt | ast.arg | ast.keyword | ast.pattern | ast.excepthandler) -> _Place:
    return node.lineno, node.col_offset


def _end(node: ast.expr | ast.stmt | ast.pattern) -> _Place:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return node.end_lineno, node.end_col_offset


class _Identifiers:
    """Where they are: a syntax tree has the places of expressions, but not of all names."""

    def __init__(self, words: Sequence[_Word]) -> None:
        identifiers = [word for word in words if word.identifier]
        self._texts = [word.text for word in identifiers]
        self._places = [word.place for word in identifiers]

    def first(self, text: str, start: _Place) -> _Place:
        """Of that text, at the place or after it."""
        return self._places[self._texts.index(text, bisect_left(self._places, start))]

    def last(self, end: _Place) -> _Place:
        """Before the place."""
        return self._places[bisect_left(self._places, end) - 1]

    def between(self, start: _Place, end: _Place) -> list[tuple[str, _Place]]:
        inside = slice(bisect_left(self._places, start), bisect_left(self._places, end))
        return list(zip(self._texts[inside], self._places[inside], strict=True))


class _Bindings(ast.NodeVisitor):
    """The names that a block binds, without what is in blocks inside it, and those it declares to be from elsewhere."""

    def __init__(self, block: Sequence[ast.AST]) -> None:
        self.names: set[str] = set()
        self.elsewhere: dict[str, str] = {}
        for node in block:
            self.visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if not isinstance(node.ctx, ast.Load):
            self.names.add(node.id)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        self.names.add(node.name)
        self.visit_Lambda(node)

    visit_AsyncFunctionDef = visit_ClassDef = visit_FunctionDef

    def visit_Lambda(self, node: _Definition) -> None:
        for part in _evaluated_outside(node):
            self.visit(part)

    def visit_ListComp(self, node: _Comprehension) -> None:
        # Its variables are its own, but `:=` binds in the block around.
        for inner in ast.walk(node):
            if isinstance(inner, ast.NamedExpr):
                self.visit(inner.target)

    visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_ListComp

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}

    visit_ImportFrom = visit_Import

    def visit_ExceptHandler(self, node: ast.ExceptHandler | ast.MatchAs | ast.MatchStar) -> None:
        if node.name:
            self.names.add(node.name)
        self.generic_visit(node)

    visit_MatchAs = visit_MatchStar = visit_ExceptHandler

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        if node.rest:
            self.names.add(node.rest)
        self.generic_visit(node)

    def visit_Global(self, node: ast.Global) -> None:
        self.elsewhere |= dict.fromkeys(node.names, "global")

    def visit_Nonlocal(self, node: ast.Nonlocal) -> None:
        self.elsewhere |= dict.fromkeys(node.names, "free")


class _Scope:
    """What a name means in a block.

    around     the scope where names are looked for that are not found here
    seamless   a comprehension: variables of the function it is in are not free in it
    """

    def __init__(
        self, block: Sequence[ast.AST], parameters: set[str], around: _Scope | None, seamless: bool = False
    ) -> None:
        bindings = _Bindings(block)
        self.parameters, self.names, self.elsewhere = parameters, bindings.names, bindings.elsewhere
        self.around, self.seamless = around, seamless

    def role(self, name: str) -> str:
        if name in self.elsewhere:
            return self.elsewhere[name]
        if name in self.parameters:
            return "parameter"
        if name in self.names:
            return "local"
        if self.seamless and self.around:
            return self.around.role(name)
        return "free" if self.around and self.around.has(name) else "global"

    def has(self, name: str) -> bool:
        """Whether it is a variable of this function, or of one around."""
        if name in self.elsewhere:
            return self.elsewhere[name] == "free"
        return name in self.parameters | self.names or (self.around is not None and self.around.has(name))


class _Roles(ast.NodeVisitor):
    """Collects the role of every identifier by its place. `visit` wants functions that are in no other."""

    def __init__(self, identifiers: _Identifiers) -> None:
        self.roles: dict[_Place, str] = {}
        self._identifiers = identifiers
        self._scope = _Scope([], set(), None)  # of the module: all that is not found elsewhere is global
        self._in_class = False

    def _inside(self, scope: _Scope, block: Sequence[ast.AST], in_class: bool = False) -> None:
        """Visit a block in its scope, then come back."""
        before = self._scope, self._in_class
        self._scope, self._in_class = scope, in_class
        for node in block:
            self.visit(node)
        self._scope, self._in_class = before

    @property
    def _around(self) -> _Scope | None:
        """What a block begun here looks through: not the variables of a class."""
        return self._scope.around if self._in_class else self._scope

    def _outside(self, node: _Definition) -> None:
        for part in _evaluated_outside(node):
            self.visit(part)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.roles[self._identifiers.first(node.name, _start(node))] = "definition"
        self._outside(node)
        self._function(node.args, node.body)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._outside(node)
        self._function(node.args, [node.body])

    def _function(self, arguments: ast.arguments, body: Sequence[ast.AST]) -> None:
        parameters = _parameters(arguments)
        self.roles |= {_start(parameter): "parameter" for parameter in parameters}
        self._inside(_Scope(body, {parameter.arg for parameter in parameters}, self._around), body)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.roles[self._identifiers.first(node.name, _start(node))] = "definition"
        self._outside(node)
        self._inside(_Scope(node.body, set(), self._around), node.body, in_class=True)

    def visit_ListComp(self, node: _Comprehension) -> None:
        first, *others = node.generators
        self.visit(first.iter)  # in the block around
        targets = [generator.target for generator in node.generators]
        values = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        inside = [*targets, *first.ifs, *(part for other in others for part in (other.iter, *other.ifs)), *values]
        self._inside(_Scope(targets, set(), self._around, seamless=not self._in_class), inside)

    visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_ListComp

    def visit_Name(self, node: ast.Name) -> None:
        self.roles[_start(node)] = self._scope.role(node.id)

    def visit_Attribute(self, node: ast.Attribute, role: str = "attribute") -> None:
        self.visit(node.value)
        self.roles[self._identifiers.last(_end(node))] = role

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name):
            self.roles[_start(node.func)] = "call"
        elif isinstance(node.func, ast.Attribute):
            self.visit_Attribute(node.func, "method")
        else:
            self.visit(node.func)
        for argument in (*node.args, *node.keywords):
            self.visit(argument)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg is not None:  # not in **arguments
            self.roles[_start(node)] = "keyword"
        self.visit(node.value)

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        for _, place in self._identifiers.between(_start(node), _end(node)):
            self.roles[place] = "import"

    visit_ImportFrom = visit_Import

    def visit_Global(self, node: ast.Global | ast.Nonlocal) -> None:
        for text, place in self._identifiers.between(_start(node), _end(node)):
            self.roles[place] = self._scope.role(text)

    visit_Nonlocal = visit_Global

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name and node.type:
            self.roles[self._identifiers.first(node.name, _end(node.type))] = self._scope.role(node.name)
        self.generic_visit(node)

    def visit_MatchAs(self, node: ast.MatchAs | ast.MatchStar) -> None:
        self._captured(node, node.name)

    visit_MatchStar = visit_MatchAs

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        self._captured(node, node.rest)

    def _captured(self, node: ast.pattern, name: str | None) -> None:
        self.generic_visit(node)
        if name is not None:
            self.roles[self._identifiers.last(_end(node))] = self._scope.role(name)

    def visit_MatchClass(self, node: ast.MatchClass) -> None:
        self.generic_visit(node)
        for pattern in node.kwd_patterns:  # name=pattern, which may be in parentheses
            self.roles[self._identifiers.last(_start(pattern))] = "keyword"

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """An f-string is one word."""


def _parameters(arguments: ast.arguments) -> list[ast.arg]:
    several = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [*several, *(one for one in (arguments.vararg, arguments.kwarg) if one)]


def _evaluated_outside(node: _Definition) -> list[ast.AST]:
    """What stands in a definition but belongs to the block around it: decorators, defaults, annotations, bases."""
    if isinstance(node, ast.ClassDef):
        return [*node.decorator_list, *node.bases, *node.keywords]
    parts: list[ast.AST | None] = [*node.args.defaults, *node.args.kw_defaults]
    if not isinstance(node, ast.Lambda):
        parts += [*node.decorator_list, node.returns, *(one.annotation for one in _parameters(node.args))]
    return [part for part in parts if part]
