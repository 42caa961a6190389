"""``probe``: how well the features at each cut transfer, by scores that need no training of a network."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..catalog import FeatureStore
from ..codecs import Stored, takes_stored
from ..errors import DataError, UsageError
from ..extraction import extract
from ..features import Features
from ..machine import on_device, pick_device
from ..progress import ProgressCallback, ProgressEvent, silent
from ..training import divide, find_task
from . import transferability as scores
from .shift import LOOKED_AT, describe_shift, source_shift
from .subject import Subject, subject

if TYPE_CHECKING:
    from torch import nn
    from typing_extensions import Unpack

    from ..codecs import StoredOptions

__all__ = ["SCORES", "ProbeResult", "ProbeRow", "probe"]

SCORES = ("logme", "h_score", "ridge_loo_accuracy", "knn_accuracy", "probe_accuracy")


@dataclass(frozen=True)
class ProbeRow:
    """How well the pooled features at one cut tell the classes apart; higher is better for each score.

    ``logme`` and ``h_score`` compare cuts and have no unit; the accuracies are shares: of ridge regression and of the
    nearest neighbours with each row left out, and of logistic regression under cross-validation with its standard error.
    ``cka_before`` is the similarity to the features of the cut before (1: the same up to rotation), ``shift`` how far the
    inputs of the BatchNorm layers between the two have moved from the data that the network was trained on.
    """

    cut: str
    width: int
    logme: float
    h_score: float
    ridge_loo_accuracy: float
    knn_accuracy: float
    probe_accuracy: float
    probe_error: float
    cka_before: float | None
    shift: float | None


@dataclass(frozen=True)
class ProbeResult:
    """A row for each cut, shallowest first; ``best`` names the best cut by each score, ``summary`` say what follows."""

    dataset: str
    samples: int
    classes: int
    rows: tuple[ProbeRow, ...]
    best: dict[str, str]
    source_shift: float | None
    summary: str
    elapsed_s: float


@takes_stored
def probe(
    model: nn.Module,
    dataset: Any,
    store: FeatureStore | str,
    cuts: Sequence[str] | None = None,
    *,
    transform: Callable[[Any], Any] | None = None,
    most_samples: int = 2000,
    batch_size: int = 64,
    device: str | None = None,
    codec: str | None = None,
    store_budget: str | int | None = None,
    seed: int = 0,
    name: str | None = None,
    progress: ProgressCallback = silent,
    **stored: Unpack[StoredOptions],
) -> ProbeResult:
    """Return transferability scores of the features at each cut, all extracted in one pass over the data and cached.

    Features are pooled to one vector a sample; rows of the test split are left out, and of more than ``most_samples``
    rows a stratified and seeded choice is scored. Scores of one cut say how well a *linear* head on it would do; whether
    training the layers behind an earlier cut does better is for :func:`featcache.sweep`. ``stored`` are further options of
    :func:`featcache.extract`, such as ``numerics`` and ``pool``; random views are not scored.

    Raises :class:`UsageError`, :class:`DataError` or :class:`SplitError`.
    """
    started_s = time.perf_counter()
    if most_samples < 10:
        raise UsageError(f"most_samples must be at least 10, not {most_samples}.")
    files = store if isinstance(store, FeatureStore) else FeatureStore(store)
    asked = Stored(**stored)
    chosen = replace(asked, pool=asked.pool or "auto", views=1, augment=None)  # random views are not scored
    about = subject(model, dataset, transform, name)
    names = [cut.name for cut in about.find(cuts)]
    made = extract(
        model, about.samples.augmented(None), files, cut=names, batch_size=batch_size, device=device, codec=codec,
        store_budget=store_budget, progress=progress, **chosen.options(),
    )  # fmt: skip
    rows_of = chosen_rows(made[names[0]], most_samples, seed)
    shifts = _shifts(about, batch_size, device)
    found: list[ProbeRow] = []
    before: np.ndarray[Any, Any] | None = None
    for number, cut in enumerate(names):
        values, targets = made[cut].subset(rows_of).numpy()
        between = _between(about, shifts, names, number)
        found.append(_row(cut, values, targets, before, between, seed))
        before = values
        progress(ProgressEvent("score", number + 1, len(names), "cuts"))
    best = {score: max(found, key=lambda row: getattr(row, score)).cut for score in SCORES}
    summary = f"{_best_words(best, found)}; {describe_shift(shifts)}"
    mean_shift = float(np.mean(list(shifts.values()))) if shifts else None
    classes = len(find_task(made[names[0]], "single_label").classes)
    elapsed_s = time.perf_counter() - started_s
    return ProbeResult(about.samples.name, len(rows_of), classes, tuple(found), best, mean_shift, summary, elapsed_s)


def chosen_rows(features: Features, most: int, seed: int) -> np.ndarray[Any, Any]:
    """Return which rows are scored: those outside of the test split, of classes with two rows at least, no more than ``most``."""
    division = divide(features, 0.0, seed, find_task(features, "single_label"))
    outside = np.flatnonzero(features.splits != "test")
    targets = features.targets[outside]
    numbers, counts = np.unique(targets, return_counts=True)
    outside = outside[np.isin(targets, numbers[counts >= 2])]
    if len(outside) < 10 or len(np.unique(features.targets[outside])) < 2:
        raise DataError(
            f"{features.dataset!r} has {len(division.train)} rows outside of its test split: scores need ten at least, and "
            "two rows of each of two classes."
        )
    if len(outside) <= most:
        return outside
    from sklearn.model_selection import train_test_split

    kept, _ = train_test_split(outside, train_size=most, stratify=features.targets[outside], random_state=seed)
    return np.sort(kept)


def _row(
    cut: str,
    values: np.ndarray[Any, Any],
    targets: np.ndarray[Any, Any],
    before: np.ndarray[Any, Any] | None,
    shift: float | None,
    seed: int,
) -> ProbeRow:
    accuracy, error = scores.linear_probe(values, targets, seed)
    return ProbeRow(
        cut,
        values.shape[1],
        scores.logme(values, targets),
        scores.h_score(values, targets),
        scores.ridge_loo_accuracy(values, targets),
        scores.knn_accuracy(values, targets),
        accuracy,
        error,
        None if before is None else scores.linear_cka(before, values),
        shift,
    )


def _shifts(about: Subject, batch_size: int, device: str | None) -> dict[str, float]:
    where = pick_device(device)
    count = len(about.samples.dataset)
    positions = np.unique(np.linspace(0, count - 1, min(LOOKED_AT, count)).astype(int)).tolist()
    with on_device(about.model, where):
        return source_shift(about.model, about.samples, positions, batch_size, where)


def _between(about: Subject, shifts: dict[str, float], names: Sequence[str], number: int) -> float | None:
    """Return the mean shift of the layers that belong to the candidates behind the cut before, up to this one."""
    order = [cut.name for cut in about.candidates]
    last = order.index(names[number])
    first = order.index(names[number - 1]) + 1 if number else 0
    parts = order[first : last + 1]
    found = [
        shift for name, shift in shifts.items() if any(name == each or name.startswith(f"{each}.") for each in parts)
    ]
    return float(np.mean(found)) if found else None


def _best_words(best: dict[str, str], rows: Sequence[ProbeRow]) -> str:
    counted = sorted(set(best.values()), key=lambda cut: -sum(each == cut for each in best.values()))
    leader = counted[0]
    votes = sum(each == leader for each in best.values())
    row = next(each for each in rows if each.cut == leader)
    return (
        f"features at {leader} tell the classes apart best by {votes} of {len(best)} scores "
        f"(logistic regression: {100 * row.probe_accuracy:.1f} %)"
    )
