"""Whether a feature set is fresh, partial, missing or stale against the present configuration."""

from __future__ import annotations

from dataclasses import dataclass

from ..identity import Recipe
from ..samples import Snapshot
from ..store import StoreFiles

__all__ = ["SetStatus", "set_status"]


@dataclass(frozen=True)
class SetStatus:
    """How one feature set stands against a dataset.

    Attributes
    ----------
    cut : str
        The cut.
    dataset : str
        The name of the dataset.
    recipe : str
        The fingerprint of the set.
    state : str
        ``"fresh"`` (all rows are there), ``"partial"`` (some are), ``"missing"`` (none is) or ``"stale"`` (none is,
        while a set for the same cut exists under another recipe).
    samples : int
        The number of samples.
    present : int
        The number of samples whose rows are there.
    missing : int
        The number of samples whose rows are not there.
    skipped : int
        The number of samples that could not be read when the set was made. They do not count as missing.
    size_bytes : int
        The bytes of the set on disk, with those of its views.
    """

    cut: str
    dataset: str
    recipe: str
    state: str
    samples: int
    present: int
    missing: int
    skipped: int
    size_bytes: int

    @property
    def fresh(self) -> bool:
        """Whether there is nothing to compute."""
        return self.state == "fresh"


def set_status(
    store: StoreFiles, recipe: Recipe, snapshot: Snapshot, augmented: Recipe | None = None, views: int = 0
) -> SetStatus:
    """Return how the set of ``recipe`` stands against the samples in ``snapshot``.

    With ``augmented``, the recipe of their random views, a sample is present if its ``views`` are, too.
    """
    feature_set = store.set(recipe)
    there = feature_set.present(snapshot.ids)
    size_bytes = sum(entry.size_bytes for entry in feature_set.shard_entries())
    if augmented is not None:
        of_views = store.set(augmented)
        for view in range(1, views + 1):
            there &= of_views.present(snapshot.ids, view)
        size_bytes += sum(entry.size_bytes for entry in of_views.shard_entries())
    present, skipped = int(there.sum()), 0
    if present < len(snapshot):
        unreadable = feature_set.skipped()
        skipped = sum(row.tobytes().hex() in unreadable for row in snapshot.ids[~there])
    missing = len(snapshot) - present - skipped
    if not missing:
        state = "fresh"
    elif present:
        state = "partial"
    else:
        others = [other for other in store.recipes() if other.cut == recipe.cut]
        state = "stale" if any(other.fingerprint != recipe.fingerprint for other in others) else "missing"
    return SetStatus(
        recipe.cut,
        snapshot.dataset,
        recipe.fingerprint,
        state,
        len(snapshot),
        present,
        missing,
        skipped,
        size_bytes,
    )
