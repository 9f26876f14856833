"""The role of every identifier: by hand, and as Python's own symbol tables have it."""

from __future__ import annotations

import ast
import symtable
import sys
from pathlib import Path

import pytest

from seqlab.data.sources import stdlib
from seqlab.data.sources.generated import python_roles
from seqlab.data.sources.generated.python_roles import functions


def tagged(source: str) -> str:
    """The identifiers of all functions, each with its role."""
    found = functions(source)
    assert found is not None
    return " ".join(
        f"{word}/{role}"
        for function in found
        for word, role in zip(function.words, function.roles, strict=True)
        if role != "O"
    )


CASES = {
    "parameters, everywhere they are used": (
        "def f(a, /, b=1, *c, d: int = 2, **e) -> str:\n    return a + b, c, d, e\n",
        "f/definition a/parameter b/parameter c/parameter d/parameter int/global e/parameter str/global "
        "a/parameter b/parameter c/parameter d/parameter e/parameter",
    ),
    "a parameter that is bound again stays one": (
        "def f(a):\n    a = b = 1\n    del b\n    a += 1\n",
        "f/definition a/parameter a/parameter b/local b/local a/parameter",
    ),
    "bound below is local above": (
        "def f():\n    print(x)\n    for x, *y in z: w: int = x\n",
        "f/definition print/call x/local x/local y/local z/global w/local int/global x/local",
    ),
    "calls, methods, attributes, keywords": (
        "def f(a):\n    a(b, k=a)(c).d.e(**a, l=a.g).h = a[0]()\n",
        "f/definition a/parameter a/call b/global k/keyword a/parameter c/global d/attribute e/method a/parameter "
        "l/keyword a/parameter g/attribute h/attribute a/parameter",
    ),
    "the same on several lines": (
        "def f(a):\n    return (a\n        . b\n        . c\n        (x\n         =a))\n",
        "f/definition a/parameter a/parameter b/attribute c/method x/keyword a/parameter",
    ),
    "imports": (
        "def f():\n    import a.b as c, d.e\n    from .g import h as i\n    from . import (\n        j,\n    )\n"
        "    return c, d, e, h, i, j\n",
        "f/definition a/import b/import c/import d/import e/import g/import h/import i/import j/import "
        "c/local d/local e/global h/global i/local j/local",
    ),
    "closures": (
        "def f(a):\n    b = 1\n    def g(c=a):\n        nonlocal b\n        b = a\n        def h(): return a, b, c, d\n"
        "    return lambda a, e=b: a + b + e\n",
        "f/definition a/parameter b/local g/definition c/parameter a/parameter b/free b/free a/free "
        "h/definition a/free b/free c/free d/global "
        "a/parameter e/parameter b/local a/parameter b/free e/parameter",
    ),
    "global names": (
        "def f():\n    global x, y\n    x = z\n    def g():\n        return x\n",
        "f/definition x/global y/global x/global z/global g/definition x/global",
    ),
    "an inner function may declare what the outer one binds": (
        "def f():\n    x = 1\n    def g():\n        global x\n        x = 2\n        def h(): return x\n",
        "f/definition x/local g/definition x/global x/global h/definition x/global",
    ),
    "comprehensions": (
        "def f(a, x):\n    return [x + a + w for x in x if (w := y) for y in x], {k: v for k, v in a}, w, y\n",
        "f/definition a/parameter x/parameter x/local a/parameter w/local x/local x/parameter w/local y/local "
        "y/local x/local k/local v/local k/local v/local a/parameter w/local y/global",
    ),
    "a lambda in a comprehension": (
        "def f(a):\n    return [lambda: (b, a) for b in {c for c in a}]\n",
        "f/definition a/parameter b/free a/free b/local c/local c/local a/parameter",
    ),
    "a class in a function": (
        "def f(a):\n    @a\n    class C(a.B, metaclass=M):\n        x = a\n        y = x, [x for _ in a]\n"
        "        def g(self): return x, a, C\n    return C\n",
        "f/definition a/parameter a/parameter C/definition a/parameter B/attribute metaclass/keyword M/global "
        "x/local a/free y/local x/local x/global _/local a/free "
        "g/definition self/parameter x/global a/free C/free C/local",
    ),
    "methods, without their decorators": (
        "class C:\n    x = 1\n    @property\n    def g(self):\n        return x\n    if x:\n"
        "        async def h(self):\n            await self.g\n",
        "g/definition self/parameter x/global h/definition self/parameter self/parameter g/attribute",
    ),
    "exceptions and contexts": (
        "def f():\n    try:\n        with a() as b, c: pass\n    except (b, e.E) as e:\n        raise e from e\n",
        "f/definition a/call b/local c/global b/local e/local E/attribute e/local e/local e/local",
    ),
    "patterns": (
        "def f(match):\n    match match:\n        case C(a, k=(1 | 2), l=[x, *y]) as z: pass\n"
        "        case {'k': m.n, **rest}: pass\n        case _: match = _\n    case = type(case)\n",
        "f/definition match/parameter match/parameter C/global a/local k/keyword l/keyword x/local y/local z/local "
        "m/global n/attribute rest/local match/parameter _/global case/local type/call case/local",
    ),
    "f-strings are one word": (
        "def f(a):\n    return f'{a} {f\"{a!r:>{a}}\"} {{' f'' + a\n",
        "f/definition a/parameter a/parameter",
    ),
    "letters of several bytes": (
        "def f(é):\n    return 'ßß', é, x.ö, g(ü=é)\n",
        "f/definition é/parameter é/parameter x/global ö/attribute g/call ü/keyword é/parameter",
    ),
    "one line, and a file that ends in it": (
        "def f(a): a = 1; return a",
        "f/definition a/parameter a/parameter a/parameter",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_roles(case: str) -> None:
    source, expected = CASES[case]
    assert tagged(source) == expected


def test_words_and_what_is_no_identifier() -> None:
    source = (
        "import os\n"
        "class C:\n"
        "    def f(self):  # comment\n"
        '        """Doc."""\n'
        "        if self is None:\n"
        "            x = [1.5,\n"
        "\n"
        "                 'a' \"b\"]\n"
        "        return not x\n"
        "    y = 1\n"
        "    def g(): pass\n"
    )
    f, g = functions(source) or []
    assert (f.line, g.line) == (3, 11)
    assert " ".join(f.words) == (
        "def f ( self ) : <newline> <indent> <string> <newline> if self is None : <newline> <indent> "
        "x = [ 1.5 , <string> <string> ] <newline> <dedent> return not x"
    )
    assert [role for word, role in zip(f.words, f.roles, strict=True) if word in ("self", "x", "f")] == [
        "definition",
        "parameter",
        "parameter",
        "local",
        "local",
    ]
    assert g.words == ("def", "g", "(", ")", ":", "pass")


def test_what_is_no_python_or_has_no_functions() -> None:
    assert functions("def (:") is None
    assert functions("x\x00") is None
    assert functions("") == functions("x = lambda y: y\n") == []


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type parameters are new in Python 3.12")
def test_a_grammar_that_is_not_explained_is_not_guessed_at() -> None:
    ((_, words, roles),) = functions("def f[T](x: T): pass\n") or []
    assert roles[words.index("T")] is None


def test_every_identifier_of_a_large_module_has_a_role() -> None:
    found = functions((stdlib.library() / "typing.py").read_text(encoding="utf-8")) or []
    assert len(found) > 100
    assert all(None not in function.roles for function in found)


@pytest.mark.parametrize(
    "file", ["typing.py", "functools.py", "inspect.py", "argparse.py", "asyncio/tasks.py", "unittest/mock.py"]
)
def test_variables_are_what_the_symbol_tables_of_python_say(file: str) -> None:
    source = (stdlib.library() / Path(file)).read_text(encoding="utf-8")
    visitor = python_roles._Roles(python_roles._Identifiers(list(python_roles._words(source))))
    nodes: dict[tuple[str, int], ast.FunctionDef | ast.AsyncFunctionDef] = {}
    for node in python_roles._outermost(ast.parse(source)):
        visitor.visit(node)
        nodes |= {
            (inner.name, inner.lineno): inner
            for inner in ast.walk(node)
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
        }
    compared = 0
    for table in tables(symtable.symtable(source, file, "exec")):
        node = nodes.get((table.get_name(), table.get_lineno()))
        if node is None or table.get_type() != "function":
            continue
        for name in own_names(node):
            symbol = table.lookup(name.id)
            expected = (
                "parameter"
                if symbol.is_parameter()
                else "free"
                if symbol.is_free()
                else "global"
                if symbol.is_global()
                else "local"
            )
            role = visitor.roles[name.lineno, name.col_offset]
            if role != "call":
                assert role == expected, (file, name.lineno, name.id)
                compared += 1
    assert compared > 100


def tables(table: symtable.SymbolTable) -> list[symtable.SymbolTable]:
    return [table, *(inner for child in table.get_children() for inner in tables(child))]


def own_names(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.Name]:
    """The variables in its body, but for those in blocks inside it and in f-strings."""
    others = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda | ast.GeneratorExp | ast.JoinedStr
    others |= ast.ListComp | ast.SetComp | ast.DictComp
    found: list[ast.Name] = []

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.Name) and node.id != "__class__":
            found.append(node)
        if not isinstance(node, others):
            for child in ast.iter_child_nodes(node):
                walk(child)

    for statement in function.body:
        walk(statement)
    return found
