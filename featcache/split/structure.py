"""The structure digest: the torch calls up to the cut, in a canonical encoding that values and batch size do not enter."""

from __future__ import annotations

import enum
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ..errors import SplitError
from ..fingerprint import digest_json, identity, tensor_digest
from .analysis import CutAnalysis, affine, module_of
from .record import Ref, Run

__all__ = ["structure_digest", "weight_digests"]


def structure_digest(analysis: CutAnalysis, same_size: Run) -> str:
    """Return the digest of the computation before the cut.

    ``same_size`` is a run on other values with a batch of the first run's size. A difference between the two means that
    values left torch on their way (through numpy, say); that raises :class:`SplitError`.
    """
    lines = _structure_lines(analysis, analysis.run, analysis.other)
    again = _structure_lines(analysis, same_size, analysis.other)
    for position, (line, other) in enumerate(zip(lines, again, strict=False)):
        if line != other:
            call = analysis.run.calls[min(position, analysis.end - 1)]
            raise SplitError(
                f"before the cut {analysis.cut!r}, in {module_of(analysis.run, call.parent)}, {call.name} was given "
                "something else when the input's values changed: a value left torch on its way (through numpy or a Python "
                "number), so rows cannot be cached."
            )
    crossing = [[_place(analysis.run, each.number), each.spec.to_dict()] for each in analysis.crossings]
    return digest_json({"calls": lines, "crossing": crossing})[:32]


def _structure_lines(analysis: CutAnalysis, run: Run, other: Run) -> list[Any]:
    """Return one canonical, JSON-able line for each torch call before the cut."""
    if len(run.calls) < analysis.end:
        raise SplitError(
            f"before the cut {analysis.cut!r} the model takes another path when the input's values change."
        )
    lines = []
    for mine, theirs in zip(run.calls[: analysis.end], other.calls[: analysis.end], strict=True):
        encoded = _arguments(run, other, (mine.args, mine.kwargs), (theirs.args, theirs.kwargs))
        # What autocast does inside of the model is mathematics; around it, the caller keys it by its own name.
        context = [part for part in mine.context if part != "inference"]
        lines.append([mine.name, *encoded, *([["context", *context]] if context else [])])
    return lines


def weight_digests(model: nn.Module, names: frozenset[str]) -> dict[str, str]:
    """Return the digests of the named parameters and buffers as they are now, by name."""
    tensors = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    return {name: tensor_digest(tensors[name]) for name in sorted(names)}


def _arguments(run: Run, other: Run, mine: Any, theirs: Any) -> list[Any]:
    leaves, spec = pytree.tree_flatten(mine)
    counterparts = pytree.tree_leaves(theirs)
    if len(leaves) != len(counterparts):
        raise SplitError("the model passes other arguments when the batch grows; rows cannot be cached there.")
    shape = str(spec).replace(" ", "")
    return [shape, *(_leaf(run, other, a, b) for a, b in zip(leaves, counterparts, strict=True))]


def _leaf(run: Run, other: Run, mine: Any, theirs: Any) -> Any:
    if isinstance(mine, Ref):
        return _place(run, mine.number)
    if isinstance(mine, bool) or mine is None or isinstance(mine, str):
        return [type(mine).__name__, mine]
    if isinstance(mine, int) and not isinstance(mine, enum.Enum):
        if isinstance(theirs, int) and theirs != mine:
            return ["batch", *affine(mine, theirs, run.batch, other.batch)]
        return ["int", str(mine)]
    if isinstance(mine, float):
        return ["float", mine.hex()]
    if isinstance(mine, torch.device):
        return ["device"]  # where it runs is provenance
    return ["value", identity(mine)]


def _place(run: Run, number: int) -> Any:
    kind, *where = run.origins[number]
    if kind == "constant":
        return ["constant", tensor_digest(run.objects[number])]
    return [kind, *where]
