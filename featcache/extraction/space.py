"""How many bytes features will take, and whether the disk and the store's budget have room for them."""

from __future__ import annotations

import math
from typing import Any

from ..codecs import load_codec
from ..errors import StoreError
from ..identity import Recipe
from ..quantity import size_in_words
from ..samples import Snapshot
from ..store import FeatureSet, StoreFiles

__all__ = ["buffered_row_bytes", "check_space", "new_set_bytes", "shard_bytes", "stored_row_bytes"]

TYPICAL_STEPS = 256  # of samples that vary in length, where nothing better is known
SHARD_OVERHEAD_BYTES = 16 << 10  # of HDF5, and of aligning arrays to pages
ROW_OVERHEAD_BYTES = 24  # id, view and its part of a checksum
SAMPLE_OVERHEAD_BYTES = 64  # of a snapshot, the name not counted


def stored_row_bytes(recipe: Recipe, steps: int = TYPICAL_STEPS) -> int:
    """Return the bytes that one row of a set takes on disk; of samples that vary in length one of so many steps."""
    codec = load_codec(recipe.dtype)
    return sum(
        math.prod(codec.storage_shape(spec.value_shape, spec.dtype))
        * codec.storage_dtype(spec.dtype).itemsize
        * (steps if spec.ragged else 1)
        for spec in recipe.frontier
    )


def buffered_row_bytes(recipe: Recipe) -> int:
    """Return the bytes that one row takes in memory until its shard is written: scaled precisions wait for all rows."""
    if not load_codec(recipe.dtype).scaled:
        return stored_row_bytes(recipe)
    return sum(spec.size_bytes * (TYPICAL_STEPS if spec.ragged else 1) for spec in recipe.frontier)


def shard_bytes(recipe: Recipe, rows: int, shard_rows: int, steps: int = TYPICAL_STEPS) -> int:
    """Return how many bytes the shards of so many rows take at most."""
    return rows * (stored_row_bytes(recipe, steps) + ROW_OVERHEAD_BYTES) + -(-rows // shard_rows) * SHARD_OVERHEAD_BYTES


def new_set_bytes(feature_set: FeatureSet, snapshot: Snapshot, inputs: Any) -> int:
    """Return how many bytes a set takes beside its shards, if it is new, and the snapshot; 0 if the set is there."""
    if feature_set.storage.exists(f"{feature_set.path}/recipe.json"):
        return 0
    values = inputs.values() if isinstance(inputs, dict) else inputs
    example_bytes = sum(int(value.nbytes) for value in values if hasattr(value, "nbytes"))
    snapshot_bytes = sum(len(name.encode(errors="replace")) + SAMPLE_OVERHEAD_BYTES for name in snapshot.names)
    return len(feature_set.recipe.to_json()) + example_bytes + snapshot_bytes + 2 * SHARD_OVERHEAD_BYTES


def check_space(store: StoreFiles, needed_bytes: int, budget_bytes: int | None) -> None:
    """Raise ``StoreError`` where so many bytes more do not fit on the disk, or into the store's budget."""
    url, free_bytes = store.storage.url, store.storage.free_bytes()
    if free_bytes is not None and needed_bytes > free_bytes:
        raise StoreError(
            f"the features need {size_in_words(needed_bytes)}, but {url} has {size_in_words(free_bytes)} free. "
            "Choose a deeper --cut or --dtype float16, free some space, or another --store."
        )
    held_bytes = 0 if budget_bytes is None else store.size_bytes()
    if budget_bytes is not None and held_bytes + needed_bytes > budget_bytes:
        raise StoreError(
            f"the features need {size_in_words(needed_bytes)} ({needed_bytes:,} bytes), but {url} holds "
            f"{size_in_words(held_bytes)} and its budget is {size_in_words(budget_bytes)}. Set store_budget to at least "
            f"{held_bytes + needed_bytes:,} bytes, drop old sets (`featcache gc`), or choose a deeper --cut."
        )
