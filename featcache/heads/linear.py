"""Heads on pooled features: a linear layer, and the networks that such heads make with the prefix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..split import Split

__all__ = ["HeadNetwork", "Pool", "linear_head"]


class Pool(nn.Module):
    """Averages what crosses the cut to one vector a sample.

    (channels, height, width) is averaged over places, (tokens, width) over tokens, a vector stays as it is. Of several
    tensors the first, which is the cut's own output, counts.
    """

    def forward(self, frontier: torch.Tensor | Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return vectors (batch, width)."""
        values = frontier if isinstance(frontier, torch.Tensor) else next(iter(frontier.values()))
        if values.dim() == 3:
            return values.mean(dim=1)
        if values.dim() > 3:
            return values.flatten(2).mean(dim=2)
        return values.reshape(len(values), -1)


class HeadNetwork(nn.Module):
    """The whole network of a head on pooled features: prefix, pooling, head."""

    def __init__(self, split: Split, head: nn.Module) -> None:
        super().__init__()
        self.backbone = split.model
        self.pool = Pool()
        self.head = head
        self.__dict__["_split"] = split

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return class scores (batch, classes)."""
        split: Split = self.__dict__["_split"]
        scores: torch.Tensor = self.head(self.pool(split.prefix(*args, **kwargs)))
        return scores


def linear_head(width: int, classes: int, seed: int) -> nn.Linear:
    """Return a linear layer with seeded random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(width, classes)
