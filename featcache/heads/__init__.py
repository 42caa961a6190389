"""Kinds of heads, and all that is done with one: training, saving, loading, merging, predicting, unfreezing in stages.

A head refers to its features by their recipe. Nothing that a saved head says is ever run as code."""

from __future__ import annotations

from .kinds import BuiltHead, HeadKind, LinearHead, head_kinds
from .layers import EstimatorLayer
from .linear import HeadNetwork
from .load import head_task, load_onto, read_head
from .many import train_heads
from .merge import differing_layers, merge
from .network import new_network, train_mode
from .plots import confusion_plot, curves_plot
from .predict import predict
from .predictions import Predictions
from .schedule import parse_schedule
from .stages import train_freezing, train_unfreezing
from .train import fit_head, train_head
from .trained import TrainedHead

__all__ = [
    "BuiltHead",
    "EstimatorLayer",
    "HeadKind",
    "HeadNetwork",
    "LinearHead",
    "Predictions",
    "TrainedHead",
    "confusion_plot",
    "curves_plot",
    "differing_layers",
    "fit_head",
    "head_kinds",
    "head_task",
    "load_onto",
    "merge",
    "new_network",
    "parse_schedule",
    "predict",
    "read_head",
    "train_freezing",
    "train_head",
    "train_heads",
    "train_mode",
    "train_unfreezing",
]
