"""``train_head``: from cached features to a trained network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..devices import available_memory_bytes, pick_device
from ..errors import HeadError, StaleError, UnknownNameError, UsageError
from ..features import Features
from ..progress import ProgressCallback, silent
from ..registry import Registry
from ..split import Split, fold
from .estimators import as_layer, fit_estimator
from .linear import HeadNetwork, Pool, linear_head
from .metrics import EpochRecord, Metrics, measure
from .network import choose_trainable, new_network, train_mode
from .options import TrainOptions
from .rows import Division, class_names, divide
from .train import fit, scores

__all__ = ["HeadKind", "TrainedHead", "head_kinds", "train_head"]

FOLDED_SHARE = 0.4  # of the free memory that folded features may fill


@dataclass
class TrainedHead:
    """A trained head: ``model`` is the whole network, in evaluation mode, and ``layers`` its trained part.

    ``metrics`` are on the dataset's test split, or on the validation rows where it has none; None if there are neither.
    ``split`` cuts ``model`` where the features were taken. ``recipe`` is that of the features.
    """

    model: nn.Module
    layers: nn.Module
    split: Split
    classes: list[str]
    options: TrainOptions
    recipe: Any
    dataset: str
    snapshot: str
    history: list[EpochRecord] = field(default_factory=list)
    metrics: Metrics | None = None
    validation_metrics: Metrics | None = None
    estimator: Any = None
    elapsed_s: float = 0.0

    @property
    def head(self) -> str:
        """Return the kind of the head: ``suffix``, ``linear`` or ``sklearn:NAME``."""
        return self.options.head

    def predict_proba(self, features: Features, device: str | None = None) -> np.ndarray[Any, Any]:
        """Return the class probabilities (rows, classes) of cached features."""
        where = pick_device(device)
        self.layers.to(where)
        return torch.softmax(scores(self.layers, features, where).double(), dim=1).numpy()

    def save(self, folder: str | Path, origin: Mapping[str, Any] | None = None) -> Path:
        """Write the head to a folder, in one step, and return the folder; ``origin`` records how to rebuild the backbone."""
        from .save import save_head

        return save_head(self, Path(folder), dict(origin or {}))


HeadKind = Callable[[Split, Division, list[str], TrainOptions, torch.device, ProgressCallback], TrainedHead]


def train_head(
    split: Split,
    features: Features,
    *,
    head: str = "suffix",
    epochs: int = 20,
    batch_size: int = 64,
    optimizer: str = "adamw",
    learning_rate: float | None = None,
    weight_decay: float = 0.01,
    schedule: str = "cosine",
    warmup_epochs: float = 0.0,
    label_smoothing: float = 0.0,
    class_weights: str | Sequence[float] | None = None,
    validation: float = 0.2,
    patience: int | None = None,
    seed: int = 0,
    device: str | None = None,
    trainable: Sequence[str] | None = None,
    fold: bool = True,
    parameters: Mapping[str, Any] | None = None,
    progress: ProgressCallback = silent,
) -> TrainedHead:
    """Return a head trained from cached features; the caller's model is copied, never changed.

    ``head`` is ``"suffix"`` (all that lies behind the cut, with its last layer made anew for the data's classes),
    ``"linear"`` (one linear layer on pooled features) or ``"sklearn:NAME"`` with ``parameters``. ``trainable`` names the
    modules behind the cut that are trained (default: all). ``learning_rate`` is 1e-2 by default where one linear layer
    alone is trained, else 1e-3. The others stay as they are, in evaluation mode. ``fold`` runs
    what training never changes once, and not in every epoch. ``validation`` is the share of the training rows that is
    kept to judge by, where the dataset has no validation split; with ``patience``, training stops after so many epochs
    without a better validation loss; the best weights are kept.

    From a float32 cache this equals the usual loop over the whole network: :func:`featcache.heads.new_network` gives its
    initial weights, ``features.loader(…).order(epoch)`` its order of rows, ``torch.manual_seed(seed)`` before the first
    step its random numbers.

    Raises :class:`HeadError`, :class:`DataError` or :class:`UsageError`, and :class:`StaleError` for features of another network.
    """
    import time

    started_s = time.perf_counter()
    options = TrainOptions(
        head, epochs, batch_size, optimizer, learning_rate, weight_decay, schedule, warmup_epochs, label_smoothing,
        class_weights, validation, patience, seed, None if trainable is None else tuple(trainable), fold,
        dict(parameters or {}),
    )  # fmt: skip
    where = pick_device(device)
    _check_origin(split, features)
    classes = class_names(features)
    division = divide(features, options.validation, options.seed)
    kind = "sklearn" if head.startswith("sklearn:") else head
    if kind not in head_kinds.names():
        raise UnknownNameError(f"unknown head {head!r}. Known: suffix, linear, sklearn:NAME.")
    trained = head_kinds.get(kind)(split, division, classes, options, where, progress)
    trained.model.eval()
    for split_name, rows in (("validation", division.validation), ("test", division.test)):
        if rows is not None:
            measured = measure(split_name, rows.targets, trained.predict_proba(rows, str(where)))
            trained.metrics = measured
            if split_name == "validation":
                trained.validation_metrics = measured
    trained.elapsed_s = time.perf_counter() - started_s
    return trained


def train_suffix(
    split: Split,
    division: Division,
    classes: list[str],
    options: TrainOptions,
    device: torch.device,
    progress: ProgressCallback,
) -> TrainedHead:
    """Return the suffix, trained."""
    network = new_network(split, len(classes), options.seed)
    network.model.to(device)
    suffix = network.suffix
    trainable = choose_trainable(suffix, options.trainable)
    everything = options.trainable is None
    train_mode(suffix, trainable, everything)
    frozen, rest = fold(suffix, trainable) if options.fold else (None, suffix)
    train, validation = division.train, division.validation
    if frozen is not None:
        frozen.eval()
        train, validation = _folded(frozen, division, device)
        if train is division.train:
            frozen, rest = None, suffix
    history = fit(
        rest,
        lambda: train_mode(suffix, trainable, everything),
        train,
        validation,
        options,
        len(classes),
        device,
        progress,
    )
    return _trained(network.model, suffix, network, division, classes, options, history)


def _folded(frozen: nn.Module, division: Division, device: torch.device) -> tuple[Features, Features | None]:
    rows = [each for each in (division.train, division.validation) if each is not None]
    sample = rows[0].subset([0]).map(frozen, device=str(device))
    if sample.size_bytes * sum(len(each) for each in rows) > FOLDED_SHARE * available_memory_bytes():
        return division.train, division.validation
    mapped = [each.map(frozen, device=str(device)) for each in rows]
    return mapped[0], mapped[1] if len(mapped) > 1 else None


def train_linear(
    split: Split,
    division: Division,
    classes: list[str],
    options: TrainOptions,
    device: torch.device,
    progress: ProgressCallback,
) -> TrainedHead:
    """Return a linear layer on pooled features, trained."""
    if options.trainable is not None:
        raise UsageError("trainable names modules of the suffix; the linear head has none.")
    pool = Pool()
    train = division.train.map(pool, device=str(device))
    validation = None if division.validation is None else division.validation.map(pool, device=str(device))
    layer = linear_head(train.frontier[0].shape[0], len(classes), options.seed).to(device)
    history = fit(layer, layer.train, train, validation, options, len(classes), device, progress)
    return _trained(HeadNetwork(split, layer), nn.Sequential(pool, layer), split, division, classes, options, history)


def train_estimator(
    split: Split,
    division: Division,
    classes: list[str],
    options: TrainOptions,
    device: torch.device,
    progress: ProgressCallback,
) -> TrainedHead:
    """Return a scikit-learn classifier on pooled features, fitted."""
    pool = Pool()
    pooled = division.train.map(pool, device=str(device))
    vectors, targets = pooled.numpy()
    estimator = fit_estimator(options.head.partition(":")[2], options.parameters, vectors, targets, options.seed)
    layer = as_layer(estimator, len(classes))
    trained = _trained(HeadNetwork(split, layer), nn.Sequential(pool, layer), split, division, classes, options, [])
    trained.estimator = estimator
    return trained


def _trained(
    model: nn.Module,
    layers: nn.Module,
    split: Split,
    division: Division,
    classes: list[str],
    options: TrainOptions,
    history: list[EpochRecord],
) -> TrainedHead:
    features = division.train
    return TrainedHead(
        model, layers, split, classes, options, features.recipe, features.dataset, features.snapshot, history
    )


def _check_origin(split: Split, features: Features) -> None:
    recipe = features.recipe
    if split.cut != recipe.cut:
        raise UsageError(f"the features are those at {recipe.cut!r}, but the split is cut at {split.cut!r}.")
    if len(features) == 0:
        raise HeadError("there are no rows to train on.")
    if split.structure != recipe.structure or split.weights != dict(recipe.weights):
        raise StaleError(
            f"the features at {recipe.cut!r} were computed by a network with other weights or another structure up to the "
            "cut: run extract with this network, then train."
        )


head_kinds: Registry[HeadKind] = Registry(
    "featcache.heads",
    "head",
    {
        "suffix": "featcache.heads.head:train_suffix",
        "linear": "featcache.heads.head:train_linear",
        "sklearn": "featcache.heads.head:train_estimator",
    },
)
