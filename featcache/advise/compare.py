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
    """One training: which rows it was judged by, as positions in the dataset, and how right it was on each."""

    seed: int
    rows: Array
    scores: Array

    @property
    def mean(self) -> float:
        """Return the mean score of the rows."""
        return float(self.scores.mean())


@dataclass(frozen=True)
class Gain:
    """The mean difference of the score between two cuts, and half the width of its confidence interval."""

    mean: float
    half_width: float


def mean_interval(trials: Sequence[Trial], confidence: float) -> tuple[float, float]:
    """Return (mean score, half the width of its confidence interval).

    The standard error is the larger of two: over seeds, and over rows, each row's mean score counted once however many
    seeds judged it.
    """
    by_seed = np.array([trial.mean for trial in trials])
    by_row = _by_row([(trial.rows, trial.scores) for trial in trials])
    return float(by_seed.mean()), _half_width(by_seed, by_row, confidence)


def paired_gain(better: Sequence[Trial], base: Sequence[Trial], confidence: float) -> Gain:
    """Return the gain of one cut's trials over another's with the same seeds and rows.

    Differences are taken row by row, so what makes a row easy or hard at both cuts drops out; the interval is as in
    ``mean_interval``.
    """
    of_base = {trial.seed: trial for trial in base}
    pairs = [(trial, of_base[trial.seed]) for trial in better if trial.seed in of_base]
    by_seed = np.array([one.mean - other.mean for one, other in pairs])
    by_row = _by_row([(one.rows, one.scores - other.scores) for one, other in pairs])
    return Gain(float(by_seed.mean()), _half_width(by_seed, by_row, confidence))


def _by_row(parts: Sequence[tuple[Array, Array]]) -> Array:
    """Return the mean value of each row over the trials that judged it."""
    rows, values = (np.concatenate(each) for each in zip(*parts, strict=True))
    _, places, counts = np.unique(rows, return_inverse=True, return_counts=True)
    return np.asarray(np.bincount(places, weights=values) / counts)


def _half_width(by_seed: Array, by_row: Array, confidence: float) -> float:
    from scipy import stats

    errors = [0.0]
    if len(by_seed) > 1:
        errors.append(float(by_seed.std(ddof=1) / np.sqrt(len(by_seed))))
    if len(by_row) > 1:
        errors.append(float(by_row.std(ddof=1) / np.sqrt(len(by_row))))
    return float(stats.norm.ppf(0.5 + confidence / 2)) * max(errors)
