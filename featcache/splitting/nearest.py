"""Candidate names of cuts, and which of them work near one that is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from torch import nn

from ..errors import FeatCacheError
from .runs import Run

__all__ = ["candidate_names", "nearest_cuts"]

NAMED = 3
TRIED = 12


def candidate_names(model: nn.Module, run: Run) -> list[str]:
    """Return the names of modules that are worth listing as cuts, in the order in which they end."""
    counts = Counter(call.name for call in run.modules)
    ended = sorted((call for call in run.modules if call.name and call.end > call.begin), key=lambda call: call.end)
    chosen: dict[int, str] = {}
    for call in ended:
        module = model.get_submodule(call.name)
        if counts[call.name] > 1 or not _is_block(call.name, module):
            continue
        # Of modules that end at the same place, the outermost names it.
        if call.end not in chosen or call.name.count(".") < chosen[call.end].count("."):
            chosen[call.end] = call.name
    return [chosen[end] for end in sorted(chosen)]


def _is_block(name: str, module: nn.Module) -> bool:
    """Return whether a module is a child of the model, or a numbered part of it that has children itself."""
    depth = name.count(".")
    return depth == 0 or (depth <= 4 and any(True for _ in module.children()) and name[-1].isdigit())


def nearest_cuts(model: nn.Module, cut: str, run: Run, attempt: Callable[[str], object]) -> str:
    """Return words that name the nearest cuts at which the model can be cut; ``attempt`` cuts it, or raises."""
    end = max((call.end for call in run.modules if call.name == cut), default=len(run.calls))
    ends = {call.name: call.end for call in run.modules}
    names = [name for name in candidate_names(model, run) if name != cut and ends[name] != end]
    working: list[str] = []
    for name in sorted(names, key=lambda each: (abs(ends[each] - end), ends[each]))[:TRIED]:
        try:
            attempt(name)
        except FeatCacheError:
            continue
        working.append(name)
        if len(working) == NAMED:
            break
    if not working:
        return "No candidate near it works either; `featcache cuts` lists all."
    return f"Nearest cuts that work: {', '.join(working)}; `featcache cuts` lists all."
