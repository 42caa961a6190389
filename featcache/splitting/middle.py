"""The middle section: from what crosses one cut to what crosses a deeper one, so that its features are derived."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from ..errors import SplitError
from .clone import skeleton
from .flat import NotFlatError, build_flat, flat_graph
from .replay import ReplaySuffix
from .splitting import Split, prefixes

__all__ = ["middle"]

Frontier = dict[str, torch.Tensor]


def middle(shallow: Split, deep: Split) -> Callable[[Frontier], Frontier] | None:
    """Return the function from the frontier of one cut to that of a deeper one, None where there is no exact one.

    ``shallow`` is ``deep`` itself or comes from its ``Split.shallower``. The function runs in evaluation mode without
    gradients. It is given back only if it equals the prefix bit for bit on the example, at two batch sizes.
    """
    if shallow.cut == deep.cut:
        return lambda frontier: frontier
    if any("mask" not in name.lower() for name in deep.guards):
        return None  # which path a row takes there is known of the example only
    running = skeleton(shallow.model, own_buffers=True)
    try:
        run = _section(running, shallow, deep)
        for example in shallow.examples():
            kept, computed = prefixes([shallow, deep], example)
            derived = run(kept)
            if any(not _equal(derived[name], computed[name]) for name in computed):
                return None
    except (NotFlatError, SplitError, RuntimeError, TypeError, ValueError, LookupError, AttributeError):
        return None  # whatever fails here is computed from the samples instead
    return run


def _section(running: nn.Module, shallow: Split, deep: Split) -> Callable[[Frontier], Frontier]:
    """Return the section as a graph, or, where the path depends on content, by the model's own forward.

    Raises ``NotFlatError`` where there is neither.
    """
    single = len(shallow.frontier) == 1
    try:
        program = flat_graph(shallow._analysis, deep._analysis)
        run: Callable[[Any], Any] = build_flat(running, program, shallow.frontier).eval()
    except NotFlatError:
        if not deep._analysis.hookable:
            raise
        run = partial(ReplaySuffix(running, shallow._analysis).eval().section, deep._analysis)

    def section(frontier: Frontier) -> Frontier:
        with torch.no_grad():
            found: Frontier = run(next(iter(frontier.values())) if single else frontier)
        return found

    return section


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
