"""Trees of source code: what makes another digest, what does not, and where there is none."""

from __future__ import annotations

import ast
import types
from pathlib import Path
from typing import Any

import pytest

from featcache.errors import FingerprintError
from featcache.factories import load_file
from featcache.identity.syntax import check_loaded, class_node, function_node, module_tree, tree_digest

PLAIN = "def f(x):\n    return x + 1\n"
SAME = [
    "def f(x):  # a comment\n    return (x +\n        1)\n",
    'def f(x):\n    """Says something."""\n    return x + 1\n',
    "def f(x):\n\n    return x + 1;\n",
]
OTHER = [
    "def f(x):\n    return x + 2\n",
    "def f(x):\n    return x + 1.0\n",
    "def f(x):\n    return x + True\n",
    "def f(x):\n    return x - 1\n",
    "def f(y):\n    return x + 1\n",
    "def g(x):\n    return x + 1\n",
    "def f(x):\n    x + 1\n",
    "def f(x):\n    return x + '1'\n",
    "def f(x):\n    return x + b'1'\n",
    "def f(x):\n    return x + 1j\n",
    "def f(x=None):\n    return x + 1\n",
    "async def f(x):\n    return x + 1\n",
    "def f(x):\n    return\n",
    "def f(x):\n    return None\n",
    "def f(x):\n    'text'\n    'more'\n    return x + 1\n",
    "def f(x):\n    ...\n    return x + 1\n",
    "def f(x):\n    5\n    return x + 1\n",
    "def f(x):\n    def g():\n        return x\n    return x + 1\n",
    "class f:\n    x = 1\n",
]


def digest_of(source: str) -> str:
    return tree_digest(ast.parse(source))


def test_comments_layout_and_docstrings_are_no_change_and_every_token_is_one() -> None:
    base = digest_of(PLAIN)
    assert {digest_of(source) for source in SAME} == {base}
    found = [base, *(digest_of(source) for source in OTHER)]
    assert len(set(found)) == len(found)
    assert digest_of("'doc'\nX = 1") == digest_of("X = 1") != digest_of("X = 'doc'\n1")
    assert digest_of("class A:\n    'doc'\n    x = 1") == digest_of("class A:\n    x = 1")
    assert digest_of("async def f():\n    'doc'\n    return 1") == digest_of("async def f():\n    return 1")


def test_texts_within_an_f_string_are_one_text_however_they_are_cut() -> None:
    assert digest_of("f'a' 'b{x}'") != digest_of("f'ab{x}'")  # braces of a plain text are text
    assert digest_of("f'a' 'b' f'{x}'") == digest_of("f'ab{x}'") == digest_of("'a' f'b{x}' ''")
    assert len({digest_of(f"f'{text}'") for text in ("a{x}", "b{x}", "{x}a", "a{x}a", "{x}{x}", "{x!r}", "{x:a}")}) == 7


def test_texts_beside_each_other_that_are_no_f_string_are_told_apart() -> None:
    for one, other in (
        ("{1: 'a', 2: 'bc'}", "{1: 'ab', 2: 'c'}"),
        ("x or 'a' or 'bc'", "x or 'ab' or 'c'"),
        ("['a', 'bc']", "['ab', 'c']"),
    ):
        assert digest_of(one) != digest_of(other)


def loaded(folder: Path, source: str) -> types.ModuleType:
    """Return a module with this source; its file is another one each time."""
    path = folder / f"m{len(list(folder.iterdir()))}.py"
    path.write_text(source)
    return load_file(str(path), "module")


TWO = """
def f(x): return x
class A:
    def f(self, x): return -x
    class B:
        def f(self): return 1
    if True:
        class C: pass
def g():
    class D: pass
    return D
@staticmethod
def decorated(x):
    return x
two = (lambda x: x, lambda x: x + 1)
one = lambda x: x + 2
"""


def test_a_function_is_found_by_its_name_and_first_line(tmp_path: Path) -> None:
    made = loaded(tmp_path, TWO)
    for function, line, name in (
        (made.f, 2, "f"), (made.A.f, 4, "f"), (made.A.B.f, 6, "f"), (made.g, 9, "g"), (made.decorated.__func__, 13, "decorated")
    ):  # fmt: skip
        node: Any = function_node(function, "it")
        assert (node.lineno, node.name) == (line, name)
    assert isinstance(function_node(made.one, "it"), ast.Lambda)
    with pytest.raises(FingerprintError, match="it is '<lambda>', but several lambdas stand on its line"):
        function_node(made.two[0], "it")
    moved = types.FunctionType(made.f.__code__.replace(co_firstlineno=1), {})
    with pytest.raises(FingerprintError, match="source cannot be found"):
        function_node(moved, "it")


def test_a_class_is_found_by_all_of_its_name(tmp_path: Path) -> None:
    made = loaded(tmp_path, TWO)
    file = made.__file__
    for kind, line in ((made.A, 3), (made.A.B, 5), (made.A.C, 8), (made.g(), 10)):
        assert class_node(kind, file, "it").lineno == line
    with pytest.raises(FingerprintError, match="source cannot be found"):
        class_node(type("Other", (), {}), file, "it")
    twice = loaded(tmp_path, "class A: pass\nclass A: pass\n")
    with pytest.raises(FingerprintError, match="several classes of that name"):
        class_node(twice.A, twice.__file__, "it")
    with pytest.raises(FingerprintError, match=r"source of it is not available \(no file\)"):
        class_node(made.A, None, "it")


EDITS = {
    "a constant": ("x + 1", "x + 2"),
    "a name": ("x + 1", "y + 1"),
    "an operator": ("x + 1", "x - 1"),
    "a local name": ("def f(x):\n    return x + 1", "def f(y):\n    return y + 1"),
    "an inner function": ("(lambda: 1)()", "(lambda: 2)()"),
    "one more inner function": ("(lambda: 1)()", "[lambda: 1, lambda: 2]"),
    "an attribute": ("x.a", "x.b"),
    "a member of a set": ("x in {1, 2}", "x in {1, 3}"),
}


@pytest.mark.parametrize("what", EDITS)
def test_a_function_whose_file_says_something_else_by_now_is_refused(tmp_path: Path, what: str) -> None:
    before, after = (text if text.startswith("def") else f"def f(x):\n    return {text}" for text in EDITS[what])
    made = loaded(tmp_path, before + "\n")
    check_loaded(made.f, "it")
    path = Path(made.__file__ or "")
    path.write_text(after + "\n# longer\n")
    with pytest.raises(FingerprintError, match=r"the source of 'f' in .* changed after it was loaded"):
        check_loaded(made.f, "it")
    path.write_text("def f(x:\n")
    with pytest.raises(FingerprintError, match="changed after it was loaded"):
        check_loaded(made.f, "it")
    with pytest.raises(FingerprintError, match="does not parse any more"):
        module_tree(str(path), "it")
    path.write_text(before + "  # the same, and a comment\n")
    check_loaded(made.f, "it")
    path.write_text("")
    with pytest.raises(FingerprintError, match="is not available"):
        check_loaded(made.f, "it")


def test_a_function_that_was_moved_in_its_file_is_refused(tmp_path: Path) -> None:
    made = loaded(tmp_path, PLAIN)
    Path(made.__file__ or "").write_text("\n" + PLAIN)
    with pytest.raises(FingerprintError, match="changed after it was loaded"):
        check_loaded(made.f, "it")
