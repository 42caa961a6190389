"""Which rows a head is trained on, and which it is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import HeadError, UsageError
from ..features import Features
from .options import TrainOptions
from .tasks import Task
from .uses import UsedRows, row_uses

__all__ = ["Division", "divide"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Division:
    """The features of a dataset by their use; validation and test may be None.

    ``weights`` are those of the training rows, with mean 1; ``used`` says how many rows of which split there are.
    """

    train: Features
    validation: Features | None
    test: Features | None
    used: UsedRows
    weights: Array | None = None


def divide(
    features: Features,
    options: TrainOptions,
    task: Task,
    *,
    seed: int | None = None,
    sample_weights: Sequence[float] | Array | None = None,
) -> Division:
    """Return train, validation and test rows.

    The dataset's own splits count, as ``row_uses`` takes them. Without a validation split, a share of the training rows is
    kept for it by ``seed``, or that of the options; stratified where each sample has one class.
    """
    weights = None if sample_weights is None else _checked_weights(sample_weights, features)
    uses = row_uses(features, options)
    train, validation, share = uses.train, uses.validation, options.validation
    if not len(train):
        raise HeadError(
            f"{features.dataset!r} has no training rows: all are in {sorted(set(features.splits.tolist()))}."
        )
    if task.classifies:
        _refuse_one_class(features.subset(train), task)
    is_share = not len(validation) and share > 0
    if is_share:
        divided = _stratified if task.kind == "single_label" else _by_chance
        train, validation = divided(train, features.targets[train], share, options.seed if seed is None else seed)
    trained, validated, tested, left_out = (
        features.subset(rows) for rows in (train, validation, uses.test, uses.left_out)
    )
    return Division(
        trained,
        validated if len(validation) else None,
        tested if len(tested) else None,
        UsedRows(
            trained.split_counts,
            validated.split_counts,
            tested.split_counts,
            left_out.split_counts,
            is_share,
            sum(int(np.isin(_keys(judged), _keys(trained)).sum()) for judged in (validated, tested)),
            _untrained(features, trained, task),
        ),
        None if weights is None else _with_mean_one(weights[train]),
    )


def _keys(features: Features) -> Array:
    """Return the first half of each sample's id, which is as good as the whole to tell samples apart."""
    keys: Array = np.ascontiguousarray(features.sample_ids[:, :8]).view(np.uint64).reshape(-1)
    return keys


def _refuse_one_class(features: Features, task: Task) -> None:
    seen = np.unique(features.targets)
    if task.places:
        seen = seen[task.counted(seen)]
    if len(seen) < 2:
        only = repr(task.classes[int(seen[0])]) if len(seen) else "none"
        raise HeadError(
            f"{features.dataset!r} has only one class, {only}, among its training rows: there is nothing "
            "to tell apart. Add training samples of another class."
        )


def _untrained(features: Features, trained: Features, task: Task) -> list[str]:
    """Return the classes or labels that rows have, but no training row; those of pixels and tokens are not looked for."""
    if task.kind not in ("single_label", "multi_label"):
        return []

    def seen(targets: Array) -> set[int]:
        several = task.kind == "multi_label"
        found = np.flatnonzero((targets > 0).any(axis=0)) if several else np.unique(targets[targets >= 0])
        return {*found.tolist()}

    return [task.classes[number] for number in sorted(seen(features.targets) - seen(trained.targets))]


def _checked_weights(given: Sequence[float] | Array, features: Features) -> Array:
    try:
        weights = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"sample_weights must be numbers, one a sample ({error}).") from error
    if weights.shape != (len(features),) or not (np.isfinite(weights) & (weights >= 0)).all():
        raise UsageError(
            f"sample_weights must be {len(features)} numbers from 0 on, one a sample of {features.dataset!r} in its order; "
            f"these have shape {list(weights.shape)}."
        )
    return weights


def _with_mean_one(weights: Array) -> Array:
    if not weights.any():
        raise UsageError("sample_weights are 0 for every training row: there is nothing to train on.")
    scaled: Array = weights / weights.mean()
    return scaled


def _by_chance(rows: Array, targets: Array, share: float, seed: int) -> tuple[Array, Array]:
    wanted = max(1, round(share * len(rows)))
    if len(rows) - wanted < 1:
        raise HeadError(
            f"{len(rows)} training rows are too few to keep {share:.0%} for validation: give a validation split, or use "
            "validation 0."
        )
    order = np.random.default_rng(seed).permutation(len(rows))
    return np.sort(rows[order[wanted:]]), np.sort(rows[order[:wanted]])


def _stratified(rows: Array, targets: Array, share: float, seed: int) -> tuple[Array, Array]:
    from sklearn.model_selection import train_test_split

    numbers, counts = np.unique(targets, return_counts=True)
    wanted = max(round(share * len(rows)), len(numbers))
    # A class of one row cannot be on both sides: it stays on the training side.
    lonely = np.isin(targets, numbers[counts < 2])
    if len(rows) - lonely.sum() < wanted + len(numbers):
        raise HeadError(
            f"{len(rows)} training rows of {len(numbers)} classes are too few to keep {share:.0%} for validation: "
            "give a validation split, or use validation 0."
        )
    train, validation = train_test_split(rows[~lonely], test_size=wanted, stratify=targets[~lonely], random_state=seed)
    return np.sort(np.concatenate([train, rows[lonely]])), np.sort(validation)
