"""Sets of random rows in a store, for races that are about bytes and not about a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from featcache import Features, Recipe, TensorSpec
from featcache.extraction.buffer import ShardBuffer
from featcache.samples.snapshot import Snapshot
from featcache.store.files import FeatureSet, StoreFiles


def feature_set(
    folder: Path | str, values: np.ndarray, dtype: str = "float32", shards: int = 1, compression: str | None = None
) -> tuple[FeatureSet, np.ndarray]:
    """Return a set of these rows and their ids."""
    import torch

    recipe = Recipe("cut", "structure", {}, (TensorSpec("cut", values.shape[1:], "float32"),), None, {}, dtype)
    made = StoreFiles(str(folder)).set(recipe)
    ids = np.random.default_rng(0).integers(0, 256, (len(values), 16), dtype=np.uint8)
    for rows in np.array_split(np.arange(len(values)), shards):
        buffer = ShardBuffer(recipe, len(rows))
        places = np.stack([rows, np.zeros_like(rows)], axis=1)
        buffer.append(places, {"cut": torch.from_numpy(values[rows])})
        arrays, scales = buffer.arrays()
        made.add(ids[rows], np.zeros(len(rows), "<u4"), arrays, {}, scales, compression)
    return made, ids


def features(folder: Path | str, values: np.ndarray, dtype: str = "float32", shards: int = 1) -> Features:
    """Return these rows as features of one dataset, with targets of ten classes."""
    return joined(*feature_set(folder, values, dtype, shards))


def joined(made: FeatureSet, ids: np.ndarray) -> Features:
    """Return the features of a set anew: nothing of it is open, and no block is known to be whole."""
    names = [str(number) for number in range(len(ids))]
    targets = np.arange(len(ids)) % 10
    snapshot = Snapshot("synthetic", ids, names, targets, [""] * len(ids), [str(each) for each in range(10)])
    return Features.join(made, snapshot)
