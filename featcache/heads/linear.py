"""Heads on pooled features: a linear layer, and the networks that such heads make with the prefix."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..codecs import Pool, pooled_spec
from ..machine import seeded
from ..splitting import Split, deep_copy

__all__ = ["HeadNetwork", "linear_head", "pooled_network", "pooled_width"]


class HeadNetwork(nn.Module):
    """The whole network of a head on pooled features: prefix, pooling, head."""

    def __init__(self, split: Split, pool: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = split.model
        self.pool = pool
        self.head = head
        self.__dict__["_split"] = split  # no submodule: its layers are the backbone's

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return class scores (batch, classes)."""
        split: Split = self.__dict__["_split"]
        scores: torch.Tensor = self.head(self.pool(split.prefix(*args, **kwargs)))
        return scores


def pooled_width(split: Split, pool: Pool) -> int:
    """Return the length of the vectors that pooling makes of the split's frontier."""
    return pooled_spec(pool.kind, split.cut, split.frontier).value_shape[0]


def pooled_network(split: Split, pool_kind: str, classes: int, seed: int) -> HeadNetwork:
    """Return a copy of the backbone with a new linear layer on pooled features."""
    copied = split.rebind(deep_copy(split.model))
    pool = Pool(pool_kind, split.cut)
    return HeadNetwork(copied, pool, linear_head(pooled_width(split, pool), classes, seed))


def linear_head(width: int, classes: int, seed: int) -> nn.Linear:
    """Return a linear layer with seeded random weights, float32."""
    with seeded(seed):
        return nn.Linear(width, classes, dtype=torch.float32)
