"""The structure digest: the torch calls up to the cut, in a canonical encoding that values and batch size do not enter."""

from __future__ import annotations

import enum
from typing import Any

import torch
from torch import nn
from torch._library.custom_ops import OPDEFS
from torch.utils import _pytree as pytree

from ..errors import FingerprintError, SplitError
from ..identity import digest_json, identity, tensor_digest
from .analysis import CutAnalysis, module_of
from .runs import Call, Listed, Ref, Run
from .trees import named_state, unmapped

__all__ = ["program_digest", "structure_digest", "weight_digests"]


def structure_digest(analysis: CutAnalysis) -> str:
    """Return the digest of the computation before the cut.

    A difference to the run on other values means that values left torch on their way (through numpy, say); that raises
    ``SplitError``.
    """
    lines = _structure_lines(analysis, analysis.run)
    again = _structure_lines(analysis, analysis.runs.changed)
    for position, (line, other) in enumerate(zip(lines, again, strict=False)):
        if line != other:
            call = analysis.run.calls[min(position, analysis.end - 1)]
            raise SplitError(
                f"before the cut {analysis.cut!r}, in {module_of(analysis.run, call.parent)}, {call.name} was given "
                "something else when the input's values changed: a value left torch on its way (through numpy or a Python "
                "number), so rows cannot be cached. Keep it a tensor, or the list of its tolist() as it is."
            )
    crossing = [[_place(analysis.run, each.number), each.spec.to_dict()] for each in analysis.crossings]
    others = [[step.to_list() for step in path] for path in analysis.paths[1:]]
    return digest_json({"calls": lines, "crossing": crossing, **({"paths": others} if others else {})})[:32]


def _structure_lines(analysis: CutAnalysis, run: Run) -> list[Any]:
    """Return one canonical, JSON-able line for each torch call before the cut."""
    if len(run.calls) < analysis.end:
        raise SplitError(
            f"before the cut {analysis.cut!r} the model takes another path when the input's values change."
        )
    lines = []
    # Where samples do not vary in length, the run stands for the one at another length, which then shows no growth.
    sized = run if analysis.resized is None else analysis.resized
    calls = (each.calls[: analysis.end] for each in (run, analysis.other, sized))
    for mine, larger, resized in zip(*calls, strict=True):
        lines.append(_line(analysis, run, mine, larger, resized))
    return lines


def _line(analysis: CutAnalysis, run: Run, mine: Call, larger: Call, resized: Call) -> list[Any]:
    # What autocast does inside of the model is mathematics; around it, the caller keys it by its own name.
    context = [part for part in mine.context if part != "inference"]
    try:
        encoded = _arguments(analysis, run, mine, larger, resized)
        code = [["code", identity(each)] for each in _python_body(mine.function)]
    except FingerprintError as error:
        raise SplitError(
            f"in {module_of(run, mine.parent)}, {mine.name} is given a value that cannot be identified: {error}"
        ) from error
    return [mine.name, *encoded, *([["context", *context]] if context else []), *code]


def _python_body(function: Any) -> list[Any]:
    """Return the Python function behind an operator that was made with torch.library.custom_op."""
    schema = getattr(function, "_schema", None)
    name = getattr(schema, "name", None) or getattr(function, "_qualified_op_name", None)
    made = OPDEFS.get(str(name))
    return [] if made is None else [made._init_fn]


def program_digest(analysis: CutAnalysis) -> str:
    """Return the digest of all recorded calls on the example, also those after the cut, with the constants that they use.

    It tells whether a network still does what it did when it was recorded. Parameters and buffers do not enter.
    """
    run = analysis.run
    lines = [_line(analysis, run, call, call, call) for call in run.calls]
    return digest_json({"calls": lines, "returned": [_place(run, number) for number in sorted(run.returned)]})[:32]


def weight_digests(model: nn.Module, names: frozenset[str]) -> dict[str, str]:
    """Return the digests of the named parameters and buffers as they are now, by name."""
    tensors = dict(named_state(model))
    return {name: tensor_digest(tensors[name]) for name in sorted(names)}


def _arguments(analysis: CutAnalysis, run: Run, mine: Call, larger: Call, resized: Call) -> list[Any]:
    leaves, spec = pytree.tree_flatten((mine.args, mine.kwargs))
    others = [pytree.tree_leaves((call.args, call.kwargs)) for call in (larger, resized)]
    if {mine.name} != {larger.name, resized.name}:
        raise SplitError(
            f"before the cut {analysis.cut!r} the model takes another path when the input's values change "
            f"({module_of(run, mine.parent)}: {mine.name})."
        )
    if any(len(leaves) != len(each) for each in others):
        raise SplitError(
            f"in {module_of(run, mine.parent)}, {mine.name} is given more Python values when the batch or the length grows, so "
            "that rows cannot be cached after it. If they come of a tensor, give it that tensor, or the list of its tolist() "
            "as it is."
        )
    shape = str(spec).replace(" ", "")
    return [shape, *(_leaf(analysis, run, *each) for each in zip(leaves, *others, strict=True))]


def _leaf(analysis: CutAnalysis, run: Run, mine: Any, larger: Any, resized: Any) -> Any:
    if isinstance(mine, Ref):
        return _place(run, mine.number)
    if isinstance(mine, Listed):
        return ["list", mine.call]
    if isinstance(mine, bool) or mine is None or isinstance(mine, str):
        return [type(mine).__name__, mine]
    if isinstance(mine, int) and not isinstance(mine, enum.Enum):
        if isinstance(larger, int) and isinstance(resized, int) and (larger != mine or resized != mine):
            return analysis.growth(mine, larger, resized).canonical(analysis.lengths)
        return ["int", str(mine)]
    if isinstance(mine, slice) and isinstance(larger, slice) and isinstance(resized, slice):
        parts = [(each.start, each.stop, each.step) for each in (mine, larger, resized)]
        if len(set(parts)) > 1:
            return ["slice", *(_leaf(analysis, run, *each) for each in zip(*parts, strict=True))]
    if isinstance(mine, float):
        return ["float", mine.hex()]
    if isinstance(mine, torch.device):
        return ["device"]  # where it runs is provenance
    if isinstance(mine, torch.Generator):
        return ["generator"]  # what is drawn before the cut is refused wherever it is used
    return ["value", identity(mine)]


def _place(run: Run, number: int) -> Any:
    kind, *where = run.origins[number]
    if kind == "constant":
        return ["constant", tensor_digest(unmapped(run.objects[number]))]
    return [kind, *where]
