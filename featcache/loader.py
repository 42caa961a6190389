"""Batches of cached features, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .devices import pick_device, transferred
from .errors import UsageError

if TYPE_CHECKING:
    from .features import Features

__all__ = ["FeatureLoader"]

Array = np.ndarray[Any, Any]
Batch = tuple[Any, torch.Tensor]


class FeatureLoader:
    """An iterable of (frontier, targets) batches; each iteration is one epoch, and the next one has the next order.

    Features that take a moderate share of the free memory are read once and held; larger ones are read batch by
    batch through the memory map.
    """

    def __init__(
        self,
        features: Features,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        device: str | torch.device | None = "cpu",
        rank: int = 0,
        world_size: int = 1,
        augmented: bool | None = None,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, not {batch_size}.")
        if not 0 <= rank < world_size:
            raise UsageError(f"rank must be from 0 to world_size - 1, not {rank} of {world_size}.")
        self.features = features
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.device = pick_device(None if device is None else str(device))
        self.rank = rank
        self.world_size = world_size
        self.augmented = bool(features.views) and (shuffle if augmented is None else augmented)
        self.epoch = 0
        self._held: Features | None = None

    def __len__(self) -> int:
        return -(-self._share() // self.batch_size)

    def _share(self) -> int:
        """Return how many rows this process gets in an epoch."""
        return -(-len(self.features) // self.world_size)

    def order(self, epoch: int) -> Array:
        """Return the row positions of an epoch in the order in which they are given out, int64."""
        count = len(self.features)
        order = np.random.default_rng([self.seed, epoch]).permutation(count) if self.shuffle else np.arange(count)
        if self.world_size == 1 or not count:
            return order
        return np.resize(order, self._share() * self.world_size)[self.rank :: self.world_size]

    def views(self, epoch: int) -> Array | None:
        """Return which view each row of the features is seen in, None for the plain one."""
        if not self.augmented:
            return None
        return np.random.default_rng([self.seed, epoch, 1]).integers(1, self.features.views + 1, len(self.features))

    def __iter__(self) -> Iterator[Batch]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        if self._held is None:
            self._held = self.features.resident() if self.features.fits_in_memory else self.features
        yield from transferred(self._batches(self._held, self.order(epoch), self.views(epoch)), self.device)

    def _batches(self, features: Features, order: Array, views: Array | None) -> Iterator[Batch]:
        pin = self.device.type == "cuda"
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            frontier, targets = features.batch(rows, None if views is None else views[rows])
            yield (_pinned(frontier), targets.pin_memory()) if pin else (frontier, targets)


def _pinned(frontier: Any) -> Any:
    if isinstance(frontier, dict):
        return {name: values.pin_memory() for name, values in frontier.items()}
    return frontier.pin_memory()
