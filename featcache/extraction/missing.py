"""What a set lacks of a dataset, and the report of an extraction."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..machine import Timings
from ..samples import Samples, Snapshot, Unreadable
from ..store import FeatureSet, RowIndex, row_keys

__all__ = ["ExtractReport", "describe", "missing_rows", "report_if_complete", "samples_among"]

Array = np.ndarray[Any, Any]


@dataclass
class ExtractReport:
    """What an extraction did.

    Equal samples share a row, so the counts are of samples and not of rows. Of samples with views, the plain one and
    every view count.

    Attributes
    ----------
    cut : str
        The cut.
    dataset : str
        The name of the dataset.
    recipe : str
        The fingerprint of the recipe.
    snapshot : str
        The digest of the dataset's snapshot.
    samples : int
        The number of samples in the dataset.
    views : int
        The number of random views of each sample.
    computed : int
        The samples that were computed from the dataset.
    reused : int
        The samples that were there already.
    derived : int
        The samples that were derived from another cached set.
    skipped : int
        The samples that could not be read.
    size_bytes : int
        The bytes that were written.
    elapsed_s : float
        The seconds that the extraction took.
    device : str, optional
        The device that was computed on. None if nothing was computed.
    task : str, optional
        The part of the work that was asked for.
    remaining : int
        The samples that belong to other tasks and are not there yet.
    shards : list of str
        The paths of the files that were written.
    timings : Timings
        Where the time went. Cuts that are computed in one pass share it.
    skipped_samples : list of Unreadable
        The samples that could not be read, each with its ``position``, ``name`` and ``reason``.
    notes : list of str
        Remarks, such as from where rows were derived.
    """

    cut: str
    dataset: str
    recipe: str
    snapshot: str
    samples: int
    views: int = 0
    computed: int = 0
    reused: int = 0
    derived: int = 0
    skipped: int = 0
    size_bytes: int = 0
    elapsed_s: float = 0.0
    device: str | None = None
    task: str | None = None
    remaining: int = 0
    shards: list[str] = field(default_factory=list)
    timings: Timings = field(default_factory=Timings)
    skipped_samples: list[Unreadable] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def report_if_complete(
    samples: Samples,
    feature_set: FeatureSet,
    *,
    retry_skipped: bool,
    augmented: FeatureSet | None = None,
    views: int = 0,
) -> ExtractReport | None:
    """Return the report of an extraction that has nothing to do, or None if there is something; loads no torch."""
    snapshot = samples.snapshot()
    sets = [feature_set] if augmented is None else [feature_set, augmented]
    if any(len(missing_rows(snapshot, each, views, retry_skipped)) for each in sets):
        return None
    return describe(samples, feature_set, augmented, views)


def missing_rows(snapshot: Snapshot, feature_set: FeatureSet, views: int, retry_skipped: bool) -> Array:
    """Return the rows (position in the snapshot, view) that a set lacks, (n, 2); a set of views holds views 1 to ``views``."""
    wanted = range(1, views + 1) if feature_set.recipe.views is not None else (0,)
    parts = []
    for view in wanted:
        positions = feature_set.missing(snapshot.ids, view)
        parts.append(np.stack([positions, np.full_like(positions, view)], axis=1))
    rows: Array = parts[0] if len(parts) == 1 else np.concatenate([np.empty((0, 2), dtype=np.int64), *parts])
    if retry_skipped or not len(rows):
        return rows
    skipped = among_skipped(snapshot, rows, feature_set.skipped())
    kept: Array = rows[~skipped] if skipped.any() else rows
    return kept


def among_skipped(snapshot: Snapshot, rows: Array, skipped: Collection[str]) -> Array:
    """Return for each row (position, view) whether its sample is one of those that were skipped, by hexadecimal id."""
    if not skipped:
        return np.zeros(len(rows), dtype=bool)
    return np.array([snapshot.ids[position].tobytes().hex() in skipped for position in rows[:, 0].tolist()], dtype=bool)


def describe(samples: Samples, feature_set: FeatureSet, augmented: FeatureSet | None, views: int) -> ExtractReport:
    """Return a report in which every row that is there counts as reused."""
    snapshot = samples.snapshot()
    present = feature_set.present(snapshot.ids)
    recipe = feature_set.recipe
    count = len(snapshot) + len(samples.unreadable)
    report = ExtractReport(recipe.cut, snapshot.dataset, recipe.fingerprint, snapshot.digest, count, views)
    report.reused = int(present.sum())
    if augmented is not None:
        report.reused += sum(int(augmented.present(snapshot.ids, view).sum()) for view in range(1, views + 1))
    reasons = feature_set.skipped() if not present.all() else {}
    for position in np.flatnonzero(~present).tolist():
        noted = reasons.get(snapshot.ids[position].tobytes().hex())
        if noted is None:
            report.remaining += 1
            continue
        _, reason = noted
        report.skipped_samples.append(Unreadable(position, snapshot.names[position], reason))
    report.skipped_samples += samples.unreadable
    report.skipped = len(report.skipped_samples)
    return report


def samples_among(snapshot: Snapshot, rows: Array, feature_set: FeatureSet) -> int:
    """Return how many samples, equal ones counted each, have their row of a set from the given ones (position, view)."""
    ids = snapshot.ids
    count = 0
    for view in np.unique(rows[:, 1]).tolist():
        positions = rows[rows[:, 1] == view, 0]
        chosen = np.zeros(len(ids), dtype=bool)
        chosen[positions] = True
        others = np.flatnonzero(~chosen)
        if len(others):
            chosen[others] = RowIndex.build([row_keys(ids[positions])]).has(ids[others])
        count += int((chosen & feature_set.present(ids, view)).sum())
    return count
