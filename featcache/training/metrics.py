"""How good a head is, by scikit-learn's metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .tasks import Task

__all__ = [
    "AnyMetrics",
    "DenseMetrics",
    "EpochRecord",
    "Metrics",
    "MultiLabelMetrics",
    "RegressionMetrics",
    "TokenMetrics",
    "measure",
    "measure_heads",
    "metrics_from",
]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of training.

    Attributes
    ----------
    epoch : int
        The number of the epoch, from 1.
    train_loss : float
        The mean training loss.
    validation_loss : float or None
        The mean loss of the validation rows, without weights and smoothing. None if there are no such rows.
    validation_accuracy : float or None
        The accuracy on the validation rows, from 0 to 1. None for a regression.
    learning_rate : float
        The learning rate at the end of the epoch.
    elapsed_s : float
        The seconds that the epoch took.
    validation_score : float, optional
        The value of the scorer that was asked for.
    stage : str, default ""
        The name of the stage of a schedule.
    """

    epoch: int
    train_loss: float
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float
    elapsed_s: float
    validation_score: float | None = None
    stage: str = ""


class _Told(ABC):
    """Says its figures in one line."""

    @property
    @abstractmethod
    def figures(self) -> dict[str, str]:
        """The figures in words: each by its name, as text."""

    @property
    def trivial(self) -> str:
        """What is at least as good without any features, in words. Empty if the head is better, or that is not known."""
        return ""

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.figures.items())


@dataclass(frozen=True)
class Metrics(_Told):
    """How good a head is on the rows of one split, for single classes.

    Attributes
    ----------
    split : str
        The name of the rows, such as ``"test"`` or ``"validation"``.
    samples : int
        The number of rows.
    accuracy : float
        The share of rows whose class is right, from 0 to 1.
    balanced_accuracy : float
        The mean recall over the classes that occur.
    macro_f1 : float
        The mean F1 over the classes that occur or are predicted.
    log_loss : float
        The mean negative log-likelihood, in nats.
    confusion_matrix : list of list of int
        ``confusion_matrix[true][predicted]`` counts rows.
    scores : dict of str to float
        The value of the scikit-learn scorer that was asked for, by name.
    """

    split: str
    samples: int
    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    log_loss: float
    confusion_matrix: list[list[int]] = field(repr=False)
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def trivial(self) -> str:
        """What is at least as good without any features, in words. Empty if the head is better."""
        share = max(map(sum, self.confusion_matrix)) / self.samples
        return f"always predicting the most frequent class ({100 * share:.2f} %)" if self.accuracy <= share < 1 else ""

    @property
    def figures(self) -> dict[str, str]:
        """The figures in words: each by its name, as text."""
        return {
            "accuracy": f"{100 * self.accuracy:.2f} %",
            "balanced": f"{100 * self.balanced_accuracy:.2f} %",
            "macro F1": f"{100 * self.macro_f1:.2f} %",
            "log loss": f"{self.log_loss:.3f}",
        }


@dataclass(frozen=True)
class MultiLabelMetrics(_Told):
    """How good a head is on the rows of one split, for several labels per sample.

    Attributes
    ----------
    split : str
        The name of the rows, such as ``"test"`` or ``"validation"``.
    samples : int
        The number of rows.
    subset_accuracy : float
        The share of rows whose labels are all right, from 0 to 1.
    micro_f1 : float
        The F1 over all labels of all rows together.
    macro_f1 : float
        The mean F1 over the labels.
    average_precision : float
        The mean average precision over the labels that occur.
    scores : dict of str to float
        The value of the scikit-learn scorer that was asked for, by name.
    """

    split: str
    samples: int
    subset_accuracy: float
    micro_f1: float
    macro_f1: float
    average_precision: float
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def figures(self) -> dict[str, str]:
        """The figures in words: each by its name, as text."""
        return {
            "micro F1": f"{100 * self.micro_f1:.2f} %",
            "macro F1": f"{100 * self.macro_f1:.2f} %",
            "average precision": f"{100 * self.average_precision:.2f} %",
            "all labels right": f"{100 * self.subset_accuracy:.2f} %",
        }


@dataclass(frozen=True)
class RegressionMetrics(_Told):
    """How good predicted values are on the rows of one split.

    For vectors, each figure is a mean over the components.

    Attributes
    ----------
    split : str
        The name of the rows, such as ``"test"`` or ``"validation"``.
    samples : int
        The number of rows.
    r2 : float
        The coefficient of determination. 0.0 for a single row.
    mae : float
        The mean absolute error, in the unit of the targets.
    rmse : float
        The root mean squared error, in the unit of the targets.
    scores : dict of str to float
        The value of the scikit-learn scorer that was asked for, by name.
    """

    split: str
    samples: int
    r2: float
    mae: float
    rmse: float
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def trivial(self) -> str:
        """What is at least as good without any features, in words. Empty if the head is better."""
        return "always predicting the mean" if self.r2 < 0 else ""

    @property
    def figures(self) -> dict[str, str]:
        """The figures in words: each by its name, as text."""
        return {
            "R2": f"{self.r2:.4f}",
            "mean absolute error": f"{self.mae:.4g}",
            "root mean squared error": f"{self.rmse:.4g}",
        }


@dataclass(frozen=True)
class DenseMetrics(_Told):
    """How good predicted masks are on the rows of one split, over all labelled pixels.

    Attributes
    ----------
    split : str
        The name of the rows, such as ``"test"`` or ``"validation"``.
    samples : int
        The number of rows.
    pixel_accuracy : float
        The share of labelled pixels whose class is right, from 0 to 1.
    mean_iou : float
        The mean intersection over union of the classes that occur or are predicted.
    iou : list of float or None
        The intersection over union of each class. None for classes that neither occur nor are predicted.
    scores : dict of str to float
        The value of the scikit-learn scorer that was asked for, by name.
    """

    split: str
    samples: int
    pixel_accuracy: float
    mean_iou: float
    iou: list[float | None]
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def figures(self) -> dict[str, str]:
        """The figures in words: each by its name, as text."""
        return {
            "pixel accuracy": f"{100 * self.pixel_accuracy:.2f} %",
            "mean IoU": f"{100 * self.mean_iou:.2f} %",
        }


@dataclass(frozen=True)
class TokenMetrics(_Told):
    """How good predicted classes of tokens are on the rows of one split, over all tokens that count.

    Attributes
    ----------
    split : str
        The name of the rows, such as ``"test"`` or ``"validation"``.
    samples : int
        The number of rows.
    tokens : int
        The number of tokens that count.
    accuracy : float
        The share of tokens whose class is right, from 0 to 1.
    balanced_accuracy : float
        The mean recall over the classes that occur.
    macro_f1 : float
        The mean F1 over the classes that occur or are predicted.
    scores : dict of str to float
        The value of the scikit-learn scorer that was asked for, by name.
    """

    split: str
    samples: int
    tokens: int
    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def figures(self) -> dict[str, str]:
        """The figures in words: each by its name, as text."""
        return {
            "token accuracy": f"{100 * self.accuracy:.2f} %",
            "balanced": f"{100 * self.balanced_accuracy:.2f} %",
            "macro F1": f"{100 * self.macro_f1:.2f} %",
        }


AnyMetrics = Metrics | MultiLabelMetrics | RegressionMetrics | DenseMetrics | TokenMetrics
_KINDS: dict[str, type[Any]] = {
    "single_label": Metrics,
    "multi_label": MultiLabelMetrics,
    "regression": RegressionMetrics,
    "dense": DenseMetrics,
    "token": TokenMetrics,
}


def metrics_from(task: Task, described: dict[str, Any]) -> AnyMetrics:
    """Return the metrics that were saved as JSON; raises ``TypeError`` where they are not this task's."""
    found: AnyMetrics = _KINDS[task.kind](**described)
    return found


def measure(split: str, task: Task, targets: Array, outputs: torch.Tensor) -> AnyMetrics:
    """Return the metrics of the network's outputs (rows, …) against the targets."""
    return measure_heads(split, task, targets, [outputs])[0]


def measure_heads(split: str, task: Task, targets: Array, outputs: Iterable[torch.Tensor]) -> list[AnyMetrics]:
    """Return the metrics of several heads from the outputs (rows, …) of each, of which one at a time is held."""
    if task.kind == "single_label":
        return [*_measure_classes(split, task, targets, outputs)]
    return [_MEASURES[task.kind](split, task, targets, each) for each in outputs]


def _measure_classes(split: str, task: Task, targets: Array, outputs: Iterable[torch.Tensor]) -> list[Metrics]:
    from sklearn import metrics

    targets, width = targets.astype(np.int64), task.outputs  # booleans would index otherwise
    least = np.finfo(np.float64).eps
    predictions, losses = [], []
    for each in outputs:
        probabilities = task.probabilities(each)
        predictions.append(probabilities.argmax(axis=1))
        # What log_loss gives, clipped as there: a call of it takes ten times as long, and it is one for each head.
        own = probabilities[np.arange(len(targets)), targets].clip(least, 1 - least)
        losses.append(float(-np.log(own).mean()))
    # Most of a call's time does not depend on the number of rows. With class numbers of its own for each head, recall and
    # F1 of all heads' classes are one call and the confusion matrices another one; the means are as recall_score and
    # f1_score take them, and the accuracy is what lies on a matrix's diagonal.
    heads = range(len(predictions))
    true = np.concatenate([targets + head * width for head in heads])
    predicted = np.concatenate([predictions[head] + head * width for head in heads])
    occurring = np.union1d(true, predicted)
    _, recall, f1, support = metrics.precision_recall_fscore_support(true, predicted, labels=occurring, zero_division=0)
    confusion = np.zeros((width, len(heads) * width), dtype=np.int64)
    counted = metrics.cluster.contingency_matrix(np.tile(targets, len(heads)), predicted)
    confusion[np.ix_(np.unique(targets), np.unique(predicted))] = counted
    matrices = [confusion[:, head * width : (head + 1) * width] for head in heads]
    mine = [occurring // width == head for head in heads]
    return [
        Metrics(
            split,
            len(targets),
            float(matrices[head].trace() / len(targets)),
            float(recall[mine[head] & (support > 0)].mean()),
            float(f1[mine[head]].mean()),
            losses[head],
            matrices[head].tolist(),
        )
        for head in heads
    ]


def _measure_labels(split: str, task: Task, targets: Array, outputs: torch.Tensor) -> MultiLabelMetrics:
    from sklearn import metrics

    # Two columns at least, since scikit-learn takes one column for a two-class problem.
    true, predicted, probable = np.asarray(targets).astype(int), task.decoded(outputs), task.probabilities(outputs)
    occurring = true.any(axis=0)
    precisions = [
        metrics.average_precision_score(true[:, each], probable[:, each]) for each in np.flatnonzero(occurring)
    ]
    f1 = [metrics.f1_score(true[:, each], predicted[:, each], zero_division=0) for each in range(true.shape[1])]
    return MultiLabelMetrics(
        split,
        len(true),
        float((true == predicted).all(axis=1).mean()),
        float(metrics.f1_score(true.ravel(), predicted.ravel(), zero_division=0)),
        float(np.mean(f1)),
        float(np.mean(precisions)) if precisions else 0.0,
    )


def _measure_values(split: str, task: Task, targets: Array, outputs: torch.Tensor) -> RegressionMetrics:
    from sklearn import metrics

    predicted = task.decoded(outputs)
    squared = metrics.mean_squared_error(targets, predicted, multioutput="raw_values")
    # R2 is not defined for one row, or where all targets are equal; scikit-learn gives 0 or 1 then.
    r2 = float(metrics.r2_score(targets, predicted)) if len(targets) > 1 else 0.0
    return RegressionMetrics(
        split,
        len(targets),
        r2,
        float(metrics.mean_absolute_error(targets, predicted)),
        float(np.sqrt(squared).mean()),
    )


def _measure_maps(split: str, task: Task, targets: Array, outputs: torch.Tensor) -> DenseMetrics:
    from sklearn import metrics

    true, predicted = task.labelled(targets, task.decoded(outputs))
    classes = np.arange(task.outputs)
    if not len(true):
        return DenseMetrics(split, len(targets), 0.0, 0.0, [None] * task.outputs)
    iou = metrics.jaccard_score(true, predicted, labels=classes, average=None, zero_division=0)
    occurring = np.isin(classes, true) | np.isin(classes, predicted)
    return DenseMetrics(
        split,
        len(targets),
        float(metrics.accuracy_score(true, predicted)),
        float(iou[occurring].mean()),
        [float(value) if there else None for value, there in zip(iou, occurring, strict=True)],
    )


def _measure_tokens(split: str, task: Task, targets: Array, outputs: torch.Tensor) -> TokenMetrics:
    from sklearn import metrics

    true, predicted = task.labelled(targets, task.decoded(outputs))
    if not len(true):
        return TokenMetrics(split, len(targets), 0, 0.0, 0.0, 0.0)
    _, recall, f1, support = metrics.precision_recall_fscore_support(true, predicted, zero_division=0)
    return TokenMetrics(
        split,
        len(targets),
        len(true),
        float((true == predicted).mean()),
        float(recall[support > 0].mean()),
        float(f1.mean()),
    )


_MEASURES: dict[str, Any] = {
    "multi_label": _measure_labels,
    "regression": _measure_values,
    "dense": _measure_maps,
    "token": _measure_tokens,
}
