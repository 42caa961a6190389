"""The middle section: from what crosses one cut to what crosses a deeper one, so that its features are derived."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from .clone import skeleton
from .flat import NotFlatError, build_flat, flat_graph
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
    running = skeleton(shallow.model)
    try:
        graph, constants = flat_graph(shallow._analysis, deep._analysis)
        section = build_flat(running, graph, constants, shallow.frontier)
        run = _Section(section, single=len(shallow.frontier) == 1)
        for example in shallow.examples():
            kept, computed = prefixes([shallow, deep], example)
            derived = run(kept)
            if any(not _equal(derived[name], computed[name]) for name in computed):
                return None
    except (NotFlatError, RuntimeError, TypeError, ValueError, LookupError, AttributeError):
        return None  # whatever fails here is computed from the samples instead
    return run


class _Section:
    def __init__(self, section: nn.Module, single: bool) -> None:
        self.section, self.single = section.eval(), single

    def __call__(self, frontier: Frontier) -> Frontier:
        with torch.no_grad():
            found: Frontier = self.section(next(iter(frontier.values())) if self.single else frontier)
        return found


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
