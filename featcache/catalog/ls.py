"""Listing the feature sets of a store."""

from __future__ import annotations

from dataclasses import dataclass

from ..identity import Recipe
from ..store import StoreFiles
from ..tables import Records
from ..tensorspec import TensorSpec

__all__ = ["SetInfo", "list_sets"]


@dataclass(frozen=True)
class SetInfo:
    """One feature set: what it holds and what it takes on disk.

    Attributes
    ----------
    recipe : str
        The fingerprint of the set.
    cut : str
        The cut.
    dtype : str
        The stored precision.
    frontier : tuple of TensorSpec
        The tensors of a row.
    rows : int
        The number of rows.
    shards : int
        The number of files.
    size_bytes : int
        The bytes of these files.
    modified_s : float
        When the newest file was written, in seconds since 1970. 0.0 if there are none.
    """

    recipe: str
    cut: str
    dtype: str
    frontier: tuple[TensorSpec, ...]
    rows: int
    shards: int
    size_bytes: int
    modified_s: float


def list_sets(store: StoreFiles) -> Records[SetInfo]:
    """Return every set of the store, sorted by cut and fingerprint."""
    found = [_info(store, recipe) for recipe in store.recipes()]
    return Records(sorted(found, key=lambda info: (info.cut, info.recipe)))


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
