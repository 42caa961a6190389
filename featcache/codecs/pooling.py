"""Pooling: one vector a sample from what crosses a cut."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ..errors import DataError, UsageError
from ..tensorspec import TensorSpec, is_channels_last
from .stored import POOLS

__all__ = ["MASK", "Pool", "pooled_spec"]

MASK = "mask"  # of a padded batch: which steps are a sample's own


class Pool(nn.Module):
    """Turns what crosses the cut into one float32 vector a sample; of several tensors the cut's own output counts.

    ``kind`` is one of ``POOLS``: ``channels_first`` averages over all dimensions but the first, ``channels_last`` over
    all but the last, ``first`` takes the first token, ``flatten`` keeps every value. ``auto`` averages (tokens, width) over
    tokens, and maps over places: (channels, height, width), or (height, width, channels) where only the first two are
    equal, as in Swin. A vector stays as it is. Of a padded batch with its mask only the samples' own steps count.
    """

    def __init__(self, kind: str = "auto", name: str | None = None) -> None:
        super().__init__()
        if kind not in POOLS:
            raise UsageError(f"pool must be one of {', '.join(POOLS)}, not {kind!r}.")
        self.kind = kind
        self.tensor_name = name

    def forward(self, frontier: torch.Tensor | Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return vectors (batch, width)."""
        mask = None
        if isinstance(frontier, torch.Tensor):
            values = frontier
        else:
            own = self.tensor_name in frontier
            values = frontier[str(self.tensor_name)] if own else next(iter(frontier.values()))
            mask = frontier.get(MASK)
        values = values.to(torch.float32)
        if mask is not None and mask.shape == values.shape[:2] and self.kind in ("auto", "channels_last"):
            return _masked_mean(values.reshape(*values.shape[:2], -1), mask)
        if values.dim() < 3 or self.kind == "flatten":
            return values.flatten(1) if values.dim() > 1 else values[:, None]
        kind = self.kind
        if kind == "auto":
            kind = "channels_last" if is_channels_last(tuple(values.shape[1:])) else "channels_first"
        if kind == "first":
            return values[:, 0].flatten(1)
        if kind == "channels_last":
            return values.flatten(1, -2).mean(dim=1)
        return values.flatten(2).mean(dim=2)

    def extra_repr(self) -> str:
        """Return the kind of pooling."""
        return self.kind


def pooled_spec(kind: str, cut: str, frontier: tuple[TensorSpec, ...]) -> TensorSpec:
    """Return what the vectors that pooling makes of a frontier look like.

    Raises ``UsageError`` where it makes none, or vectors of varying length.
    """
    own = next((spec for spec in frontier if spec.name == cut), frontier[0])
    if own.ragged and kind in ("flatten", "channels_first"):
        raise UsageError(
            f"the features at {cut!r} vary in length, so pool {kind!r} makes no vectors of one width: use auto."
        )
    shape = [2 if size is None else size for size in own.shape]
    example = torch.empty((2, *shape), dtype=getattr(torch, own.dtype), device="meta")
    try:
        return TensorSpec(own.name, (int(Pool(kind)(example).shape[1]),), "float32")
    except (IndexError, RuntimeError) as error:
        raise UsageError(
            f"the features at {cut!r} of shape {list(own.shape)} cannot be pooled by {kind!r}: {error}."
        ) from error


def _masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    if bool((mask == 0).all(dim=1).any()):
        raise DataError(
            f"{MASK!r} marks none of a sample's steps as its own, so these have no mean: a mask that is true at padding, as "
            "torch's key_padding_mask is, must be given by another name."
        )
    weights = mask.to(values.dtype).unsqueeze(-1)
    return (values * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
