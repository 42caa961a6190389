"""What is in a store and how it stands against the present configuration."""

from __future__ import annotations

from ..recipe import Recipe
from ..snapshot import Snapshot
from ..store import StoreFiles
from .explain import Explanation, explain
from .ls import SetInfo, list_sets
from .status import SetStatus, set_status
from .verify import Damage, VerifyReport, verify

__all__ = ["Damage", "Explanation", "FeatureStore", "SetInfo", "SetStatus", "VerifyReport"]


class FeatureStore(StoreFiles):
    """A store at a path or URL: what it holds, whether that is fresh, why, and whether every byte is whole.

    It is created by the first thing that is written to it. Raises :class:`NotAStoreError` for a folder that holds
    something else, :class:`StoreFormatError` for the store of a newer featcache.
    """

    def sets(self) -> list[SetInfo]:
        """Return every feature set of the store with its rows, bytes and recipe."""
        return list_sets(self)

    def status(self, recipe: Recipe, snapshot: Snapshot) -> SetStatus:
        """Return how the set of a recipe stands against the samples of a snapshot; opens no image."""
        return set_status(self, recipe, snapshot)

    def explain(self, recipe: Recipe, snapshot: Snapshot) -> Explanation:
        """Return in words why the set of a recipe is fresh or not: differing recipe fields, tensors, samples."""
        return explain(self, recipe, snapshot)

    def verify(self) -> VerifyReport:
        """Return what is damaged, after having read every byte of every set and snapshot."""
        return verify(self)
