"""The rows of one shard while they are computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..codecs import Pool, load_codec
from ..errors import DataError
from ..hdf5 import Ragged
from ..identity import Recipe
from ..tensorspec import TensorSpec

__all__ = ["ShardBuffer"]

Array = np.ndarray[Any, Any]


class ShardBuffer:
    """Takes batches of features as they are computed, and gives them out as they are stored."""

    def __init__(self, recipe: Recipe, capacity: int) -> None:
        self.recipe = recipe
        self._codec = load_codec(recipe.dtype)
        self._dtypes = {spec.name: spec.dtype for spec in recipe.frontier}
        self._pool = None if recipe.pool is None else Pool(recipe.pool, recipe.frontier[0].name)
        self._rows = np.empty((capacity, 2), dtype=np.int64)
        self._count = 0
        self._fixed: dict[str, Array] = {}
        self._ragged: dict[str, list[Array]] = {spec.name: [] for spec in recipe.frontier if spec.ragged}

    @property
    def rows(self) -> Array:
        """Return the rows (position in the snapshot, view) that were taken, (n, 2)."""
        return self._rows[: self._count]

    @property
    def unstorable(self) -> str:
        """Return in words what is wrong with the rows that ``append`` leaves out."""
        dtype, largest = self.recipe.dtype, self._codec.largest
        limit = "" if largest > 1e38 else f", or beyond {largest:g}, which is the most that {dtype} holds"
        return f"NaN or infinite{limit}"

    def pooled(self, frontier: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return what is stored of a frontier, where it was computed."""
        return frontier if self._pool is None else {self.recipe.frontier[0].name: self._pool(frontier)}

    def append(self, rows: Array, features: dict[str, torch.Tensor]) -> list[int]:
        """Take the first features of a batch for the given rows; return the places of those that cannot be stored.

        Those are left out: they are not finite, or exceed what the precision holds.
        """
        arrays = {}
        for spec in self.recipe.frontier:
            tensor = features[spec.name][: len(rows)]
            self._check_shape(spec, tuple(tensor.shape[1:]))
            arrays[spec.name] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        bad = _unstorable_rows(arrays, self._codec.largest)
        if bad.any():
            rows, arrays = rows[~bad], {name: values[~bad] for name, values in arrays.items()}
        if not self._codec.scaled:  # else once all rows are here
            arrays = {name: self._codec.encode(values) for name, values in arrays.items()}
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

    def _check_shape(self, spec: TensorSpec, found: tuple[int, ...]) -> None:
        """Raise ``DataError`` for features that are not what was recorded: numpy would stretch some of them."""
        if (found[1:] if spec.ragged else found) != spec.value_shape:
            shape = TensorSpec(spec.name, found, spec.dtype)
            raise DataError(
                f"the features {spec.name!r} of some samples have the shape {shape}, not {spec} as those on which the network "
                "was recorded. Give a transform that makes all inputs equally large, or one with `ragged = True`."
            )

    def arrays(self) -> tuple[dict[str, Array | Ragged], dict[str, Array]]:
        """Return the encoded features of all rows, and the scales that decode them, both by tensor name."""
        made: dict[str, Array | Ragged] = {name: values[: self._count] for name, values in self._fixed.items()}
        made.update({name: Ragged.of(values) for name, values in self._ragged.items() if values})
        scales: dict[str, Array] = {}
        if self._codec.scaled:
            for name, each in made.items():
                values = each.values if isinstance(each, Ragged) else each
                found = self._codec.scales(values, self._dtypes[name])
                encoded = self._codec.encode(values, found)
                made[name] = Ragged(encoded, each.ends) if isinstance(each, Ragged) else encoded
                if found is not None:
                    scales[name] = found
        return made, scales


def _unstorable_rows(arrays: dict[str, Array], largest: float) -> Array:
    count = len(next(iter(arrays.values())))
    bad = np.zeros(count, dtype=bool)
    for values in arrays.values():
        if values.dtype.kind != "f" or not values.size:
            continue
        # NaN passes neither comparison; the least and the largest value take no memory.
        if values.min() >= -largest and values.max() <= largest:
            continue
        bad |= ~(np.abs(values) <= largest).reshape(count, -1).all(axis=1)
    return bad
