"""What a set lacks of a dataset, and the report of an extraction."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import StaleError
from ..machine import Timings
from ..samples import Changed, Samples, Snapshot, Unreadable
from ..store import FeatureSet, RowIndex, row_keys

__all__ = [
    "ExtractReport",
    "changed_in_words",
    "describe",
    "missing_rows",
    "refuse_changed",
    "report_if_complete",
    "samples_among",
]

Array = np.ndarray[Any, Any]
NAMED = 3  # samples in a line about them


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
    changed : int
        The samples that changed after they were listed. They have no row; the next extraction computes what they are then.
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
    changed_samples : list of Changed
        The samples that changed, each with its ``position``, ``name`` and ``reason``.
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
    changed: int = 0
    size_bytes: int = 0
    elapsed_s: float = 0.0
    device: str | None = None
    task: str | None = None
    remaining: int = 0
    shards: list[str] = field(default_factory=list)
    timings: Timings = field(default_factory=Timings)
    skipped_samples: list[Unreadable] = field(default_factory=list)
    changed_samples: list[Changed] = field(default_factory=list)
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


def changed_in_words(changed: Iterable[Changed]) -> str:
    """Return in one line which samples changed, and what to do; each sample is named once."""
    names = list(dict.fromkeys(each.name for each in changed))
    named = ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
    one = len(names) == 1
    return (
        f"{len(names)} sample{'' if one else 's'} changed after {'it was' if one else 'they were'} listed and "
        f"{'has' if one else 'have'} no row: {named}. Run again once nothing writes to the data."
    )


def refuse_changed(reports: Iterable[ExtractReport]) -> None:
    """Raise ``StaleError`` where rows are missing because samples changed while they were extracted."""
    changed = [each for report in reports for each in report.changed_samples]
    if changed:
        raise StaleError(changed_in_words(changed))


def describe(
    samples: Samples,
    feature_set: FeatureSet,
    augmented: FeatureSet | None,
    views: int,
    changed: Mapping[bytes, Changed] | None = None,
) -> ExtractReport:
    """Return a report in which every row that is there counts as reused; ``changed`` are samples by what they were."""
    snapshot = samples.snapshot()
    present = feature_set.present(snapshot.ids)
    of_views = [augmented.present(snapshot.ids, view) for view in range(1, views + 1)] if augmented is not None else []
    recipe = feature_set.recipe
    count = len(snapshot) + len(samples.unreadable)
    report = ExtractReport(recipe.cut, snapshot.dataset, recipe.fingerprint, snapshot.digest, count, views)
    report.reused = int(present.sum())
    report.reused += sum(int(each.sum()) for each in of_views)
    if changed:
        # Also samples of the same content that did not change: the row of all of them was to be computed from one.
        lacking = ~np.logical_and.reduce([present, *of_views])
        for position in np.flatnonzero(lacking).tolist():
            cause = changed.get(snapshot.ids[position].tobytes())
            if cause is not None:
                name = samples.label(int(samples.positions()[position]))
                report.changed_samples.append(Changed(position, name, cause.reason))
    report.changed = len(report.changed_samples)
    reasons = feature_set.skipped() if not present.all() else {}
    without_row = ~present
    without_row[[each.position for each in report.changed_samples]] = False
    for position in np.flatnonzero(without_row).tolist():
        noted = reasons.get(snapshot.ids[position].tobytes().hex())
        if noted is None:
            report.remaining += 1
            continue
        _, reason = noted
        report.skipped_samples.append(Unreadable(int(samples.positions()[position]), snapshot.names[position], reason))
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
