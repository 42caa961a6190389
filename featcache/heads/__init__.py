"""Kinds of heads, and all that is done with one: training, saving, loading, merging, predicting, unfreezing in stages.

A head refers to its features by their recipe. Nothing that a saved head says is ever run as code."""

from __future__ import annotations

from .head import TrainedHead, train_head
from .kinds import HeadKind, HeadParts, LinearHead, head_kinds
from .layers import EstimatorLayer
from .linear import HeadNetwork
from .load import load_head, read_head
from .losses import plain_loss
from .many import train_heads
from .merge import differing_layers, merge
from .metrics import DenseMetrics, EpochRecord, Metrics, MultiLabelMetrics, RegressionMetrics
from .network import new_network, train_mode
from .plots import confusion_plot, curves_plot
from .predict import Predictions, predict
from .rows import VALIDATION, divide
from .schedule import Stage, behind, parse_schedule, run_stages, schedule_options
from .tasks import Task, find_task, output_tensor

__all__ = [
    "VALIDATION",
    "DenseMetrics",
    "EpochRecord",
    "EstimatorLayer",
    "HeadKind",
    "HeadNetwork",
    "HeadParts",
    "LinearHead",
    "Metrics",
    "MultiLabelMetrics",
    "Predictions",
    "RegressionMetrics",
    "Stage",
    "Task",
    "TrainedHead",
    "behind",
    "confusion_plot",
    "curves_plot",
    "differing_layers",
    "divide",
    "find_task",
    "head_kinds",
    "load_head",
    "merge",
    "new_network",
    "output_tensor",
    "parse_schedule",
    "plain_loss",
    "predict",
    "read_head",
    "run_stages",
    "schedule_options",
    "train_head",
    "train_heads",
    "train_mode",
]
