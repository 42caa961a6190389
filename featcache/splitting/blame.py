"""Which operation makes a row differ when it is computed in another batch."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

from .analysis import module_of
from .clone import skeleton
from .compare import difference, rounding
from .inputs import as_call, batch_of
from .record import record
from .runs import Ref, Run
from .splitting import Split

__all__ = ["first_difference"]


def first_difference(split: Split, batch: Any, other: Any, rows: tuple[int, int]) -> str:
    """Return in words the first operation before the cut whose result for a sample differs between two batches.

    ``rows`` are the sample's places in ``batch`` and in ``other``. Returns "" where nothing can be said.
    """
    runs = []
    for inputs in (batch, other):
        call = as_call(inputs, split.model)
        try:
            runs.append((record(skeleton(split.model, own_buffers=True), *call, batch_of(call)), batch_of(call)))
        except Exception:  # these are a cached set's rows, or the network needs more of them
            return ""
    (one, size), (two, other_size) = runs
    for mine, theirs in zip(one.calls, two.calls, strict=False):
        where = module_of(one, mine.parent)
        if mine.name != theirs.name:
            return f"; first in {where}, where {mine.name} runs in one batch and {theirs.name} in the other"
        for a, b in zip(_results(one, mine.outputs), _results(two, theirs.outputs), strict=False):
            if not (a.dim() and b.dim() and len(a) == size and len(b) == other_size):
                continue
            if difference(a[rows[0]], b[rows[1]]) > rounding(a.dtype):
                return f"; first in {where}: {mine.name}"
    return ""


def _results(run: Run, outputs: Any) -> list[torch.Tensor]:
    return [run.objects[leaf.number] for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Ref)]
