"""How good a head is at each class or label, by scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..training import Task
    from .judged import Judged

__all__ = ["ClassFigures", "class_figures"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ClassFigures:
    """Figures of one class; ``support`` counts what is truly of it: rows, pixels or tokens."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


def class_figures(task: Task, judged: Judged) -> list[ClassFigures]:
    """Return the figures of each label, or of each class that occurs or is predicted; none for values."""
    if task.kind == "multi_label":
        # One by one, since scikit-learn takes a single column for a two-class problem.
        return [
            _figures([name], judged.targets[:, label].astype(int), judged.predicted[:, label], np.array([1]))[0]
            for label, name in enumerate(task.classes)
        ]
    if not task.classifies:
        return []
    true, predicted = (
        task.labelled(judged.targets, judged.predicted) if task.places else (judged.targets, judged.predicted)
    )
    occurring = np.union1d(true, predicted).astype(np.int64)
    return _figures([task.classes[number] for number in occurring.tolist()], true, predicted, occurring)


def _figures(names: list[str], true: Array, predicted: Array, labels: Array) -> list[ClassFigures]:
    from sklearn.metrics import precision_recall_fscore_support

    if not len(labels):
        return []
    figures = precision_recall_fscore_support(true, predicted, labels=labels, zero_division=0)
    return [
        ClassFigures(name, float(precision), float(recall), float(f1), int(support))
        for name, precision, recall, f1, support in zip(names, *figures, strict=True)
    ]
