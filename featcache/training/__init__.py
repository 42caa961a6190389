"""Training from cached features: tasks, losses, metrics, the division of rows, and the loop.

It takes any network and features. It does not know where a head is saved or how a backbone is built."""

from __future__ import annotations

from .loop import evaluating, fit, scores
from .losses import TaskLoss, plain_loss, takes_frontier
from .metrics import (
    AnyMetrics,
    DenseMetrics,
    EpochRecord,
    Metrics,
    MultiLabelMetrics,
    RegressionMetrics,
    TokenMetrics,
    measure,
    measure_heads,
    metrics_from,
)
from .options import LR_SCHEDULES, TrainOptions
from .patterns import chosen_by
from .products import product
from .rows import Division, divide
from .scorers import check_scorer, score
from .solver import solve, solves
from .steps import default_learning_rate, is_pointwise, make_optimizer, make_schedule
from .tasks import IGNORE_INDEX, Task, find_task, output_tensor
from .uses import RowUses, UsedRows, labelled, row_uses, words_of_splits

__all__ = [
    "IGNORE_INDEX",
    "LR_SCHEDULES",
    "AnyMetrics",
    "DenseMetrics",
    "Division",
    "EpochRecord",
    "Metrics",
    "MultiLabelMetrics",
    "RegressionMetrics",
    "RowUses",
    "Task",
    "TaskLoss",
    "TokenMetrics",
    "TrainOptions",
    "UsedRows",
    "check_scorer",
    "chosen_by",
    "default_learning_rate",
    "divide",
    "evaluating",
    "find_task",
    "fit",
    "is_pointwise",
    "labelled",
    "make_optimizer",
    "make_schedule",
    "measure",
    "measure_heads",
    "metrics_from",
    "output_tensor",
    "plain_loss",
    "product",
    "row_uses",
    "score",
    "scores",
    "solve",
    "solves",
    "takes_frontier",
    "words_of_splits",
]
