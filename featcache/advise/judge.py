"""How right each row is: one number a row, so that two cuts can be compared row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import UsageError
from ..features import Features
from ..training import Task, find_task

__all__ = ["Judge", "judge_of"]

Array = np.ndarray[Any, Any]

SCORE_NAMES = {
    "single_label": "accuracy", "multi_label": "F1 of a sample", "regression": "R2", "dense": "pixel accuracy",
    "token": "token accuracy",
}  # fmt: skip


@dataclass(frozen=True)
class Judge:
    """Scores rows for one task; ``variance`` is that of a regression's targets, by component."""

    task: Task
    variance: Array | None = None

    @property
    def name(self) -> str:
        """Return what the mean of the scores is called."""
        return SCORE_NAMES[self.task.kind]

    def scores(self, targets: Array, outputs: torch.Tensor) -> Array:
        """Return a score for each row, the greater the better, at most 1, from the outputs that the task keeps.

        1 for the right class and 0 for another; of several labels the F1 of the row's own (1 where none is there and none is
        said); of values 1 less the squared error over the variance of all targets, whose mean is R2; of dense targets and
        tokens the share of those that count which are right.
        """
        predicted = self.task.decoded(outputs)
        if self.task.kind == "single_label":
            return np.asarray(predicted == targets, dtype=np.float64)
        if self.task.kind == "multi_label":
            both = np.logical_and(predicted, targets).sum(axis=1)
            either = predicted.sum(axis=1) + targets.sum(axis=1)
            return np.asarray(np.where(either > 0, 2 * both / np.maximum(either, 1), 1.0))
        if self.task.kind == "regression":
            errors = (predicted - targets).reshape(len(targets), -1) ** 2 / self.variance
            return np.asarray(1 - errors.mean(axis=1), dtype=np.float64)
        right = np.zeros(targets.shape)
        counted = self.task.counted(targets)
        true, said = self.task.labelled(targets, predicted)
        right[counted] = true == said
        rows = right.reshape(len(targets), -1).sum(axis=1)
        return np.asarray(rows / np.maximum(counted.reshape(len(targets), -1).sum(axis=1), 1), dtype=np.float64)


def judge_of(features: Features, kind: str | None = None) -> Judge:
    """Return the judge for the task of the targets, or for the task that ``kind`` names.

    Raises ``DataError`` or ``UsageError`` as ``featcache.train_head`` does.
    """
    task = find_task(features, kind)
    if task.kind == "output":
        raise UsageError("cuts are not compared by the network's own output, which has no score: name another task.")
    if task.kind != "regression":
        return Judge(task)
    values = features.targets.reshape(len(features), -1).astype(np.float64)
    variance = values.var(axis=0)
    return Judge(task, np.where(variance > 0, variance, 1.0))
