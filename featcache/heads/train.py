"""``train_head``: from cached features to a trained network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..errors import HeadError, UsageError
from ..features import Features
from ..machine import pick_device
from ..progress import ProgressCallback, silent
from ..splitting import Split
from ..training import (
    IGNORE_INDEX,
    Division,
    TrainOptions,
    check_scorer,
    default_learning_rate,
    divide,
    find_task,
    measure_heads,
    score,
)
from .kinds import find_kind
from .trained import TrainedHead, check_same_prefix, outputs_of

__all__ = ["check_origin", "fit_head", "pool_of", "scored", "train_head"]


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
    lr_schedule: str = "cosine",
    warmup_epochs: float = 0.0,
    label_smoothing: float = 0.0,
    class_weights: str | Sequence[float] | None = None,
    validation: float = 0.2,
    patience: int | None = None,
    seed: int = 0,
    device: str | None = None,
    trainable: Sequence[str] | None = None,
    fold: bool = True,
    pool: str = "auto",
    parameters: Mapping[str, Any] | None = None,
    task: str | None = None,
    metric: str | None = None,
    sample_weights: Sequence[float] | np.ndarray[Any, Any] | None = None,
    ignore_index: int = IGNORE_INDEX,
    progress: ProgressCallback = silent,
) -> TrainedHead:
    """Return a head trained from cached features; the caller's model is copied, never changed.

    What is learned follows from the targets: a whole number is a class, a row of 0 and 1 several labels, a float or a row
    of floats values, a (height, width) map of whole numbers dense targets, of which ``ignore_index`` does not count.
    ``task`` (``single_label``, ``multi_label``, ``regression``, ``dense``) overrides that. ``metric`` is the name of a
    scikit-learn scorer, by which the best epoch is chosen instead of by the validation loss. ``sample_weights`` are one
    number a row of ``features``, by which its loss is multiplied; ``class_weights`` one a class, or ``"balanced"``.

    ``head`` is ``"suffix"`` (all that lies behind the cut, with its last layer made anew for the data's classes),
    ``"linear"`` (one linear layer on pooled features) or ``"sklearn:NAME"`` with ``parameters``. ``trainable`` names the
    modules behind the cut that are trained (default: all); the others stay as they are, in evaluation mode.
    ``learning_rate`` is 1e-2 by default where one linear layer alone is trained, else 1e-3. ``fold`` runs what training
    never changes once, and not in every epoch. ``pool`` says how the heads on pooled features make vectors, see
    :class:`featcache.codecs.Pool`. ``validation`` is the share of the training rows that is kept to judge by, where
    the dataset has no validation split (``val``, ``valid`` or ``validation``); with ``patience``, training stops after so
    many epochs without a better validation loss; the best weights are kept.

    From a float32 cache this equals the usual loop over the whole network, bit for bit on one CPU thread, if that loop
    does the same in the same order: start from ``featcache.heads.new_network(split, classes, seed).model``; put what lies
    at or before the cut into evaluation mode without gradients, and the rest into training mode (again at the start of
    each epoch); call ``torch.manual_seed(seed)`` once before the first step and draw from torch's generator in the module
    alone; take the rows of ``train_rows.loader(batch_size, seed=seed).order(epoch)``, the last short batch included; step
    the schedule after every batch. Rows that were computed in batches of another size can differ in their last bits.

    Raises :class:`HeadError`, :class:`DataError` or :class:`UsageError`, and :class:`StaleError` for features of another
    network.
    """
    options = TrainOptions(
        head=head, epochs=epochs, batch_size=batch_size, optimizer=optimizer, learning_rate=learning_rate,
        weight_decay=weight_decay, lr_schedule=lr_schedule, warmup_epochs=warmup_epochs,
        label_smoothing=label_smoothing, class_weights=class_weights, validation=validation, patience=patience,
        seed=seed, trainable=None if trainable is None else tuple(trainable), fold=fold,
        parameters=dict(parameters or {}), pool=pool, task=task, metric=metric, ignore_index=ignore_index,
    )  # fmt: skip
    return fit_head(split, features, options, pick_device(device), sample_weights=sample_weights, progress=progress)


def fit_head(
    split: Split,
    features: Features,
    options: TrainOptions,
    device: torch.device,
    *,
    start: Mapping[str, torch.Tensor] | None = None,
    division_seed: int | None = None,
    sample_weights: Any = None,
    progress: ProgressCallback = silent,
) -> TrainedHead:
    """Return the head that :func:`train_head` gives for these options.

    ``start`` is the state of the whole network that a suffix is trained on from; ``division_seed`` keeps the rows that
    are validated by apart from ``options.seed``. Both are what stages of a schedule need.
    """
    started_s = time.perf_counter()
    kind = find_kind(options.head)
    if options.metric is not None:
        check_scorer(options.metric)
    check_origin(split, features)
    options = replace(options, pool=pool_of(features, options.head, options.pool))
    if options.head == "suffix" and features.ragged:
        _refuse_unmasked(split, features)
    task = find_task(features, options.task, options.ignore_index)
    rows = divide(
        features, options.validation, options.seed if division_seed is None else division_seed, task, sample_weights
    )
    # Tensors made in a caller's inference mode could not be trained.
    with torch.inference_mode(False), torch.enable_grad():
        built = kind.build(split, task, options, device)
        if start is not None:
            built.model.load_state_dict(start)
            check_same_prefix(features, split.cut, split.structure, built.split.weights)
        history = kind.train(built, rows, options, task, progress)
    built.model.eval()
    built.layers.eval()
    if history and options.learning_rate is None:
        options = replace(options, learning_rate=default_learning_rate(built.layers))
    trained = TrainedHead(built, task, options, features.recipe, features.dataset, features.snapshot, history)
    scored([trained], rows, lambda judged: [outputs_of(built, task, judged, device)])
    trained.elapsed_s = time.perf_counter() - started_s
    return trained


def scored(heads: Sequence[TrainedHead], rows: Division, outputs: Callable[[Features], Iterable[torch.Tensor]]) -> None:
    """Give heads of one task their metrics on the validation and test rows, from the outputs of each for these."""
    task, metric = heads[0].task, heads[0].options.metric
    for split_name, judged in (("validation", rows.validation), ("test", rows.test)):
        if judged is None:
            continue
        found = outputs(judged)
        named: list[dict[str, float]] = [{} for _ in heads]
        if metric is not None:
            found = list(found)
            named = [{metric: score(metric, task, judged.targets, each)} for each in found]
        measured = measure_heads(split_name, task, judged.targets, found)
        for head, metrics, scores_found in zip(heads, measured, named, strict=True):
            metrics.scores.update(scores_found)
            head.metrics = metrics
            if split_name == "validation":
                head.validation_metrics = metrics


def check_origin(split: Split, features: Features) -> None:
    """Raise :class:`UsageError`, :class:`HeadError` or :class:`StaleError` where the features are not those of the split."""
    if split.cut != features.recipe.cut:
        raise UsageError(f"the features are those at {features.recipe.cut!r}, but the split is cut at {split.cut!r}.")
    if len(features) == 0:
        raise HeadError("there are no rows to train on.")
    check_same_prefix(features, split.cut, split.structure, split.weights)


def pool_of(features: Features, head: str, pool: str) -> str:
    """Return how a head on pooled features makes vectors: as stored ones were made."""
    stored = features.recipe.pool
    if stored is None:
        return pool
    if head == "suffix":
        raise HeadError(
            f"the features at {features.recipe.cut!r} were pooled ({stored}) when they were stored, and the suffix needs them "
            "whole: use --head linear, or extract without --pool."
        )
    if pool not in ("auto", stored):
        raise UsageError(f"pool {pool!r} was asked for, but the stored features were pooled by {stored!r}.")
    return stored


def _refuse_unmasked(split: Split, features: Features) -> None:
    """Raise :class:`HeadError` where what lies behind the cut could take padding for content."""
    cut = features.recipe.cut
    for spec in features.frontier:
        computed = spec.ragged and spec.name not in split.side_inputs and spec.name != cut
        if computed and (not spec.value_shape or "float" not in spec.dtype):
            raise HeadError(
                f"{spec.name!r}, which the model computes before the cut {cut!r} and needs behind it, varies in length, and "
                "what it should hold for padding is not known: give the model a mask of its own, or use --head linear."
            )
    if not any("mask" in name for name in split.side_inputs):
        raise HeadError(
            f"the samples of {features.dataset!r} vary in length, and no mask crosses the cut {cut!r}: what lies behind it "
            "would take padding for content. Give the model its mask with the inputs (a transform that returns it), or use "
            "--head linear, or pooled features."
        )
