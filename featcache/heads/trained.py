"""A trained head: what it predicts, and how it is saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import DataError, HeadError, StaleError, UsageError
from ..features import Features
from ..identity import Recipe, versions
from ..machine import exact_numerics, on_device, pick_device
from ..progress import ProgressCallback, silent
from ..splitting import Split
from ..tables import Records, html_table
from ..training import AnyMetrics, EpochRecord, Metrics, Task, TrainOptions, UsedRows, measure, scores
from .all_layers import JoinedSplit, joined_features
from .kinds import BuiltHead
from .predictions import Predictions, predictions_of
from .running import run_network
from .save import HEAD_FORMAT, save_head

__all__ = ["TrainedHead", "check_finite", "check_same_prefix", "outputs_of"]

SHOWN = 20  # classes
PACKAGES = ("featcache", "torch", "torchvision", "scikit-learn", "skops", "numpy")


@dataclass(repr=False)
class TrainedHead:
    """A trained head: its network, what it learned and how good it is.

    Attributes
    ----------
    built : BuiltHead
        The modules of the head.
    task : Task
        What the head learned.
    options : TrainOptions
        How the head was trained.
    recipe : Recipe
        The recipe of the features.
    dataset : str
        The name of the dataset.
    snapshot : str
        The digest of the dataset's snapshot, which says which rows there were.
    history : Records of EpochRecord
        One record per epoch. Empty for scikit-learn estimators.
    metrics : Metrics, MultiLabelMetrics, RegressionMetrics, DenseMetrics or TokenMetrics, optional
        The metrics on the dataset's test split, or on the validation rows if it has none. None if there are neither.
    validation_metrics : Metrics, MultiLabelMetrics, RegressionMetrics, DenseMetrics or TokenMetrics, optional
        The metrics on the validation rows. None if there are none.
    elapsed_s : float
        The seconds that training took.
    rows : UsedRows, optional
        How many rows of which split it was trained on and judged by. None if that was not recorded.
    """

    built: BuiltHead
    task: Task
    options: TrainOptions
    recipe: Recipe
    dataset: str
    snapshot: str
    history: Records[EpochRecord] = field(default_factory=Records)
    metrics: AnyMetrics | None = None
    validation_metrics: AnyMetrics | None = None
    elapsed_s: float = 0.0
    rows: UsedRows | None = None

    def __repr__(self) -> str:
        told = "" if self.metrics is None else f"; {self.metrics.split}: {self.metrics}"
        return (
            f"TrainedHead({self.head} after {self.recipe.cut!r} on {self.dataset!r}, {self.task.outputs} outputs{told})"
        )

    def _repr_html_(self) -> str:
        judged = {each.split: each for each in (self.validation_metrics, self.metrics) if each is not None}
        rows = [
            ["dataset", self.dataset],
            [self.task.kind, f"{self.task.outputs:,}: {', '.join(self.classes[:SHOWN])}"],
            ["rows", "" if self.rows is None else str(self.rows)],
            *([split, f"{found} ({found.samples:,} rows)"] for split, found in judged.items()),
        ]
        return html_table([self.head, f"after {self.recipe.cut}"], rows)

    @property
    def classes(self) -> list[str]:
        """The names of the outputs: of classes or labels, or of values."""
        return list(self.task.classes)

    @property
    def cuts(self) -> list[str]:
        """The names of the cuts whose features the head reads: one, but for ``all-layers``."""
        split = self.built.split
        return split.cuts if isinstance(split, JoinedSplit) else [self.recipe.cut]

    @property
    def head(self) -> str:
        """The kind of the head: ``suffix``, ``linear``, ``all-layers`` or ``sklearn:NAME``."""
        return self.options.head

    @property
    def model(self) -> nn.Module:
        """The whole network, in evaluation mode: the backbone's input in, class scores (batch, classes) out.

        It is a copy of the caller's model, on the device that it was trained on.
        """
        return self.built.model

    @property
    def split(self) -> Split:
        """The cut through the head's copy of the backbone, where the features were taken."""
        return self.built.split

    @property
    def layers(self) -> nn.Module:
        """The module from what crosses the cut to class scores (batch, classes)."""
        return self.built.layers

    @property
    def estimator(self) -> Any:
        """The fitted scikit-learn estimator, or None for other heads and for a linear estimator that was loaded."""
        return self.built.estimator

    def predict(
        self,
        inputs: Any,
        *,
        transform: Callable[[Any], Any] | None = None,
        batch_size: int = 64,
        device: str | None = None,
        on_error: str = "raise",
        progress: ProgressCallback = silent,
    ) -> Predictions:
        """Predict for new inputs, by the whole network, or for cached features, by what comes after the cut.

        The network runs in evaluation mode; its modes are left as they were.

        Parameters
        ----------
        inputs : Any
            Cached features at the head's cut (those of each cut, for an all-layers head), a map-style dataset, a tensor
            or other sequence, or any iterable. Its items are inputs, or (input, target) pairs whose target is ignored. If
            it has ``classes``, they must be those of the head. Names are those of the dataset (``names``), else
            ``item 0``, ``item 1`` and so on.
        transform : callable, optional
            Applied to each input.
        batch_size : int, default 64
            The number of inputs that run at once.
        device : str, optional
            The device to run on. By default the best one there is.
        on_error : str, default "raise"
            What to do with an input that cannot be read, or with a text or sound that the transform does not take:
            ``"raise"`` or ``"skip"``.
        progress : callable, optional
            Called with a ``ProgressEvent`` after each batch.

        Returns
        -------
        Predictions
            The predictions for every input that could be read.

        Raises
        ------
        UnreadableSampleError
            If an input cannot be read, unless ``on_error`` is ``"skip"``.
        NonFiniteError
            If the network's output for an input is NaN or infinite.
        DataError
            If the data has other classes than the head or is decoded in another way, the transform does not take a text or
            sound (unless ``on_error`` is ``"skip"``), or there are no inputs.
        StaleError
            If the features belong to another network.
        UsageError
            If ``on_error`` or ``batch_size`` is not valid, or a transform is given for cached features.
        """
        where = pick_device(device)
        if isinstance(inputs, Mapping) and all(isinstance(each, Features) for each in inputs.values()):
            inputs = self.own_features(inputs)
        if not isinstance(inputs, Features):
            return run_network(
                self.model, self.task, self.recipe.decoding, inputs, where, transform=transform, batch_size=batch_size,
                on_error=on_error, progress=progress,
            )  # fmt: skip
        if transform is not None:
            raise UsageError("cached features are what the transform led to: leave transform out.")
        if not len(inputs):
            raise DataError(f"there are no rows of {inputs.dataset!r} to predict.")
        with exact_numerics():
            outputs = self.outputs(inputs, device)
        return predictions_of(self.task, outputs, inputs.names)

    def predict_proba(
        self, features: Features | Mapping[str, Features], device: str | None = None
    ) -> np.ndarray[Any, Any]:
        """Return the probabilities of each class for cached features.

        Parameters
        ----------
        features : Features or mapping of str to Features
            Features at the head's cut, from the same network. For an all-layers head those of each cut.
        device : str, optional
            The device to run on. By default the best one there is.

        Returns
        -------
        numpy.ndarray, shape (rows, classes), float64
            The probabilities. They add up to 1 in each row, except for several labels.

        Raises
        ------
        StaleError
            If the features belong to another network.
        HeadError
            If the scores are not finite.
        UsageError
            If the task has no probabilities. Use ``predict_values`` then.
        """
        return self.task.probabilities(self.outputs(features, device))

    def predict_values(
        self, features: Features | Mapping[str, Features], device: str | None = None
    ) -> np.ndarray[Any, Any]:
        """Return predictions for cached features, in the form of the targets.

        Parameters
        ----------
        features : Features or mapping of str to Features
            Features at the head's cut, from the same network. For an all-layers head those of each cut.
        device : str, optional
            The device to run on. By default the best one there is.

        Returns
        -------
        numpy.ndarray, shape (rows, …)
            Class numbers, rows of 0 and 1, values, or masks.

        Raises
        ------
        StaleError
            If the features belong to another network.
        HeadError
            If the scores are not finite.
        """
        return self.task.decoded(self.outputs(features, device))

    def outputs(self, features: Features | Mapping[str, Features], device: str | None = None) -> torch.Tensor:
        """Return the network's output for cached features.

        Parameters
        ----------
        features : Features or mapping of str to Features
            Features at the head's cut, from the same network. For an all-layers head those of each cut.
        device : str, optional
            The device to run on. By default the best one there is.

        Returns
        -------
        torch.Tensor, shape (rows, …)
            The output, on the CPU. For dense targets only the likeliest class of each pixel.

        Raises
        ------
        StaleError
            If the features belong to another network.
        HeadError
            If the output is not finite.
        """
        features = self.own_features(features)
        check_same_prefix(features, self.recipe.cut, self.recipe.structure, dict(self.recipe.weights))
        if features.recipe.pool not in (None, self.options.pool):
            raise StaleError(
                f"the features at {self.recipe.cut!r} were pooled by {features.recipe.pool!r}, but the head takes them pooled by "
                f"{self.options.pool!r}: extract them so."
            )
        return outputs_of(self.built, self.task, features, pick_device(device))

    def evaluate(
        self, features: Features | Mapping[str, Features], split_name: str = "given", device: str | None = None
    ) -> AnyMetrics:
        """Return the metrics of the head on cached features.

        Parameters
        ----------
        features : Features or mapping of str to Features
            Features at the head's cut, from the same network, with their targets. For an all-layers head those of each
            cut.
        split_name : str, default "given"
            The name of these rows in the metrics.
        device : str, optional
            The device to run on. By default the best one there is.

        Returns
        -------
        Metrics, MultiLabelMetrics, RegressionMetrics, DenseMetrics or TokenMetrics
            The metrics, of the class that belongs to the task.

        Raises
        ------
        DataError
            If the targets or classes do not fit the head.
        StaleError
            If the features belong to another network.
        HeadError
            If the output is not finite.
        UsageError
            If the task is the network's own output.
        """
        if self.task.kind == "output":
            raise UsageError("the network's own output has no metrics: compare predict_values with the targets.")
        features = self.own_features(features)
        self.task.check_classes(features.classes, features.dataset)
        self.task.check(features.targets, features.dataset)
        return measure(split_name, self.task, features.targets, self.outputs(features, device))

    def own_features(self, features: Features | Mapping[str, Features]) -> Features:
        """Return features as the head reads them: those of its cut, or of all its cuts side by side.

        Parameters
        ----------
        features : Features or mapping of str to Features
            Features at the head's cut, or those of each cut.

        Returns
        -------
        Features
            The features. Those of an all-layers head lie in memory.

        Raises
        ------
        UsageError
            If the features are not those of the head's cuts, of the same samples and made alike.
        HeadError
            If there is not enough memory.
        """
        if isinstance(features, Features) and (len(self.cuts) == 1 or features.recipe.cut == self.recipe.cut):
            return features
        if len(self.cuts) == 1 and isinstance(features, Mapping) and list(features) == self.cuts:
            return features[self.cuts[0]]
        return joined_features(features, self.cuts, self.options.pool)

    def save(self, folder: str | Path, origin: Mapping[str, Any] | None = None) -> Path:
        """Write the head to a folder, in one step.

        Parameters
        ----------
        folder : str or pathlib.Path
            The folder. It replaces a head that is already there.
        origin : mapping of str to Any, optional
            How to rebuild the backbone. It is recorded with the head.

        Returns
        -------
        pathlib.Path
            The folder.

        Raises
        ------
        HeadError
            If the folder holds something other than a head, or cannot be written.
        StorePermissionError
            If permission is denied.
        MissingDependencyError
            If the head needs skops and it is not installed.
        """
        return save_head(
            Path(folder), self.built, self.describe(origin or {}), history=self.history, plots=self._plots()
        )

    def describe(self, origin: Mapping[str, Any]) -> dict[str, Any]:
        """Return the content of ``head.json``.

        Parameters
        ----------
        origin : mapping of str to Any
            How to rebuild the backbone.

        Returns
        -------
        dict of str to Any
            Values of JSON, numpy and Python.
        """
        return {
            "format": 1 if self.task.kind == "single_label" else HEAD_FORMAT,
            "head": self.head,
            "classes": self.classes,
            "task": self.task.to_dict(),
            "tensors": len(self.built.stored.state_dict()),
            "cut": self.recipe.cut,
            **({"cuts": self.cuts} if len(self.cuts) > 1 else {}),
            "dataset": self.dataset,
            "snapshot": self.snapshot,
            "seed": self.options.seed,
            "rows": _fields(self.rows),
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
    """Return what the task keeps of a head's output, for features at its cut; raises ``HeadError`` if not finite."""
    if not len(features):
        return torch.zeros((0, task.outputs))
    with on_device(built.layers, device):
        outputs = scores(built.layers, features, device, task)
    check_finite(outputs, features)
    return outputs


def check_finite(outputs: torch.Tensor, features: Features) -> None:
    """Raise ``HeadError`` where a head's output of some features is not finite."""
    finite = torch.isfinite(outputs).reshape(len(outputs), -1).all(dim=1)
    if not finite.all():
        bad = features.names[int(torch.nonzero(~finite)[0])]
        raise HeadError(f"the head's scores of {bad!r} are not finite: train with a smaller --learning-rate.")


def check_same_prefix(features: Features, cut: str, structure: str, weights: Mapping[str, str]) -> None:
    """Raise ``StaleError`` where the features are those of another cut or network."""
    recipe = features.recipe
    if cut != recipe.cut:
        raise StaleError(f"the features are those at {recipe.cut!r}, but the head belongs after {cut!r}.")
    if structure != recipe.structure or weights != dict(recipe.weights):
        raise StaleError(
            f"the features at {recipe.cut!r} were computed by a network with other weights or another structure up to the "
            "cut: run extract with this network, then train."
        )


def _fields(value: Any) -> Any:
    return None if value is None else dataclasses.asdict(value)
