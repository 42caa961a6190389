"""A flat suffix under guards: the recorded graph where what the network decided by its side inputs holds, else the replay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn

from .analysis import CutAnalysis
from .flat import FlatSuffix
from .replay import ReplaySuffix

__all__ = ["GuardedSuffix"]


class GuardedSuffix(ReplaySuffix):
    """What comes after a cut, as a graph that is used under guards.

    A guard is a Python value that the network makes of its side inputs before the cut, such as ``bool(mask.all())``. It
    is evaluated again on each batch, as torch.compile does it; where it differs from the recorded one, the model's own
    forward runs.
    """

    def __init__(
        self,
        model: nn.Module,
        analysis: CutAnalysis,
        flat: FlatSuffix,
        guards: fx.GraphModule,
        recorded: tuple[Any, ...],
    ) -> None:
        super().__init__(model, analysis)
        # Not children: their modules are this one's own, under the same names.
        self.__dict__["_flat"], self.__dict__["_guards"] = flat, guards
        self.__dict__["_recorded"] = recorded

    def forward(self, frontier: torch.Tensor | Mapping[str, torch.Tensor]) -> Any:
        """Return the model's output from the frontier."""
        with torch.no_grad():
            holds = self.__dict__["_guards"](frontier) == self.__dict__["_recorded"]
        return self.__dict__["_flat"](frontier) if holds else super().forward(frontier)

    def train(self, mode: bool = True) -> GuardedSuffix:
        """Set the mode, as the model's own ``train`` does."""
        super().train(mode)
        self.__dict__["_flat"].train(mode)
        return self

    def extra_repr(self) -> str:
        """Return the inputs that the guards look at."""
        return f"guards on {', '.join(self.__dict__['_analysis'].guards)}"

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> GuardedSuffix:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for graph in (self.__dict__["_flat"], self.__dict__["_guards"]):
            graph._apply(fn, recurse)
        return self
