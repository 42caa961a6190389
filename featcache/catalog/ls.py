"""Listing the feature sets of a store."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..identity import Recipe
from ..store import StoreFiles
from ..tables import Records
from ..tensorspec import TensorSpec
from .gc import described_heads, sets_of

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
    numerics : str, default "exact"
        The way of computing.
    pool : str, optional
        How one vector was made of each tensor. None if all values are stored.
    views : bool, default False
        Whether the rows are random views of the samples.
    heads : tuple of str
        The names of the heads that were trained from the set.
    """

    recipe: str
    cut: str
    dtype: str
    frontier: tuple[TensorSpec, ...]
    rows: int
    shards: int
    size_bytes: int
    modified_s: float
    numerics: str = "exact"
    pool: str | None = None
    views: bool = False
    heads: tuple[str, ...] = ()


def list_sets(store: StoreFiles) -> Records[SetInfo]:
    """Return every set of the store, sorted by cut, numbers in it by their value, and by fingerprint."""
    heads: dict[str, list[str]] = {}
    for name, described in described_heads(store, damaged=True):
        for each in sets_of(described):
            heads.setdefault(each, []).append(name)
    found = [_info(store, recipe, heads.get(recipe.fingerprint, [])) for recipe in store.recipes()]
    return Records(sorted(found, key=lambda info: (_natural(info.cut), info.recipe)))


def _natural(name: str) -> list[tuple[str, int]]:
    """Return what names are sorted by, so that layer10 comes after layer2."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", name)]


def _info(store: StoreFiles, recipe: Recipe, heads: list[str]) -> SetInfo:
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
        recipe.numerics,
        recipe.pool,
        recipe.views is not None,
        tuple(heads),
    )
