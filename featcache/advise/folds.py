"""Which rows a sweep trains on, and which it judges by: the same at every cut."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ..errors import HeadError
from ..features import Features
from ..training import RowUses
from .judge import Judge

__all__ = ["some_rows", "validation_rows"]

Array = np.ndarray[Any, Any]


def validation_rows(features: Features, uses: RowUses, share: float, seed: int, judge: Judge) -> Array:
    """Return which rows cuts are compared by: the dataset's validation split, or a share that a seed chooses.

    The same rows at every cut; of single labels every class in proportion. Seeds that follow one another get shares without
    a row in common, as in cross-validation, until all rows have been used: so few rows tell most. Raises
    ``HeadError`` where there are too few.
    """
    if len(uses.validation):
        return uses.validation
    training = uses.train
    folds = max(2, round(1 / share))
    parts = _class_folds if judge.task.kind == "single_label" else _plain_folds
    rows: Array = parts(features, training, folds, seed // folds)[seed % folds]
    return rows


def _class_folds(features: Features, training: Array, folds: int, seed: int) -> list[Array]:
    from sklearn.model_selection import StratifiedKFold

    targets = features.targets[training]
    numbers, counts = np.unique(targets, return_counts=True)
    several = np.isin(targets, numbers[counts >= 2])  # a single row of a class stays with those that are trained on
    if (counts >= 2).sum() < 2 or several.sum() < 2 * folds:
        raise HeadError(_too_few(features, f"{len(training)} training rows of {len(numbers)} classes", folds))
    cut_up = StratifiedKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        parts = [part for _, part in cut_up.split(targets[several], targets[several])]
    return [training[several][np.sort(part)] for part in parts]


def _plain_folds(features: Features, training: Array, folds: int, seed: int) -> list[Array]:
    if len(training) < 2 * folds:
        raise HeadError(_too_few(features, f"{len(training)} training rows", folds))
    order = np.random.default_rng(seed).permutation(training)
    return [np.sort(part) for part in np.array_split(order, folds)]


def some_rows(features: Features, rows: Array, share: float, seed: int, judge: Judge) -> Array:
    """Return a share of some rows; of single labels with every class in proportion."""
    from sklearn.model_selection import train_test_split

    targets = features.targets[rows] if judge.task.kind == "single_label" else None
    least = 2 if targets is None else 2 * len(np.unique(targets))
    wanted = max(round(share * len(rows)), least)
    if wanted + least > len(rows):
        return rows
    try:
        chosen, _ = train_test_split(rows, train_size=wanted, stratify=targets, random_state=seed)
    except ValueError:  # a class of one row, of which there is no share
        chosen, _ = train_test_split(rows, train_size=wanted, random_state=seed)
    return np.sort(chosen)


def _too_few(features: Features, what: str, folds: int) -> str:
    return (
        f"{what} in {features.dataset!r} are too few to keep {1 / folds:.0%} of them apart: give a validation split, or more "
        "samples."
    )
