"""Listing the feature sets of a store."""

from __future__ import annotations

from dataclasses import dataclass

from ..identity import Recipe
from ..store import StoreFiles
from ..tensorspec import TensorSpec

__all__ = ["SetInfo", "list_sets"]


@dataclass(frozen=True)
class SetInfo:
    """One feature set: its fingerprint, cut, stored precision and frontier, with what it takes on disk."""

    recipe: str
    cut: str
    dtype: str
    frontier: tuple[TensorSpec, ...]
    rows: int
    shards: int
    size_bytes: int
    modified_s: float


def list_sets(store: StoreFiles) -> list[SetInfo]:
    """Return every set of the store, sorted by cut and fingerprint."""
    return sorted((_info(store, recipe) for recipe in store.recipes()), key=lambda info: (info.cut, info.recipe))


def _info(store: StoreFiles, recipe: Recipe) -> SetInfo:
    feature_set = store.set(recipe)
    entries = feature_set.shard_entries()
    return SetInfo(
        recipe.fingerprint,
        recipe.cut,
        recipe.dtype,
        recipe.frontier,
        len(feature_set.index()),
        len(entries),
        sum(entry.size_bytes for entry in entries),
        max((entry.modified_s for entry in entries), default=0.0),
    )
