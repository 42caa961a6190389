"""How far figures of a head may be off by the choice of the rows: 95 % intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix, hstack

from ..training import Metrics, MultiLabelMetrics

if TYPE_CHECKING:
    from ..training import AnyMetrics, Task
    from .judged import Judged

__all__ = ["bootstrap_intervals", "wilson", "wilson_intervals"]

Array = np.ndarray[Any, Any]

QUANTILES = (0.025, 0.975)
Z = 1.959963984540054  # of the standard normal distribution, at 97.5 %
RESAMPLES = 1000
AT_ONCE_BYTES = 1 << 26  # of the numbers of a chunk of resamples


def wilson(right: float, count: int) -> tuple[float, float]:
    """Return the score interval of a share (Wilson 1927), which holds for few rows and for shares near 0 and 1."""
    if count == 0:
        return 0.0, 1.0
    share, spread = right / count, Z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * np.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def wilson_intervals(metrics: AnyMetrics) -> dict[str, tuple[float, float]]:
    """Return the intervals of the figures that are a share of independent rows. They need no features."""
    if isinstance(metrics, Metrics):
        return {"accuracy": wilson(metrics.accuracy * metrics.samples, metrics.samples)}
    if isinstance(metrics, MultiLabelMetrics):
        return {"all labels right": wilson(metrics.subset_accuracy * metrics.samples, metrics.samples)}
    return {}


def bootstrap_intervals(task: Task, judged: Judged) -> dict[str, tuple[float, float]]:
    """Return percentile intervals of the other figures by resampling rows, with a fixed seed; none for fewer than two rows.

    Whole rows are drawn: pixels of one mask and tokens of one text are alike. A resample weights each row by how often it
    was drawn, so a figure is computed from weighted sums over rows.
    """
    rows = len(judged.targets)
    if rows < 2:
        return {}
    sums = _value_sums(judged) if task.kind == "regression" else _class_sums(task, judged)
    generator = np.random.default_rng(0)
    chunk = max(1, AT_ONCE_BYTES // (8 * rows))
    drawn = []
    for start in range(0, RESAMPLES, chunk):
        size = min(chunk, RESAMPLES - start)
        weights = np.stack([np.bincount(generator.integers(rows, size=rows), minlength=rows) for _ in range(size)])
        drawn.append(weights @ sums)
    totals = np.concatenate([np.asarray(each, dtype=np.float64) for each in drawn])
    figures = _value_figures(totals, rows) if task.kind == "regression" else _class_figures(task, totals)
    found = {}
    for name, values in figures.items():
        low, high = np.quantile(values, QUANTILES)
        found[name] = (float(low), float(high))
    return found


def _class_sums(task: Task, judged: Judged) -> Any:
    """Return for each row how often each class is right, true and predicted, and its log loss."""
    counts = [_counts(task, judged, what) for what in ("right", "true", "predicted")]
    losses = np.zeros((len(judged.targets), 1))
    if task.kind == "single_label" and judged.probabilities is not None:
        least = np.finfo(np.float64).eps
        own = judged.probabilities[np.arange(len(losses)), judged.targets.astype(np.int64)]
        losses[:, 0] = -np.log(own.clip(least, 1 - least))
    return hstack([*counts, csr_matrix(losses)], format="csr")


def _counts(task: Task, judged: Judged, what: str) -> csr_matrix:
    targets, predicted = judged.targets, judged.predicted
    if task.kind == "multi_label":
        targets = targets.astype(np.float64)
        return csr_matrix({"right": targets * predicted, "true": targets, "predicted": predicted}[what])
    if task.kind == "token":
        targets = task.of_length(targets, predicted.shape[1])
    counted = task.counted(targets) if task.places else np.ones(targets.shape, dtype=bool)
    if what == "right":
        counted = counted & (targets == predicted)
    rows = np.nonzero(counted)[0]
    classes = (predicted if what == "predicted" else targets)[counted].astype(np.int64)
    # A row's pixels or tokens of one class add up.
    return csr_matrix((np.ones(len(rows)), (rows, classes)), shape=(len(targets), task.outputs))


def _class_figures(task: Task, totals: Array) -> dict[str, Array]:
    right, true, predicted = totals[:, :-1].reshape(len(totals), 3, -1).swapaxes(0, 1)
    several = task.kind == "multi_label"
    f1 = _mean(2 * right, true + predicted, zeros=several)
    if several:
        micro = 2 * right.sum(axis=1) / np.maximum(1, (true + predicted).sum(axis=1))
        return {"micro F1": micro, "macro F1": f1}
    accuracy = right.sum(axis=1) / np.maximum(1, true.sum(axis=1))
    if task.kind == "dense":
        return {"pixel accuracy": accuracy, "mean IoU": _mean(right, true + predicted - right)}
    found = {"balanced": _mean(right, true), "macro F1": f1}
    if task.kind == "token":
        return {"token accuracy": accuracy, **found}
    return {**found, "log loss": totals[:, -1] / true.sum(axis=1)}


def _mean(part: Array, whole: Array, zeros: bool = False) -> Array:
    """Return the mean over the classes of which there is a whole; with ``zeros``, the others count as 0."""
    shares = np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
    known = np.full(len(whole), whole.shape[1]) if zeros else (whole > 0).sum(axis=1)
    mean: Array = shares.sum(axis=1) / np.maximum(1, known)
    return mean


def _value_sums(judged: Judged) -> Array:
    targets = judged.targets.reshape(len(judged.targets), -1).astype(np.float64)
    errors = judged.predicted.reshape(targets.shape) - targets
    centred = targets - targets.mean(axis=0)  # so that no digits are lost where the mean is large
    return np.concatenate([abs(errors), errors**2, centred, centred**2], axis=1)


def _value_figures(totals: Array, rows: int) -> dict[str, Array]:
    absolute, squared, first, second = totals.reshape(len(totals), 4, -1).swapaxes(0, 1)
    varied = second - first**2 / rows
    # As scikit-learn has it where all targets are equal.
    r2 = np.where(varied > 1e-12 * rows, 1 - squared / np.maximum(varied, 1e-300), squared == 0)
    return {
        "R2": r2.mean(axis=1),
        "mean absolute error": absolute.mean(axis=1) / rows,
        "root mean squared error": np.sqrt(squared / rows).mean(axis=1),
    }
