"""A trained head: what it predicts, and how it is saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import HeadError, StaleError
from ..features import Features
from ..identity import Recipe, versions
from ..machine import on_device, pick_device
from ..splitting import Split
from ..training import AnyMetrics, EpochRecord, Metrics, Task, TrainOptions, measure, scores
from .kinds import BuiltHead
from .save import HEAD_FORMAT, save_head

__all__ = ["TrainedHead", "check_finite", "check_same_prefix", "outputs_of"]

PACKAGES = ("featcache", "torch", "torchvision", "scikit-learn", "skops", "numpy")


@dataclass
class TrainedHead:
    """A trained head; :attr:`model` is the whole network, a copy in evaluation mode on the device that it was trained on.

    ``metrics`` are on the dataset's test split, or on the validation rows where it has none; None if there are neither.
    ``recipe`` is that of the features, ``dataset`` and ``snapshot`` name the rows.
    """

    built: BuiltHead = field(repr=False)
    task: Task
    options: TrainOptions
    recipe: Recipe = field(repr=False)
    dataset: str
    snapshot: str
    history: list[EpochRecord] = field(default_factory=list, repr=False)
    metrics: AnyMetrics | None = None
    validation_metrics: AnyMetrics | None = None
    elapsed_s: float = 0.0

    @property
    def classes(self) -> list[str]:
        """Return the names of the outputs: of classes or labels, or of values."""
        return list(self.task.classes)

    @property
    def head(self) -> str:
        """Return the kind of the head: ``suffix``, ``linear`` or ``sklearn:NAME``."""
        return self.options.head

    @property
    def model(self) -> nn.Module:
        """Return the whole network: the backbone's input in, class scores (batch, classes) out."""
        return self.built.model

    @property
    def split(self) -> Split:
        """Return the cut through the head's copy of the backbone, where the features were taken."""
        return self.built.split

    @property
    def layers(self) -> nn.Module:
        """Return the module from what crosses the cut to class scores (batch, classes)."""
        return self.built.layers

    @property
    def estimator(self) -> Any:
        """Return the fitted scikit-learn classifier, None for other heads and for a linear one that was loaded."""
        return self.built.estimator

    def predict_proba(self, features: Features, device: str | None = None) -> np.ndarray[Any, Any]:
        """Return the probabilities (rows, classes) of cached features, float64: they add up to 1, but those of labels.

        Raises :class:`StaleError` for features of another network, :class:`HeadError` where they are not finite,
        :class:`UsageError` for values and dense targets, of which :meth:`predict_values` gives what there is.
        """
        return self.task.probabilities(self.outputs(features, device))

    def predict_values(self, features: Features, device: str | None = None) -> np.ndarray[Any, Any]:
        """Return predictions as the targets are written: class numbers, rows of 0 and 1, values, or masks."""
        return self.task.decoded(self.outputs(features, device))

    def outputs(self, features: Features, device: str | None = None) -> torch.Tensor:
        """Return the network's output of cached features, on the CPU; of dense ones only the likeliest classes.

        Raises :class:`StaleError` for features of another network, :class:`HeadError` where it is not finite.
        """
        check_same_prefix(features, self.recipe.cut, self.recipe.structure, dict(self.recipe.weights))
        return outputs_of(self.built, self.task, features, pick_device(device))

    def evaluate(self, features: Features, split_name: str = "given", device: str | None = None) -> AnyMetrics:
        """Return the metrics on cached features; raises :class:`DataError` where their targets or classes are others."""
        self.task.check_classes(features.classes, features.dataset)
        self.task.check(features.targets, features.dataset)
        return measure(split_name, self.task, features.targets, self.outputs(features, device))

    def save(self, folder: str | Path, origin: Mapping[str, Any] | None = None) -> Path:
        """Write the head to a folder, in one step, and return the folder; ``origin`` records how to rebuild the backbone.

        Raises :class:`HeadError` where the folder holds something other than a head.
        """
        return save_head(
            Path(folder), self.built, self.describe(origin or {}), history=self.history, plots=self._plots()
        )

    def describe(self, origin: Mapping[str, Any]) -> dict[str, Any]:
        """Return what ``head.json`` says of the head: values of JSON, numpy and Python."""
        return {
            "format": 1 if self.task.kind == "single_label" else HEAD_FORMAT,
            "head": self.head,
            "classes": self.classes,
            "task": self.task.to_dict(),
            "tensors": len(self.built.stored.state_dict()),
            "cut": self.recipe.cut,
            "dataset": self.dataset,
            "snapshot": self.snapshot,
            "seed": self.options.seed,
            "metrics": _fields(self.metrics),
            "validation_metrics": _fields(self.validation_metrics),
            "options": _fields(self.options),
            "origin": dict(origin),
            "elapsed_s": self.elapsed_s,
            "versions": versions(*PACKAGES),
            "history": [_fields(each) for each in self.history],
            "recipe_fingerprint": self.recipe.fingerprint,
            "recipe": self.recipe.to_dict(),
        }

    def _plots(self) -> dict[str, bytes]:
        try:
            from .plots import confusion_plot, curves_plot
        except ImportError:  # matplotlib is an extra; the numbers are in history.csv and head.json
            return {}
        made = {}
        if self.history:
            made["curves.svg"] = curves_plot(self.history)
        if isinstance(self.metrics, Metrics):
            made["confusion_matrix.svg"] = confusion_plot(self.metrics, self.classes)
        return made


def outputs_of(built: BuiltHead, task: Task, features: Features, device: torch.device) -> torch.Tensor:
    """Return what the task keeps of a head's output, for features at its cut; raises :class:`HeadError` if not finite."""
    if not len(features):
        return torch.zeros((0, task.outputs))
    with on_device(built.layers, device):
        outputs = scores(built.layers, features, device, task)
    check_finite(outputs, features)
    return outputs


def check_finite(outputs: torch.Tensor, features: Features) -> None:
    """Raise :class:`HeadError` where a head's output of some features is not finite."""
    finite = torch.isfinite(outputs).flatten(1).all(dim=1)
    if not finite.all():
        bad = features.names[int(torch.nonzero(~finite)[0])]
        raise HeadError(f"the head's scores of {bad!r} are not finite: train with a smaller --learning-rate.")


def check_same_prefix(features: Features, cut: str, structure: str, weights: Mapping[str, str]) -> None:
    """Raise :class:`StaleError` where the features are those of another cut or network."""
    recipe = features.recipe
    if cut != recipe.cut:
        raise StaleError(f"the features are those at {recipe.cut!r}, but the head belongs behind {cut!r}.")
    if structure != recipe.structure or weights != dict(recipe.weights):
        raise StaleError(
            f"the features at {recipe.cut!r} were computed by a network with other weights or another structure up to the "
            "cut: run extract with this network, then train."
        )


def _fields(value: Any) -> Any:
    return None if value is None else dataclasses.asdict(value)
