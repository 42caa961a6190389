"""Heads on pooled features: a linear layer, and the networks that such heads make with the prefix."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..errors import HeadError
from ..seeding import seeded
from ..split import Split

__all__ = ["DenseHead", "HeadNetwork", "Maps", "Pool", "dense_network", "linear_head", "pooled_network", "pooled_width"]


class Pool(nn.Module):
    """Turns what crosses the cut into one float32 vector a sample; of several tensors the cut's own output counts.

    ``kind`` is one of :data:`featcache.heads.options.POOLS`: ``channels_first`` averages over all dimensions but the
    first, ``channels_last`` over all but the last, ``first`` takes the first token, ``flatten`` keeps every value. ``auto``
    averages (tokens, width) over tokens, and maps over places: (channels, height, width), or (height, width, channels)
    where only the first two are equal, as in Swin. A vector stays as it is.
    """

    def __init__(self, kind: str = "auto", name: str | None = None) -> None:
        super().__init__()
        self.kind = kind
        self.tensor_name = name

    def forward(self, frontier: torch.Tensor | Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return vectors (batch, width)."""
        values = _own(frontier, self.tensor_name).to(torch.float32)
        if values.dim() < 3 or self.kind == "flatten":
            return values.reshape(len(values), -1)
        kind = self.kind if self.kind != "auto" else _layout(tuple(values.shape[1:]))
        if kind == "first":
            return values[:, 0].reshape(len(values), -1)
        if kind == "channels_last":
            return values.flatten(1, -2).mean(dim=1)
        return values.flatten(2).mean(dim=2)

    def extra_repr(self) -> str:
        """Return the kind of pooling."""
        return self.kind


class Maps(nn.Module):
    """Turns what crosses the cut into float32 maps (batch, channels, height, width); of several tensors its own counts.

    Channels-last maps are turned round; tokens of a transformer, which are a square but for some in front (a class token,
    registers), become that square.
    """

    def __init__(self, name: str | None = None) -> None:
        super().__init__()
        self.tensor_name = name

    def forward(self, frontier: torch.Tensor | Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return maps (batch, channels, height, width); raises :class:`HeadError` where there are none."""
        values = _own(frontier, self.tensor_name).to(torch.float32)
        if values.dim() == 3:
            side = math.isqrt(values.shape[1])
            patches = values[:, values.shape[1] - side * side :]
            return patches.transpose(1, 2).reshape(len(values), values.shape[2], side, side)
        if values.dim() != 4:
            raise HeadError(
                f"the features at {self.tensor_name!r} have shape {list(values.shape[1:])}, which is no map: choose an earlier "
                "--cut."
            )
        return values.permute(0, 3, 1, 2) if _layout(tuple(values.shape[1:])) == "channels_last" else values


class DenseHead(nn.Module):
    """One linear layer at each place of a map, its scores brought to the size of the masks bilinearly."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.scores = nn.Conv2d(channels, classes, 1, dtype=torch.float32)
        self.size = size

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return scores (batch, classes, height, width)."""
        return nn.functional.interpolate(self.scores(maps), size=self.size, mode="bilinear", align_corners=False)


def _own(frontier: torch.Tensor | Mapping[str, torch.Tensor], name: str | None) -> torch.Tensor:
    """Return the cut's own output among the tensors that cross it."""
    if isinstance(frontier, torch.Tensor):
        return frontier
    return frontier[str(name)] if name in frontier else next(iter(frontier.values()))


def _layout(shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return "channels_last"
    return "channels_last" if shape[0] == shape[1] != shape[-1] else "channels_first"


class HeadNetwork(nn.Module):
    """The whole network of a head on pooled features: prefix, pooling, head."""

    def __init__(self, split: Split, pool: Pool | Maps, head: nn.Module) -> None:
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


def pooled_width(split: Split, pool: Pool | Maps) -> int:
    """Return the length of the vectors that pooling makes of the split's frontier."""
    empty = {
        spec.name: torch.empty((2, *spec.shape), dtype=getattr(torch, spec.dtype), device="meta")
        for spec in split.frontier
    }
    try:
        return int(pool(empty).shape[1])
    except (IndexError, RuntimeError) as error:
        raise HeadError(
            f"the features at {split.cut!r} cannot be pooled to vectors ({error}): choose another --cut or another pool."
        ) from error


def pooled_network(split: Split, pool_kind: str, classes: int, seed: int) -> HeadNetwork:
    """Return a copy of the backbone with a new linear layer on pooled features."""
    copied = split.rebind(copy.deepcopy(split.model))
    pool = Pool(pool_kind, split.cut)
    return HeadNetwork(copied, pool, linear_head(pooled_width(split, pool), classes, seed))


def dense_network(split: Split, classes: int, size: tuple[int, int], seed: int) -> HeadNetwork:
    """Return a copy of the backbone with a new linear layer at each place of its features."""
    copied = split.rebind(copy.deepcopy(split.model))
    maps = Maps(split.cut)
    with seeded(seed):
        head = DenseHead(pooled_width(split, maps), classes, size)
    return HeadNetwork(copied, maps, head)


def linear_head(width: int, classes: int, seed: int) -> nn.Linear:
    """Return a linear layer with seeded random weights, float32."""
    with seeded(seed):
        return nn.Linear(width, classes, dtype=torch.float32)
