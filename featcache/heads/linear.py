"""Heads on pooled features: a linear layer, and the networks that such heads make with the prefix."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ..codecs import Pool, pooled_spec
from ..errors import HeadError
from ..machine import seeded
from ..splitting import Split, as_call, deep_copy

__all__ = ["HeadNetwork", "Tokens", "linear_head", "own_tensor", "pooled_network", "pooled_width", "token_network"]


class HeadNetwork(nn.Module):
    """The whole network of a head on pooled features: prefix, pooling, head."""

    def __init__(self, split: Split, pool: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = split.model
        self.pool = pool
        self.head = head
        self.__dict__["_split"] = split  # no submodule: its layers are the backbone's

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return class scores (batch, classes).

        Raises ``HeadError`` where masks or lengths show that samples of several lengths were padded, whose mean over their
        own steps is not known here.
        """
        if self.ragged and isinstance(self.pool, Pool):
            _refuse_padded(self.backbone, args, kwargs)
        return self.of_one_length(*args, **kwargs)

    @property
    def ragged(self) -> bool:
        """Whether samples vary in length."""
        split: Split = self.__dict__["_split"]
        return split.other_length is not None

    def of_one_length(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return class scores (batch, classes) of samples of which none was padded."""
        split: Split = self.__dict__["_split"]
        scores: torch.Tensor = self.head(self.pool(split.prefix(*args, **kwargs)))
        return scores


def _refuse_padded(backbone: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    args, kwargs = (args, kwargs) if args else as_call(kwargs, backbone)
    given = inspect.signature(backbone.forward).bind_partial(*args, **kwargs).arguments
    for path, value in pytree.tree_flatten_with_path(given)[0]:
        name = pytree.keystr(path)
        marks = "mask" in name or "len" in name
        if marks and isinstance(value, torch.Tensor) and value.numel() and bool((value != value.flatten()[0]).any()):
            raise HeadError(
                f"a head on pooled features averages over a sample's own steps, and {name} shows that the batch was padded: call "
                "head.predict, or the network with samples of one length at a time."
            )


class Tokens(nn.Module):
    """Takes the cut's own output among what crosses the cut, as float32: a vector of each token."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.tensor_name = name

    def forward(self, frontier: torch.Tensor | Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return vectors (batch, length, width)."""
        return own_tensor(frontier, self.tensor_name).to(torch.float32)


def own_tensor(frontier: torch.Tensor | Mapping[str, torch.Tensor], name: str | None) -> torch.Tensor:
    """Return the cut's own output among the tensors that cross it."""
    if isinstance(frontier, torch.Tensor):
        return frontier
    return frontier[str(name)] if name in frontier else next(iter(frontier.values()))


def token_network(split: Split, classes: int, seed: int) -> HeadNetwork:
    """Return a copy of the backbone with a new linear layer for each token; raises ``HeadError`` where there are none."""
    own = next((spec for spec in split.frontier if spec.name == split.cut), split.frontier[0])
    if len(own.shape) != 2:
        raise HeadError(
            f"the features at {split.cut!r} have shape {list(own.shape)} a sample, which is not a vector of each token: choose "
            "another --cut."
        )
    copied = split.rebind(deep_copy(split.model))
    return HeadNetwork(copied, Tokens(split.cut), linear_head(int(own.shape[1] or 0), classes, seed))


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
