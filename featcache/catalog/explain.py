"""Why a feature set is fresh or not, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..errors import CorruptError, StaleError
from ..identity import Difference, Recipe
from ..samples import Snapshot
from ..store import StoreFiles
from .status import SetStatus, set_status

__all__ = ["Explanation", "explain"]

WORDS = {
    "structure": "the code or structure of the backbone up to the cut",
    "weights": "weights or buffers up to the cut",
    "frontier": "the tensors that cross the cut",
    "transform": "the transform of the samples",
    "decoding": "how samples are decoded",
    "dtype": "the stored precision",
    "numerics": "the way of computing",
    "recipe_version": "the version of featcache's recipes",
}
NAMED = 5


@dataclass(frozen=True)
class Explanation:
    """Why a set is fresh or not: its status, the nearest other set of the same cut, and what differs from it.

    Attributes
    ----------
    status : SetStatus
        How the set stands.
    nearest : str or None
        The fingerprint of the nearest other set of the same cut, if the set is stale.
    differences : list of Difference
        The recipe fields that differ from the nearest set.
    tensors : list of str
        The names of the weights and buffers that differ.
    new : list of str
        The names of samples that are new since the last extract.
    edited : list of str
        The names of samples whose content changed since the last extract.
    gone : list of str
        The names of samples that are gone since the last extract.
    """

    status: SetStatus
    nearest: str | None
    differences: list[Difference]
    tensors: list[str]
    new: list[str] = field(default_factory=list)
    edited: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the explanation as plain sentences.

        Returns
        -------
        list of str
            The lines.
        """
        status = self.status
        said = [
            f"{status.cut} of {status.dataset}: {status.state}, {status.present} of {status.samples} samples cached."
        ]
        if status.skipped:
            said.append(f"{status.skipped} samples could not be read and are left out.")
        if status.state == "stale":
            said.append(f"A set for this cut exists under another recipe ({self.nearest}). What differs:")
            said.extend(f"  {line}" for line in self._differing())
        elif status.state == "missing":
            said.append("No set was ever extracted for this cut.")
        for verb, names in (("new", self.new), ("edited", self.edited), ("gone", self.gone)):
            if names:
                more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
                said.append(f"Since the last extract {len(names)} {verb}: {', '.join(names[:NAMED])}{more}.")
        if status.missing:
            said.append(f"Run `featcache extract --cut {status.cut}` to compute the {status.missing} missing.")
        return said

    def _differing(self) -> Iterator[str]:
        if self.tensors:
            more = f" and {len(self.tensors) - NAMED} more" if len(self.tensors) > NAMED else ""
            yield f"weights: {len(self.tensors)} tensors differ: {', '.join(self.tensors[:NAMED])}{more}"
        tops = [difference.field.split(".")[0].split("[")[0] for difference in self.differences]
        for difference, top in zip(self.differences, tops, strict=True):
            if top == "weights":
                continue
            if top == "structure":
                # Its digest holds the sizes that were computed with, so that other inputs change it, too.
                sizes = "" if {"transform", "frontier"}.isdisjoint(tops) else ", or only the size of its input"
                yield f"structure: {WORDS[top]} changed{sizes}"
            else:
                old, new = _short(difference.old), _short(difference.new)
                yield f"{difference.field} ({WORDS.get(top, top)}): {old} → {new}"


def explain(store: StoreFiles, recipe: Recipe, snapshot: Snapshot) -> Explanation:
    """Return why the set of ``recipe`` is fresh or not against the samples in ``snapshot``."""
    status = set_status(store, recipe, snapshot)
    nearest, differences = _nearest(store, recipe) if status.state == "stale" else (None, [])
    tensors = [
        difference.field.removeprefix("weights.")
        for difference in differences
        if difference.field.startswith("weights.")
    ]
    new, edited, gone = _changes(store, snapshot)
    return Explanation(status, nearest, differences, tensors, new, edited, gone)


def _nearest(store: StoreFiles, recipe: Recipe) -> tuple[str | None, list[Difference]]:
    others = [other for other in store.recipes() if other.cut == recipe.cut and other != recipe]
    compared = [(other.differences(recipe), other.fingerprint) for other in others]
    if not compared:
        return None, []
    # Weights count as one field: a retrained network is one change, however many tensors it has.
    differences, fingerprint = min(
        compared,
        key=lambda pair: (len({difference.field.split(".")[0] for difference in pair[0]}), len(pair[0])),
    )
    return fingerprint, differences


def _changes(store: StoreFiles, snapshot: Snapshot) -> tuple[list[str], list[str], list[str]]:
    try:
        old = store.snapshot(snapshot.dataset)
    except (StaleError, CorruptError):  # why a set is fresh or not does not depend on it
        return [], [], []
    if old.digest == snapshot.digest:
        return [], [], []
    before = {name: row.tobytes() for name, row in zip(old.names, old.ids, strict=True)}
    after = {name: row.tobytes() for name, row in zip(snapshot.names, snapshot.ids, strict=True)}
    new = [name for name in after if name not in before]
    edited = [name for name, key in after.items() if name in before and before[name] != key]
    return new, edited, [name for name in before if name not in after]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "…"
