"""How good a head is, by scikit-learn's metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["EpochRecord", "Metrics", "measure"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of training: mean losses, accuracy on the validation rows, learning rate at its end, seconds."""

    epoch: int
    train_loss: float
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float
    elapsed_s: float


@dataclass(frozen=True)
class Metrics:
    """Quality on the rows of one split; ``confusion_matrix[true][predicted]`` counts rows."""

    split: str
    samples: int
    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    log_loss: float
    confusion_matrix: list[list[int]]


def measure(split: str, targets: Array, probabilities: Array) -> Metrics:
    """Return the metrics of class probabilities (rows, classes) against the true class numbers (rows,)."""
    from sklearn import metrics

    classes = np.arange(probabilities.shape[1])
    predicted = probabilities.argmax(axis=1)
    matrix = metrics.confusion_matrix(targets, predicted, labels=classes)
    present = matrix.sum(axis=1) > 0
    return Metrics(
        split,
        len(targets),
        float(metrics.accuracy_score(targets, predicted)),
        float(metrics.recall_score(targets, predicted, labels=classes[present], average="macro", zero_division=0)),
        float(metrics.f1_score(targets, predicted, average="macro", zero_division=0)),
        float(metrics.log_loss(targets, probabilities, labels=classes)),
        matrix.tolist(),
    )
