"""Which rows a head is trained on, and which it is judged by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import DataError, HeadError
from ..features import Features

__all__ = ["Division", "class_names", "divide"]

VALIDATION = ("val", "valid", "validation")


@dataclass(frozen=True)
class Division:
    """The features of a dataset by their use; each may be None but the first."""

    train: Features
    validation: Features | None
    test: Features | None


def class_names(features: Features) -> list[str]:
    """Return the names of the classes; raises :class:`DataError` where the targets are no class numbers."""
    targets = features.targets
    if targets.ndim != 1 or targets.dtype.kind not in "iu":
        raise DataError(
            f"the targets of {features.dataset!r} are {targets.dtype} of shape {list(targets.shape[1:])}, not class numbers: "
            "give each sample one whole number."
        )
    if not len(targets):
        raise DataError(f"{features.dataset!r} has no rows to train on.")
    if targets.min() < 0:
        raise DataError(f"the targets of {features.dataset!r} hold {targets.min()}: class numbers begin at 0.")
    names = features.classes or [str(number) for number in range(int(targets.max()) + 1)]
    if targets.max() >= len(names):
        raise DataError(f"a target of {features.dataset!r} is {targets.max()}, but there are {len(names)} class names.")
    return names


def _refuse_one_class(features: Features, names: list[str]) -> None:
    seen = np.unique(features.targets)
    if len(seen) < 2:
        raise HeadError(
            f"{features.dataset!r} has only one class, {names[int(seen[0])]!r}, among its training rows: there is nothing "
            "to tell apart. Add training samples of another class."
        )


def divide(features: Features, share: float, seed: int) -> Division:
    """Return train, validation and test rows.

    The dataset's own splits count. Without a validation split, a stratified and seeded ``share`` of the training rows
    is kept for it; rows without split are training rows.
    """
    splits = features.splits
    test = np.flatnonzero(splits == "test")
    validating = np.isin(splits, VALIDATION)
    validation = np.flatnonzero(validating)
    train = np.flatnonzero((splits != "test") & ~validating)
    if not len(train):
        raise HeadError(f"{features.dataset!r} has no training rows: all are in {sorted(set(splits.tolist()))}.")
    _refuse_one_class(features.subset(train), class_names(features))
    if not len(validation) and share > 0:
        train, validation = _stratified(train, features.targets[train], share, seed)
    return Division(
        features.subset(train),
        features.subset(validation) if len(validation) else None,
        features.subset(test) if len(test) else None,
    )


def _stratified(rows: np.ndarray, targets: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
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
