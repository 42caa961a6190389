"""Fitted scikit-learn estimators as the last layer of a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import HeadError, one_line
from ..machine import seeded
from ..training import Task

__all__ = ["EstimatorLayer", "as_layer"]

ABSENT = -1e9  # the score of a class that the estimator never saw

Array = np.ndarray[Any, Any]


class EstimatorLayer(nn.Module):
    """A fitted estimator as the last layer of a network: from vectors, without gradients.

    Gives log-probabilities of classes, log-odds of labels, or values.
    """

    def __init__(self, estimator: Any, task: Task) -> None:
        super().__init__()
        self.estimator = estimator
        self.task = task

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return scores (batch, outputs)."""
        values = vectors.detach().cpu().numpy()
        try:
            scores = _SCORES[self.task.kind](self.estimator, values, self.task.outputs)
        except ValueError as error:  # such as a radius in which there are no neighbors
            name = type(self.estimator).__name__
            raise HeadError(f"scikit-learn's {name} cannot predict: {one_line(error)}.") from error
        return torch.from_numpy(scores).to(vectors.device, torch.float32)


def _class_scores(estimator: Any, values: Array, classes: int) -> Array:
    seen = np.asarray(estimator.classes_, dtype=np.int64)
    scores = np.zeros((len(values), classes))
    if hasattr(estimator, "predict_proba"):
        scores[:, seen] = estimator.predict_proba(values)
    rows, predicted = np.arange(len(values)), estimator.predict(values)
    if not hasattr(estimator, "predict_proba"):
        scores[rows, predicted] = 1.0
    # Some estimators decide otherwise than by their probabilities (nearest centroids, Platt scaling): the decision
    # counts, and gets the largest one.
    likeliest = scores.argmax(axis=1)
    scores[rows, predicted], scores[rows, likeliest] = scores[rows, likeliest], scores[rows, predicted]
    return np.log(np.clip(scores, 1e-12, None))


def _label_scores(estimator: Any, values: Array, labels: int) -> Array:
    columns = [_label_score(each, values) for each in estimator.estimators_]
    return np.stack(columns, axis=1)


def _label_score(estimator: Any, values: Array) -> Array:
    """Return the log-odds of one label, or what its estimator decides by; the decision counts where they disagree."""
    decided = np.asarray(estimator.predict(values)) > 0
    if hasattr(estimator, "predict_proba"):
        present = np.flatnonzero(estimator.classes_ == 1)
        columns = estimator.predict_proba(values)[:, present]
        probable = np.clip(columns[:, 0] if len(present) else np.zeros(len(values)), 1e-12, 1 - 1e-12)
        scores = np.log(probable) - np.log1p(-probable)
    elif hasattr(estimator, "decision_function"):
        scores = np.asarray(estimator.decision_function(values), dtype=np.float64).reshape(len(values))
    else:
        scores = np.where(decided, 1.0, -1.0)
    deciding: Array = np.where(decided, np.maximum(scores, 1e-6), np.minimum(scores, -1e-6))
    return deciding


def _values(estimator: Any, values: Array, width: int) -> Array:
    return np.asarray(estimator.predict(values), dtype=np.float64).reshape(len(values), width)


_SCORES = {"single_label": _class_scores, "multi_label": _label_scores, "regression": _values}


def as_layer(estimator: Any, task: Task, vectors: Array) -> nn.Module:
    """Return a fitted estimator as a module: a linear layer where it is linear, so that it saves as plain tensors.

    It is linear if its decision function (of a regressor, its prediction) on ``vectors`` (rows, width) is the one that its
    coefficients give: a linear SVC is not, whose coefficients are those of pairs of classes. The layer's softmax is
    scikit-learn's ``predict_proba`` for logistic regression and linear discriminant analysis; for others, which give none
    or normalise otherwise, it ranks the classes in the same order.
    """
    linear = _LINEAR[task.kind](estimator, task.outputs, vectors)
    if linear is None:
        return EstimatorLayer(estimator, task)
    weight, bias = linear
    with seeded(0), torch.no_grad():  # the layer draws initial weights, which must not move the caller's generator
        layer = nn.Linear(weight.shape[1], task.outputs, dtype=torch.float32)
        layer.weight.copy_(torch.from_numpy(np.array(weight)))
        layer.bias.copy_(torch.from_numpy(np.array(bias)))
    return layer


def _coefficients(estimator: Any, vectors: Array, answer: str) -> tuple[Array, Array] | None:
    """Return (weight, bias) of an estimator that is linear, None of others."""
    weight, intercept = getattr(estimator, "coef_", None), getattr(estimator, "intercept_", None)
    if weight is None or intercept is None or not hasattr(estimator, answer) or not isinstance(weight, np.ndarray):
        return None
    found = getattr(estimator, answer)(vectors).reshape(len(vectors), -1)
    weight = weight.reshape(1, -1) if weight.ndim == 1 else weight
    if weight.ndim != 2 or weight.shape != (found.shape[1], vectors.shape[1]):
        return None
    bias = np.broadcast_to(np.ravel(intercept), found.shape[1:])
    if not np.allclose(vectors @ weight.T + bias, found, rtol=1e-3, atol=1e-3 * np.abs(found).max()):
        return None
    return weight, bias


def _linear_classes(estimator: Any, classes: int, vectors: Array) -> tuple[Array, Array] | None:
    found = _coefficients(estimator, vectors, "decision_function")
    if found is None:
        return None
    seen = np.asarray(estimator.classes_, dtype=np.int64)
    weight, bias = np.zeros((classes, vectors.shape[1])), np.full(classes, ABSENT)
    if len(found[0]) == 1:  # two classes: a positive value speaks for the second
        bias[seen] = 0.0, float(found[1][0])
        weight[seen[1]] = found[0][0]
    else:
        weight[seen], bias[seen] = found
    return weight, bias


def _linear_labels(estimator: Any, labels: int, vectors: Array) -> tuple[Array, Array] | None:
    weight, bias = np.zeros((labels, vectors.shape[1])), np.zeros(labels)
    for number, each in enumerate(estimator.estimators_):
        if len(each.classes_) < 2:  # a label that every training row has, or none
            bias[number] = -ABSENT if each.classes_[0] == 1 else ABSENT
            continue
        found = _coefficients(each, vectors, "decision_function")
        if found is None or len(found[0]) != 1:
            return None
        weight[number], bias[number] = found[0][0], found[1][0]
    return weight, bias


def _linear_values(estimator: Any, width: int, vectors: Array) -> tuple[Array, Array] | None:
    found = _coefficients(estimator, vectors, "predict")
    return None if found is None or len(found[0]) != width else found


_LINEAR = {"single_label": _linear_classes, "multi_label": _linear_labels, "regression": _linear_values}
