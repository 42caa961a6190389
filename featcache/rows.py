"""Where the rows of features come from: memory-mapped shards, or arrays in memory."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch

from .codecs import load_codec
from .shard import Shard
from .store import FeatureSet, row_keys

__all__ = ["ResidentRows", "Rows", "ShardRows"]

Array = np.ndarray[Any, Any]


class Rows(Protocol):
    """A source of rows, addressed by position."""

    def gather(self, positions: Array) -> dict[str, torch.Tensor]:
        """Return the decoded rows at ``positions``, by tensor name, in fresh memory."""


class ResidentRows:
    """Rows in memory, one array a tensor."""

    def __init__(self, values: dict[str, torch.Tensor]) -> None:
        self.values = values

    def gather(self, positions: Array) -> dict[str, torch.Tensor]:
        """Return the rows at ``positions``."""
        return {name: _take(values.numpy(), positions) for name, values in self.values.items()}


class ShardRows:
    """Rows of a set for a list of sample ids; shards are opened, mapped and checked when they are first touched.

    A memory map goes around the HDF5 library, whose per-call cost and global lock make row-wise h5py reading slow.
    """

    def __init__(self, feature_set: FeatureSet, ids: Array) -> None:
        self.feature_set = feature_set
        self.present, self._shards, self._rows = feature_set.index().find(row_keys(ids))
        self._names = feature_set.shard_names()
        self._codec = load_codec(feature_set.recipe.dtype)
        self._opened: dict[int, Shard] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Maps do not pickle; another process opens its own.
        return {**self.__dict__, "_opened": {}}

    def gather(self, positions: Array) -> dict[str, torch.Tensor]:
        """Return the decoded rows at ``positions``; raises :class:`CorruptError` for damaged ones."""
        numbers, rows = self._shards[positions], self._rows[positions]
        if not len(positions):
            return {
                spec.name: torch.from_numpy(
                    self._codec.decode(np.empty((0, *spec.shape), self._codec.storage_dtype(spec.dtype)))
                )
                for spec in self.feature_set.recipe.frontier
            }
        if (numbers == numbers[0]).all():
            return self._decoded(self._shard(int(numbers[0])), rows)
        order = np.argsort(numbers, kind="stable")
        runs = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)
        parts = [self._decoded(self._shard(int(numbers[run[0]])), rows[run]) for run in runs]
        gathered = {}
        for name, first in parts[0].items():
            values = torch.empty((len(positions), *first.shape[1:]), dtype=first.dtype)
            for run, part in zip(runs, parts, strict=True):
                values.numpy()[run] = part[name].numpy()
            gathered[name] = values
        return gathered

    def _decoded(self, shard: Shard, rows: Array) -> dict[str, torch.Tensor]:
        shard.check(rows)
        return {
            name: torch.from_numpy(self._codec.decode(_take(values, rows).numpy()))
            for name, values in shard.features.items()
        }

    def _shard(self, number: int) -> Shard:
        shard = self._opened.get(number)
        if shard is None:
            shard = self._opened[number] = self.feature_set.open_shard(self._names[number])
        return shard


def _take(values: Array, rows: Array) -> torch.Tensor:
    # take(mode="clip") is the fastest gather there is, but it would hide a bad index: rows are checked first.
    if len(rows) and (rows.min() < 0 or rows.max() >= len(values)):
        raise IndexError(f"row {rows.min()}..{rows.max()} of {len(values)}")
    gathered = torch.empty((len(rows), *values.shape[1:]), dtype=torch.from_numpy(np.empty(0, values.dtype)).dtype)
    np.take(values, rows, axis=0, out=gathered.numpy(), mode="clip")
    return gathered
