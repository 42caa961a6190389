"""Is one cut better than another: paired differences over the same rows, with a confidence interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Gain", "Trial", "mean_interval", "paired_gain"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Trial:
    """One training: which rows it was judged by, as positions in the dataset, and which of them it got right."""

    seed: int
    rows: Array
    right: Array

    @property
    def accuracy(self) -> float:
        """Return the share of rows that are right."""
        return float(self.right.mean())


@dataclass(frozen=True)
class Gain:
    """The mean difference of accuracy between two cuts, and half the width of its confidence interval."""

    mean: float
    half_width: float

    @property
    def beyond_noise(self) -> bool:
        """Return whether the whole interval lies above 0."""
        return self.mean - self.half_width > 0


def mean_interval(trials: Sequence[Trial], confidence: float) -> tuple[float, float]:
    """Return (mean accuracy, half the width of its confidence interval).

    The standard error is the larger of two: over seeds, and over rows, each row's share of right answers counted once
    however many seeds judged it.
    """
    by_seed = np.array([trial.accuracy for trial in trials])
    shares = np.array(list(_by_row([(trial.rows, trial.right.astype(float)) for trial in trials]).values()))
    return float(by_seed.mean()), _half_width(by_seed, shares, confidence)


def paired_gain(better: Sequence[Trial], base: Sequence[Trial], confidence: float) -> Gain:
    """Return the gain of one cut's trials over another's with the same seeds and rows.

    Differences are taken row by row, so what makes a row easy or hard at both cuts drops out; the interval is as in
    :func:`mean_interval`.
    """
    of_base = {trial.seed: trial for trial in base}
    pairs = [(trial, of_base[trial.seed]) for trial in better if trial.seed in of_base]
    by_seed = np.array([one.accuracy - other.accuracy for one, other in pairs])
    differences = _by_row([(one.rows, one.right.astype(float) - other.right) for one, other in pairs])
    return Gain(float(by_seed.mean()), _half_width(by_seed, np.array(list(differences.values())), confidence))


def _by_row(parts: Sequence[tuple[Array, Array]]) -> dict[int, float]:
    """Return the mean value of each row over the trials that judged it."""
    found: dict[int, list[float]] = {}
    for rows, values in parts:
        for row, value in zip(rows.tolist(), values.tolist(), strict=True):
            found.setdefault(row, []).append(value)
    return {row: float(np.mean(values)) for row, values in found.items()}


def _half_width(by_seed: Array, by_row: Array, confidence: float) -> float:
    from scipy import stats

    errors = [0.0]
    if len(by_seed) > 1:
        errors.append(float(by_seed.std(ddof=1) / np.sqrt(len(by_seed))))
    if len(by_row) > 1:
        errors.append(float(by_row.std(ddof=1) / np.sqrt(len(by_row))))
    return float(stats.norm.ppf(0.5 + confidence / 2)) * max(errors)
