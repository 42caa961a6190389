"""What the model does before the cut in training mode and not in evaluation mode: harmless, or a reason to refuse."""

from __future__ import annotations

import dataclasses
from difflib import SequenceMatcher

from torch import nn

from ..errors import SplitError
from .analysis import CutAnalysis, module_of
from .examples import Call
from .randomness import quiet, seed_all
from .record import Run, record

__all__ = ["with_training_path"]

SEEDS = range(4)


def with_training_path(model: nn.Module, analysis: CutAnalysis, call: Call) -> CutAnalysis:
    """Return the analysis with the modules that run behind the cut in training mode only.

    Raises :class:`SplitError` where the model, in training mode, computes more before the cut than in evaluation mode.
    What leads to nothing is no computation: a coin that decides whether a layer is dropped, a flag that is set.
    """
    refusal: SplitError | None = None
    for seed in SEEDS:
        try:
            with quiet():
                seed_all(seed)
                run = record(model, *call, 2, training=analysis.open)
        except Exception:
            return analysis  # it cannot be run so; the trial in training mode says what that means
        try:
            _refuse_other_path(analysis, run)
        except SplitError as error:
            refusal = error  # stochastic depth may have dropped a layer, or the cut itself: toss again
            if not any(each.draws for each in run.calls):
                break
            continue
        known = {each.name for each in analysis.run.modules}
        return dataclasses.replace(
            analysis, training_only=frozenset(each.name for each in run.modules if each.name not in known)
        )
    assert refusal is not None
    raise refusal


def _refuse_other_path(analysis: CutAnalysis, run: Run) -> None:
    positions = [number for number, each in enumerate(run.modules) if each.name == analysis.cut]
    end = run.modules[positions[-1]].end if positions else 0
    ours = [(module_of(analysis.run, each.parent), each.name) for each in analysis.run.calls[: analysis.end]]
    theirs = [(module_of(run, each.parent), each.name) for each in run.calls[:end]]
    if [name for _, name in ours] == [name for _, name in theirs]:
        return
    same = SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    common = {number for block in same for number in range(block.b, block.b + block.size)}
    more = [number for number in range(end) if number not in common]
    if len(common) == len(ours) and not _leads_anywhere(run, end, more):
        return
    where = next((theirs[number] for number in more), ("the model itself", "fewer"))
    raise SplitError(
        f"in training mode the model runs other calls before the cut {analysis.cut!r} than in evaluation mode (in {where[0]}: "
        f"{where[1]}; an auxiliary head, perhaps): a head trained from the cache would not equal the model. Choose an earlier "
        "cut, or build the model without that branch."
    )


def _leads_anywhere(run: Run, end: int, more: list[int]) -> bool:
    """Return whether what these calls before the cut give, or change, is used by any other call, or returned."""
    extra = set(more)
    made = {number for position in more for number in (*run.calls[position].makes, *run.calls[position].writes)}
    states = any(run.origins[number][0] == "state" for position in more for number in run.calls[position].reads)
    used = set(run.returned)
    for position, call in enumerate(run.calls):
        if position not in extra:
            used.update(call.reads)
    return states or bool(made & used)
