"""A linear head for dense targets: one layer at each place of a map."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from ..errors import HeadError
from ..machine import seeded
from ..splitting import Split, deep_copy
from ..tensorspec import is_channels_last
from .linear import HeadNetwork, own_tensor

__all__ = ["DenseHead", "Maps", "dense_network"]


class Maps(nn.Module):
    """Turns what crosses the cut into float32 maps (batch, channels, height, width); of several tensors its own counts.

    Channels-last maps are turned round; tokens of a transformer, which are a square but for some in front (a class token,
    registers), become that square.
    """

    def __init__(self, name: str | None = None) -> None:
        super().__init__()
        self.tensor_name = name

    def forward(self, frontier: torch.Tensor | Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return maps (batch, channels, height, width); raises ``HeadError`` where there are none."""
        values = own_tensor(frontier, self.tensor_name).to(torch.float32)
        if values.dim() == 3:
            side = math.isqrt(values.shape[1])
            patches = values[:, values.shape[1] - side * side :]
            return patches.transpose(1, 2).reshape(len(values), values.shape[2], side, side)
        if values.dim() != 4:
            raise HeadError(
                f"the features at {self.tensor_name!r} have shape {list(values.shape[1:])}, which is not a map: choose "
                "an earlier --cut."
            )
        return values.permute(0, 3, 1, 2) if is_channels_last(tuple(values.shape[1:])) else values


class DenseHead(nn.Module):
    """One linear layer at each place of a map, its scores brought to the size of the masks bilinearly."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.scores = nn.Conv2d(channels, classes, 1, dtype=torch.float32)
        self.size = size

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return scores (batch, classes, height, width)."""
        return nn.functional.interpolate(self.scores(maps), size=self.size, mode="bilinear", align_corners=False)


def dense_network(split: Split, classes: int, size: tuple[int, int], seed: int) -> HeadNetwork:
    """Return a copy of the backbone with a new linear layer at each place of its features."""
    copied = split.rebind(deep_copy(split.model))
    maps = Maps(split.cut)
    shapes = {spec.name: [2 if each is None else each for each in spec.shape] for spec in split.frontier}
    channels = maps({name: torch.empty((2, *shape), device="meta") for name, shape in shapes.items()}).shape[1]
    with seeded(seed):
        head = DenseHead(channels, classes, size)
    return HeadNetwork(copied, maps, head)
