"""A failing program made smaller while it fails in the same way, and printed as a script."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from .checker import Verdict, check
from .checks import CHECKS
from .known import Layout
from .pieces_inputs import POOLS
from .programs import Program, Step
from .writing import source

__all__ = ["script", "shrunk"]

SIMPLE = {
    "passing": "positional",
    "skips": (),
    "again": (),
    "ties": (),
    "tied_head": False,
    "output": "tensor",
    "own_train": "",
    "mode": "eval",
    "first": "any",
    "garbage": False,
    "ragged": False,
    "whole_mask": False,
    "residual_stages": False,
}
HERE = Path(__file__).parent


def shrunk(program: Program, verdict: Verdict, most: int = 200) -> Program:
    """Return the smallest program found that gives the same kind of verdict in the same check, in at most so many tries."""
    chosen = [each for each in CHECKS if each.__name__ == verdict.check] or CHECKS
    tries, smaller = 0, True
    while smaller:
        smaller = False
        for candidate in _smaller(program):
            if tries >= most:
                return program
            tries += 1
            try:
                found = check(candidate, chosen)
            except Exception:  # the candidate makes no sense as a program
                continue
            if (found.kind, found.check, found.fact) == (verdict.kind, verdict.check, verdict.fact):
                program, smaller = candidate, True
                break
    return program


def _smaller(program: Program) -> Iterator[Program]:
    for number in reversed(range(len(program.steps))):
        if program.steps[number].what not in POOLS:
            yield from _at_every_cut(_without(program, number))
    for name, value in SIMPLE.items():
        if getattr(program, name) != value and not (name == "passing" and program.ragged):
            yield dataclasses.replace(program, **{name: value})
    for number, step in enumerate(program.steps):
        for simpler in _simpler(step):
            steps = (*program.steps[:number], simpler, *program.steps[number + 1 :])
            yield from _at_every_cut(dataclasses.replace(program, steps=steps))


def _simpler(step: Step) -> Iterator[Step]:
    first = {name: values[0] for name, values in step.what.choices.items()}
    for changes in ({"stage": 0}, {"hook": ""}, {"style": "plain"}, {"choices": first}):
        made = dataclasses.replace(step, **changes)
        if made != step:
            yield made


def _without(program: Program, number: int) -> Program:
    def moved(other: int) -> int:
        return other - (other > number)

    return dataclasses.replace(
        program,
        steps=(*program.steps[:number], *program.steps[number + 1 :]),
        skips=tuple((moved(a), moved(b), how) for a, b, how in program.skips if number not in (a, b)),
        again=tuple((moved(a), moved(b)) for a, b in program.again if number not in (a, b)),
        ties=tuple((moved(a), moved(b)) for a, b in program.ties if number not in (a, b)),
    )


def _at_every_cut(program: Program) -> Iterator[Program]:
    """The program as it is, and cut at a few other places: which one that is depends on how many there are."""
    yield program
    count = len(Layout(program).cuts)
    for number in {count - 1, count // 2, 0} if count else ():
        yield dataclasses.replace(program, cut=(number + 0.5) / count)


def script(program: Program, verdict: Verdict) -> str:
    """Return a program with the check that it fails, as a script that stands alone."""
    files = [(HERE / name).read_text("utf-8") for name in ("reference.py", "checks.py")]
    found = {
        node.name: ast.get_source_segment(text, node)
        for text in files
        for node in ast.parse(text).body
        if hasattr(node, "name")
    }
    if "class WrongError" in str(found.get("WrongError")):
        found["Truth"] = f"@dataclasses.dataclass\n{found['Truth']}"
    wanted = [verdict.check if verdict.check in found else "truth"]
    for name in wanted:
        wanted += [
            each.id
            for each in ast.walk(ast.parse(found[name] or ""))
            if isinstance(each, ast.Name) and each.id in found and each.id not in wanted
        ]
    names = sorted(set(wanted), key=list(found).index)
    imports = (
        "import copy, random, sys, tempfile, warnings\nfrom collections.abc import Callable\nfrom types import ModuleType\n"
        "from typing import Any\nimport numpy as np\nimport featcache\n\n"
        'warnings.simplefilter("ignore")\ntorch.set_num_threads(1)\n'
    )
    body = "\n\n\n".join(str(found[name]) for name in names)
    said = "".join(f"# {line}\n" for line in f"{verdict.kind}: {verdict.what}".splitlines()[:4])
    return f"{said}{source(program)}\n\n{imports}\n\n{body}\n\n\n{wanted[0]}(sys.modules[__name__])\n"
