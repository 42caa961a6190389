"""Targets of every kind: what they suggest, and whether they are of the kind that was asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import DataError
from ..samples import TARGET_PADDING

__all__ = ["check_targets", "refuse_negative", "suggested_kind"]

Array = np.ndarray[Any, Any]


def suggested_kind(targets: Array, dataset: str) -> str:
    """Return the kind of task that targets are for; raises ``DataError`` where they are for none."""
    kind, rank = targets.dtype.kind, targets.ndim
    if rank == 2 and np.isin(targets, (0, 1)).all():
        return "multi_label"
    if kind == "f" and rank <= 2:
        return "regression"
    if kind in "biu" and rank == 1:
        return "single_label"
    if kind in "iu" and rank == 2:
        return "token"
    if kind in "biu" and rank == 3:
        return "dense"
    raise DataError(
        f"the targets of {dataset!r} are {_words(targets)}: give each sample one whole number (a class), a row of 0 and 1 "
        "(several labels), a float or a row of floats (values), a map of whole numbers (dense), or a row of them (token)."
    )


def check_targets(kind: str, targets: Array, dataset: str) -> None:
    """Raise ``DataError`` where targets are not of this kind of task."""
    _CHECKS[kind](targets, dataset)


def _check_classes(targets: Array, dataset: str) -> None:
    if targets.ndim != 1 or targets.dtype.kind not in "biu":
        raise DataError(
            f"the targets of {dataset!r} are {_words(targets)}, not class numbers: give each sample one whole number."
        )
    refuse_negative(targets, dataset)


def _check_labels(targets: Array, dataset: str) -> None:
    if targets.ndim != 2 or not np.isin(targets, (0, 1)).all():
        raise DataError(
            f"the targets of {dataset!r} are {_words(targets)}, not several labels: give each sample a row of 0 and 1, one "
            "number a label."
        )


def _check_values(targets: Array, dataset: str) -> None:
    if targets.ndim not in (1, 2) or targets.dtype.kind not in "biuf":
        raise DataError(
            f"the targets of {dataset!r} are {_words(targets)}, not values: give each sample a number or a row of numbers."
        )
    if not np.isfinite(targets).all():
        row = int(np.flatnonzero(~np.isfinite(targets.reshape(len(targets), -1)).all(axis=1))[0])
        raise DataError(f"target {row} of {dataset!r} is NaN or infinite: give every sample finite values.")


def _check_maps(targets: Array, dataset: str) -> None:
    if targets.ndim != 3 or targets.dtype.kind not in "biu":
        raise DataError(
            f"the targets of {dataset!r} are {_words(targets)}, not dense: give each sample a (height, width) map of class "
            "numbers."
        )


def _check_tokens(targets: Array, dataset: str) -> None:
    if targets.ndim != 2 or targets.dtype.kind not in "biu":
        raise DataError(
            f"the targets of {dataset!r} are {_words(targets)}, not classes of tokens: give each sample a row of class numbers, "
            f"one a token, and {TARGET_PADDING} for tokens that do not count."
        )


def refuse_negative(targets: Array, dataset: str) -> None:
    """Raise ``DataError`` where a class number is below 0."""
    if len(targets) and targets.min() < 0:
        raise DataError(
            f"the targets of {dataset!r} hold {targets.min()}: class numbers begin at 0. Leave rows without a label "
            "out: those of the split 'unlabelled'."
        )


def _check_numbers(targets: Array, dataset: str) -> None:
    """Take anything: what targets mean is the loss's affair."""


_CHECKS = {
    "single_label": _check_classes,
    "multi_label": _check_labels,
    "regression": _check_values,
    "dense": _check_maps,
    "token": _check_tokens,
    "output": _check_numbers,
}


def _words(targets: Array) -> str:
    return f"{targets.dtype} of shape {list(targets.shape[1:])}"
