"""Where the rows of features come from: memory-mapped shards, or arrays in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch

from .codecs import load_codec
from .pooling import MASK
from .shard import Ragged, Shard
from .store import FeatureSet, row_keys
from .uses import hold, keep_alive

__all__ = ["ResidentRows", "Rows", "ShardRows"]

Array = np.ndarray[Any, Any]


class Rows(Protocol):
    """A source of rows, addressed by position."""

    def gather(self, positions: Array) -> dict[str, torch.Tensor]:
        """Return the decoded rows at ``positions``, by tensor name, in fresh memory."""

    def resident(self, positions: Array) -> ResidentRows:
        """Return the decoded rows at ``positions``, held in memory."""

    def steps(self, positions: Array) -> int:
        """Return how many steps the rows at ``positions`` have in all, where samples vary in length."""


class ResidentRows:
    """Rows in memory: of each tensor one array, or where samples vary in length all their steps and where each ends."""

    def __init__(self, values: Mapping[str, torch.Tensor | Ragged]) -> None:
        self.values = dict(values)

    def gather(self, positions: Array) -> dict[str, torch.Tensor]:
        """Return the rows at ``positions``; those that vary in length padded with zeros, and their mask."""
        gathered: dict[str, torch.Tensor] = {}
        masks = []
        for name, values in self.values.items():
            if isinstance(values, Ragged):
                gathered[name], mask = _padded(values.values, values.ends, positions)
                masks.append(mask)
            else:
                gathered[name] = _take(values.numpy(), positions)
        return _with_mask(gathered, masks)

    def resident(self, positions: Array) -> ResidentRows:
        """Return the rows at ``positions``, copied."""
        taken: dict[str, torch.Tensor | Ragged] = {}
        for name, values in self.values.items():
            if isinstance(values, Ragged):
                starts = np.where(positions > 0, values.ends[positions - 1], 0).tolist()
                pieces = zip(starts, values.ends[positions].tolist(), strict=True)
                taken[name] = Ragged.of([values.values[start:stop] for start, stop in pieces])
            else:
                taken[name] = _take(values.numpy(), positions)
        return ResidentRows(taken)

    def steps(self, positions: Array) -> int:
        """Return how many steps the rows at ``positions`` have in all, where samples vary in length."""
        for values in self.values.values():
            if isinstance(values, Ragged):
                return int(np.diff(values.ends, prepend=0)[positions].sum())
        return 0


class ShardRows:
    """Rows of a set for a list of sample ids; shards are opened, mapped and checked when they are first touched.

    A memory map goes around the HDF5 library, whose per-call cost and global lock make row-wise h5py reading slow.
    """

    def __init__(self, feature_set: FeatureSet, ids: Array, views: Array | int = 0) -> None:
        self.feature_set = feature_set
        hold(feature_set.storage, feature_set.recipe.fingerprint, self)
        self.present, self._shards, self._rows = feature_set.index().find(row_keys(ids, views))
        self._names = feature_set.shard_names()
        self._codec = load_codec(feature_set.recipe.dtype)
        self._opened: dict[int, Shard] = {}
        self._ragged = [spec.name for spec in feature_set.recipe.frontier if spec.ragged]

    def __getstate__(self) -> dict[str, Any]:
        # Maps do not pickle; another process opens its own.
        return {**self.__dict__, "_opened": {}}

    def gather(self, positions: Array) -> dict[str, torch.Tensor]:
        """Return the decoded rows at ``positions``; those that vary in length padded with zeros, and their mask.

        Raises :class:`CorruptError` for damaged ones.
        """
        keep_alive(self.feature_set.storage, self.feature_set.recipe.fingerprint)
        numbers, rows = self._shards[positions], self._rows[positions]
        if not len(positions):
            return self._nothing()
        if (numbers == numbers[0]).all():
            return self._decoded(self._shard(int(numbers[0])), rows)
        order = np.argsort(numbers, kind="stable")
        runs = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)
        parts = [self._decoded(self._shard(int(numbers[run[0]])), rows[run]) for run in runs]
        gathered = {}
        for name, first in parts[0].items():
            shape = list(first.shape)
            if name in self._ragged or name == MASK:
                shape[1] = max(part[name].shape[1] for part in parts)
            values = torch.zeros((len(positions), *shape[1:]), dtype=first.dtype)
            for run, part in zip(runs, parts, strict=True):
                if first.dim() > 1:
                    values.numpy()[run, : part[name].shape[1]] = part[name].numpy()
                else:
                    values.numpy()[run] = part[name].numpy()
            gathered[name] = values
        return gathered

    def resident(self, positions: Array) -> ResidentRows:
        """Return the decoded rows at ``positions``, held in memory; those that vary in length without padding."""
        if not self._ragged:
            return ResidentRows(self.gather(positions))
        found: dict[str, torch.Tensor | Ragged] = {}
        single = [self.gather(positions[n : n + 1]) for n in range(len(positions))]
        for spec in self.feature_set.recipe.frontier:
            if spec.ragged:
                found[spec.name] = Ragged.of([row[spec.name].numpy()[0] for row in single])
            else:
                found[spec.name] = torch.cat([row[spec.name] for row in single])
        return ResidentRows(found)

    def steps(self, positions: Array) -> int:
        """Return how many steps the rows at ``positions`` have in all, where samples vary in length."""
        return int(self.lengths(positions).sum()) if self._ragged else 0

    def lengths(self, positions: Array) -> Array:
        """Return how many steps the rows at ``positions`` have, of the first tensor that varies in length."""
        found = []
        for position in positions.tolist():
            ends, row = self._shard(int(self._shards[position])).ends[self._ragged[0]], int(self._rows[position])
            found.append(int(ends[row] - (ends[row - 1] if row else 0)))
        return np.array(found, dtype=np.int64)

    def _nothing(self) -> dict[str, torch.Tensor]:
        gathered = {}
        for spec in self.feature_set.recipe.frontier:
            shape = [0 if size is None else size for size in spec.shape]
            stored = np.empty((0, *shape), self._codec.storage_dtype(spec.dtype))
            gathered[spec.name] = torch.from_numpy(self._codec.decode(stored))
        if self._ragged:
            gathered[MASK] = torch.zeros((0, 0), dtype=torch.bool)
        return gathered

    def _decoded(self, shard: Shard, rows: Array) -> dict[str, torch.Tensor]:
        shard.check(rows)
        decoded: dict[str, torch.Tensor] = {}
        masks = []
        for name, values in shard.features.items():
            if name in shard.ends:
                taken, mask = _padded(values, shard.ends[name], rows)
                masks.append(mask)
            else:
                taken = _take(values, rows)
            decoded[name] = torch.from_numpy(self._codec.decode(taken.numpy()))
        return _with_mask(decoded, masks)

    def _shard(self, number: int) -> Shard:
        shard = self._opened.get(number)
        if shard is None:
            shard = self._opened[number] = self.feature_set.open_shard(self._names[number])
        return shard


def _with_mask(gathered: dict[str, torch.Tensor], masks: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    # Behind the frontier, whose first tensor is the cut's own; a frontier that has a mask of that name keeps it.
    if masks and MASK not in gathered:
        gathered[MASK] = masks[0]
    return gathered


def _padded(values: Array, ends: Array, rows: Array) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of varying length padded with zeros (rows, longest, …), and which steps are their own (rows, longest)."""
    stops = ends[rows]
    starts = np.where(rows > 0, ends[rows - 1], 0)
    longest = int((stops - starts).max(initial=0))
    padded = torch.zeros(
        (len(rows), longest, *values.shape[1:]), dtype=torch.from_numpy(np.empty(0, values.dtype)).dtype
    )
    target = padded.numpy()
    for number, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        target[number, : stop - start] = values[start:stop]
    mask = np.arange(longest) < (stops - starts)[:, None]
    return padded, torch.from_numpy(mask)


def _take(values: Array, rows: Array) -> torch.Tensor:
    # take(mode="clip") is the fastest gather there is, but it would hide a bad index: rows are checked first.
    if len(rows) and (rows.min() < 0 or rows.max() >= len(values)):
        raise IndexError(f"row {rows.min()}..{rows.max()} of {len(values)}")
    gathered = torch.empty((len(rows), *values.shape[1:]), dtype=torch.from_numpy(np.empty(0, values.dtype)).dtype)
    np.take(values, rows, axis=0, out=gathered.numpy(), mode="clip")
    return gathered
