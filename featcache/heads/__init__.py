"""Training what lies behind the cut from cached features, and using what was trained."""

from __future__ import annotations

from .head import TrainedHead, head_kinds, train_head
from .metrics import EpochRecord, Metrics
from .network import new_network
from .options import TrainOptions
from .predict import Predictions, predict
from .save import load_head, read_head

__all__ = [
    "EpochRecord",
    "Metrics",
    "Predictions",
    "TrainOptions",
    "TrainedHead",
    "head_kinds",
    "load_head",
    "new_network",
    "predict",
    "read_head",
    "train_head",
]
