"""What the model does before the cut in training mode and not in evaluation mode: harmless, or a reason to refuse."""

from __future__ import annotations

import dataclasses
from difflib import SequenceMatcher
from typing import Any

from torch import nn
from torch.utils import _pytree as pytree

from ..errors import SplitError
from .analysis import CutAnalysis, module_of
from .clone import own_modes
from .inputs import Call
from .prefix import at_end_of_call
from .randomness import quiet, seed_all
from .record import record
from .runs import Ref, Run

__all__ = ["with_training_path"]

SEEDS = range(16)


def with_training_path(model: nn.Module, analysis: CutAnalysis, call: Call) -> CutAnalysis:
    """Return the analysis with the modules that run after the cut in training mode only.

    Raises ``SplitError`` where the model, in training mode, computes more before the cut than in evaluation mode.
    What leads nowhere is not a computation: a coin that decides whether a frozen layer is dropped, a flag that is set.
    """
    refusal: SplitError | None = None
    own = own_modes(model)
    modes = {name: own.get(name, True) for name in analysis.open}
    for seed in SEEDS:
        try:
            run = _in_training(model, analysis, call, modes, seed, early=True)
        except Exception:
            return analysis  # it cannot be run so; the trial in training mode says what that means
        if _is_same_path(analysis, run):
            return _with_training_only(analysis, run)
        try:
            _refuse_other_path(analysis, run)
            late = _in_training(model, analysis, call, modes, seed, early=False)
            _refuse_other_suffix(analysis, run, late)
            return _with_training_only(analysis, late)
        except SplitError as error:
            refusal = error
        if not any(each.draws for each in run.calls):
            break  # else stochastic depth may have dropped a layer, or the cut itself: toss again
    assert refusal is not None
    raise refusal


def _in_training(
    model: nn.Module, analysis: CutAnalysis, call: Call, modes: dict[str, bool], seed: int, early: bool
) -> Run:
    """Return a run with the modules that are open at the cut in training mode, from the start or from the cut on.

    Both kinds toss the same coins after the cut.
    """

    def prepare(running: nn.Module) -> None:
        def at_cut() -> None:
            for name, training in modes.items():
                running.get_submodule(name).training = training
            seed_all(seed)

        last = analysis.run.modules[analysis.cut_call]
        at_end_of_call(running, last.name, last.nth, at_cut)

    with quiet():
        seed_all(seed)
        return record(model, *call, 2, modes=modes if early else None, prepare=prepare)


def _with_training_only(analysis: CutAnalysis, run: Run) -> CutAnalysis:
    known = {each.name for each in analysis.run.modules}
    carried = {crossing.number for crossing in analysis.crossings if crossing.carried}
    end = _end(analysis, run)
    read = {n for position, call in enumerate(run.calls) if position >= end or call.escapes for n in call.reads}
    return dataclasses.replace(
        analysis,
        training_inputs=frozenset(read.intersection(run.input_numbers) - carried),
        training_only=frozenset(each.name for each in run.modules if each.name not in known),
        training_guards=_deciding(run, analysis.open) > _deciding(analysis.run, analysis.open),
    )


def _deciding(run: Run, names: frozenset[str]) -> int:
    """Return how many calls in the code of the named modules make a Python value, or a size, of the content of a tensor."""
    return sum(call.decides and call.parent >= 0 and run.modules[call.parent].name in names for call in run.calls)


def _end(analysis: CutAnalysis, run: Run) -> int:
    return max((each.end for each in run.modules if each.name == analysis.cut), default=0)


def _is_same_path(analysis: CutAnalysis, run: Run) -> bool:
    ours = [each.name for each in analysis.run.calls[: analysis.end]]
    return ours == [each.name for each in run.calls[: _end(analysis, run)]]


def _refuse_other_path(analysis: CutAnalysis, run: Run) -> None:
    """Raise where training mode leaves a call before the cut out, or what it does in addition leads anywhere."""
    end = _end(analysis, run)
    ours = [(module_of(analysis.run, each.parent), each.name) for each in analysis.run.calls[: analysis.end]]
    theirs = [(module_of(run, each.parent), each.name) for each in run.calls[:end]]
    same = SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    common = {number for block in same for number in range(block.b, block.b + block.size)}
    more = [number for number in range(end) if number not in common]
    if len(common) < len(ours) or _leads_anywhere(run, more):
        where, what = theirs[more[0]] if more else ("the model itself", "fewer calls")
        raise _refusal(analysis, f"in {where}: {what}")


def _leads_anywhere(run: Run, more: list[int]) -> bool:
    """Return whether what these calls give, or change, is used by any other call, or returned; or whether weights are used."""
    extra = set(more)
    made = {number for position in more for number in (*run.calls[position].makes, *run.calls[position].writes)}
    weights = any(run.origins[number][0] == "state" for position in more for number in run.calls[position].reads)
    used = set(run.returned)
    for position, call in enumerate(run.calls):
        if position not in extra:
            used.update(call.reads)
    return weights or bool(made & used)


def _refuse_other_suffix(analysis: CutAnalysis, early: Run, late: Run) -> None:
    """Raise where the calls after the cut tell whether training mode began before it: a Python value was kept."""
    one, other = ([_described(run, call) for call in run.calls[_end(analysis, run) :]] for run in (early, late))
    if one != other:
        raise _refusal(analysis, "a value that is made there is used after the cut")


def _described(run: Run, call: Any) -> tuple[str, str, str]:
    leaves = [leaf for leaf in pytree.tree_leaves((call.args, call.kwargs)) if not isinstance(leaf, Ref)]
    return module_of(run, call.parent), call.name, repr(leaves)


def _refusal(analysis: CutAnalysis, what: str) -> SplitError:
    return SplitError(
        f"in training mode the model runs other calls before the cut {analysis.cut!r} than in evaluation mode ({what}; an "
        "auxiliary head, perhaps): a head trained from the cache would not equal the model. Choose an earlier cut, or build "
        "the model without that branch."
    )
