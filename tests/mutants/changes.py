"""Small changes at random: what the operators of a tool for mutants make of the rooms that decide what is stale, what a row is
and what is safe."""

from __future__ import annotations

import ast
import difflib
import random
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names
from parso.python.tree import Keyword

PACKAGE = Path(__file__).parents[2] / "featcache"
ROOMS = ("identity", "samples", "store", "splitting")
FILES = ("extraction/missing.py", "training/rows.py")
# Of each operator, what people mix up; that a string cannot be divided is noticed by every test.
OPERATORS = re.compile(
    r"core/(ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_(FloorDiv|Add)|Div_Mul|FloorDiv_(Mul|Mod)|Mod_FloorDiv|Pow_Mul"
    r"|RShift_LShift|LShift_RShift|BitOr_BitAnd|BitAnd_BitOr|BitXor_BitAnd)"
    r"|ReplaceComparisonOperator_(?!\w+_Is(Not)?$|Is_|IsNot_)\w+|ReplaceComparisonOperator_(Is_IsNot|IsNot_Is)"
    r"|ReplaceUnaryOperator_(USub_UAdd|Delete_\w+)|AddNot|Replace(True|False|And|Or|Break|Continue)With\w+"
    r"|ExceptionReplacer|NumberReplacer|RemoveDecorator|ZeroIterationForLoop)"
)


class DeleteStatement(Operator):
    """Leaves out a call, a change in place, or an error: what the operators of the tool never do."""

    def mutation_positions(self, node):
        """Yield where a statement can go."""
        if node.type == "simple_stmt":
            what = node.children[0]
            changes = what.type == "expr_stmt" and str(getattr(what.children[1], "value", "=")) != "="
            if what.type in ("atom_expr", "raise_stmt") or what == "raise" or changes:
                yield what.start_pos, what.end_pos

    def mutate(self, node, index):
        """Return the statement as one that does nothing."""
        node.children[0] = Keyword("pass", node.start_pos, prefix=node.get_first_leaf().prefix)
        return node

    @classmethod
    def examples(cls):
        """Return no examples, which only the tool's own tests need."""
        return ()


@dataclass(frozen=True)
class Mutant:
    """A file with a small change."""

    file: str  # in the package, as "store/shard.py"
    before: str
    after: str

    @property
    def diff(self) -> str:
        """Return the change as a unified diff."""
        lines = (text.splitlines(keepends=True) for text in (self.before, self.after))
        return "".join(difflib.unified_diff(*lines, f"a/featcache/{self.file}", f"b/featcache/{self.file}", n=2))

    @property
    def key(self) -> tuple[str, ...]:
        """Return the file and the lines that differ, by which a mutant is known wherever they stand."""
        lines = self.diff.splitlines()[2:]
        return (self.file, *(f"{line[0]} {line[1:].strip()}" for line in lines if line[0] in "+-" and line[1:].strip()))


def annotated(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield where annotations begin and end: nothing runs them."""
    for node in ast.walk(ast.parse(source)):
        for each in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if each is not None:
                yield (each.lineno, each.col_offset), (each.end_lineno, each.end_col_offset)


def chosen(count: int, rng: random.Random, only: str) -> list[Mutant]:
    """Return so many mutants, each at another place: first a place is drawn, then what becomes of it."""
    operators = {name: get_operator(name)() for name in operator_names() if OPERATORS.fullmatch(name)}
    operators["DeleteStatement"] = DeleteStatement()
    files = [*(file for room in ROOMS for file in sorted((PACKAGE / room).glob("*.py"))), *map(PACKAGE.joinpath, FILES)]
    places: dict[tuple[str, str, object], list[tuple[str, int]]] = {}
    sources = {str(file.relative_to(PACKAGE)): file.read_text("utf-8") for file in files if file.name != "__init__.py"}
    for file, source in sources.items():
        if not re.search(only, file):
            continue
        unused, seen = list(annotated(source)), Counter[str]()
        for node in ast_nodes(get_ast(source)):
            for name, operator in operators.items():
                for begin, _ in operator.mutation_positions(node):
                    if not any(first <= begin < last for first, last in unused):
                        places.setdefault((file, name.partition("_")[0], begin), []).append((name, seen[name]))
                    seen[name] += 1
    found: list[Mutant] = []
    for place in rng.sample(sorted(places), len(places)):
        if len(found) == count:
            break
        name, number = rng.choice(places[place])
        source = sources[place[0]]
        with suppress(AttributeError, SyntaxError):  # an operator does not know every syntax that it finds
            mutated = str(mutate_code(source, operators[name], number))
            if ast.unparse(ast.parse(mutated)) != ast.unparse(ast.parse(source)):
                found.append(Mutant(place[0], source, mutated))
    return found
