"""The rows of one shard while they are computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .codecs import load_codec
from .pooling import Pool
from .recipe import Recipe
from .shard import Ragged

__all__ = ["ShardBuffer"]

Array = np.ndarray[Any, Any]


class ShardBuffer:
    """Takes batches of features as they are computed, and gives them out as they are stored."""

    def __init__(self, recipe: Recipe, capacity: int) -> None:
        self.recipe = recipe
        self._codec = load_codec(recipe.dtype)
        self._pool = None if recipe.pool is None else Pool(recipe.pool, recipe.frontier[0].name)
        self._rows = np.empty((capacity, 2), dtype=np.int64)
        self._count = 0
        self._fixed: dict[str, Array] = {}
        self._ragged: dict[str, list[Array]] = {spec.name: [] for spec in recipe.frontier if spec.ragged}

    @property
    def rows(self) -> Array:
        """Return the rows (position in the snapshot, view) that were taken, (n, 2)."""
        return self._rows[: self._count]

    def pooled(self, frontier: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return what is stored of a frontier, where it was computed."""
        return frontier if self._pool is None else {self.recipe.frontier[0].name: self._pool(frontier)}

    def append(self, rows: Array, features: dict[str, torch.Tensor]) -> list[int]:
        """Take the first features of a batch for the given rows; return the places of those that are not finite.

        Those are left out.
        """
        arrays, bad = {}, np.zeros(len(rows), dtype=bool)
        for spec in self.recipe.frontier:
            tensor = features[spec.name][: len(rows)]
            known = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
            values = known.numpy()
            arrays[spec.name] = stored = self._codec.encode(values)
            # Rounding can make infinity of a value; of what is stored as a whole number the value itself is looked at.
            bad |= _non_finite_rows(stored if stored.dtype.kind == "f" else values)
        if bad.any():
            rows, arrays = rows[~bad], {name: values[~bad] for name, values in arrays.items()}
        start, stop = self._count, self._count + len(rows)
        for name, values in arrays.items():
            if name in self._ragged:
                self._ragged[name].extend(values.copy())
                continue
            if name not in self._fixed:
                self._fixed[name] = np.empty((len(self._rows), *values.shape[1:]), values.dtype)
            self._fixed[name][start:stop] = values
        self._rows[start:stop] = rows
        self._count = stop
        return [int(place) for place in np.flatnonzero(bad)]

    def arrays(self) -> dict[str, Array | Ragged]:
        """Return the encoded features of all rows, by tensor name."""
        made: dict[str, Array | Ragged] = {name: values[: self._count] for name, values in self._fixed.items()}
        made.update({name: Ragged.of(values) for name, values in self._ragged.items() if values})
        return made


def _non_finite_rows(values: Array) -> Array:
    count = len(values)
    if values.dtype.kind != "f":
        return np.zeros(count, dtype=bool)
    with np.errstate(all="ignore"):
        # A sum is finite only if all of its terms are; it costs one pass and no memory.
        if np.isfinite(values.sum(dtype=np.float64)):
            return np.zeros(count, dtype=bool)
    bad: Array = np.logical_not(np.isfinite(values).reshape(count, -1).all(axis=1))
    return bad
