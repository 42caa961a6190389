"""Training what lies behind the cut from cached features, and using what was trained."""

from __future__ import annotations

from .head import TrainedHead, train_head
from .kinds import HeadKind, HeadParts, LinearHead, head_kinds
from .load import load_head, read_head
from .many import train_heads
from .merge import differing_layers, merge
from .metrics import DenseMetrics, EpochRecord, Metrics, MultiLabelMetrics, RegressionMetrics
from .network import new_network
from .options import TrainOptions
from .predict import Predictions, predict
from .tasks import Task

__all__ = [
    "DenseMetrics",
    "EpochRecord",
    "HeadKind",
    "HeadParts",
    "LinearHead",
    "Metrics",
    "MultiLabelMetrics",
    "Predictions",
    "RegressionMetrics",
    "Task",
    "TrainOptions",
    "TrainedHead",
    "differing_layers",
    "head_kinds",
    "load_head",
    "merge",
    "new_network",
    "predict",
    "read_head",
    "train_head",
    "train_heads",
]
