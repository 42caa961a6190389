"""The prefix run: the model's own forward, stopped at the cut, with what crosses it picked up on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ..errors import SplitError
from .analysis import CutAnalysis
from .crossings import Crossing
from .names import call_name, is_metadata
from .record import StopAtCutError

__all__ = ["at_end_of_call", "run_prefix", "run_prefixes"]


def run_prefix(
    running: nn.Module, analysis: CutAnalysis, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, torch.Tensor]:
    """Return the tensors that cross the cut, by name; ``running`` is a fresh skeleton in evaluation mode."""
    return run_prefixes(running, [analysis], args, kwargs)[0]


def run_prefixes(
    running: nn.Module, analyses: Sequence[CutAnalysis], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[dict[str, torch.Tensor]]:
    """Return what crosses each of several cuts of one recorded model, from a single run up to the last of them."""
    found: dict[int, torch.Tensor] = {}
    taken: dict[str, dict[str, torch.Tensor]] = {}
    given = pytree.tree_leaves((args, dict(sorted(kwargs.items()))))  # numbered as in the recording
    # One object can be the output of several modules, where one of them changes it in place.
    crossings = {(crossing.number, crossing.source): crossing for each in analyses for crossing in each.crossings}
    for crossing in crossings.values():
        if crossing.carried:
            place = analyses[0].run.origins[crossing.number][1]
            if place < len(given) and isinstance(given[place], torch.Tensor):
                found[crossing.number] = given[place]
        if crossing.source is not None:
            _pick_up(running, crossing.source, crossing.number, found)

    def reach(analysis: CutAnalysis) -> None:
        taken[analysis.cut] = _taken(analysis, found, keep=len(taken) + 1 < len(analyses))
        if len(taken) == len(analyses):
            raise StopAtCutError

    for analysis in analyses:
        last = analysis.run.modules[analysis.cut_call]
        at_end_of_call(running, last.name, last.nth, partial(reach, analysis))
    try:
        with torch.no_grad():
            if all(analysis.hookable for analysis in analyses):
                running(*args, **kwargs)
            else:
                with _Capture(analyses, found):
                    running(*args, **kwargs)
    except StopAtCutError:
        pass
    # A cut that was not reached has no entry: what it lacks is named.
    return [taken.get(analysis.cut) or _taken(analysis, {}, keep=False) for analysis in analyses]


def _taken(analysis: CutAnalysis, found: dict[int, torch.Tensor], keep: bool) -> dict[str, torch.Tensor]:
    """Return what crosses a cut that was just reached; ``keep`` where more is computed, which may overwrite it."""
    missing = [crossing.spec.name for crossing in analysis.crossings if crossing.number not in found]
    if missing:
        raise SplitError(
            f"the cut {analysis.cut!r} was not reached as it was recorded ({', '.join(missing)} missing): give the inputs "
            "as the example gave them; if they are so, the model took another path for this batch."
        )
    return {
        each.spec.name: _stored(each, found[each.number], clone=keep and each.number in analysis.overwritten)
        for each in analysis.crossings
    }


def _stored(crossing: Crossing, tensor: torch.Tensor, clone: bool) -> torch.Tensor:
    """Return a tensor as a row a sample; a copy where what follows may overwrite it."""
    rows = tensor.reshape(-1, *crossing.spec.value_shape) if crossing.rows > 1 else tensor
    return rows.clone() if clone else rows


def _pick_up(running: nn.Module, source: tuple[str, int, int], number: int, found: dict[int, torch.Tensor]) -> None:
    name, nth, leaf = source
    seen = Counter[str]()

    def take(_: nn.Module, args: Any, outputs: Any) -> None:
        if seen[name] == nth:
            found[number] = pytree.tree_leaves(outputs)[leaf]
        seen[name] += 1

    running.get_submodule(name).register_forward_hook(take)


def at_end_of_call(running: nn.Module, name: str, nth: int, then: Callable[[], None]) -> None:
    """Run ``then`` at the end of the nth call of a module, behind all other hooks."""
    seen = Counter[str]()

    def reached(_: nn.Module, args: Any, outputs: Any) -> None:
        seen[name] += 1
        if seen[name] == nth + 1:
            then()

    running.get_submodule(name).register_forward_hook(reached)


class _Capture(TorchFunctionMode):
    """Keeps the results of recorded calls that cross the cut and are no module's output."""

    def __init__(self, analyses: Sequence[CutAnalysis], found: dict[int, torch.Tensor]) -> None:
        super().__init__()
        self.analysis, self.found = max(analyses, key=lambda each: each.end), found
        self.wanted: dict[int, list[tuple[int, int]]] = {}
        for number in {crossing.number for analysis in analyses for crossing in analysis.crossings}:
            kind, *where = self.analysis.run.origins[number]
            if kind == "call":
                self.wanted.setdefault(where[0], []).append((where[1], number))
        self.position = 0

    def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = call_name(func)
        if not is_metadata(name):
            recorded = self.analysis.run.calls
            if self.position < self.analysis.end and recorded[self.position].name != name:
                raise SplitError(
                    f"before the cut {self.analysis.cut!r} the model calls {name} where {recorded[self.position].name} was "
                    "recorded: it took another path for this batch."
                )
            for leaf, number in self.wanted.get(self.position, ()):
                self.found[number] = pytree.tree_leaves(result)[leaf]
            self.position += 1
        return result
