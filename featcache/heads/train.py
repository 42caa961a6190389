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
from ..splitting import Split, as_now, padding_difference
from ..tables import Records
from ..training import (
    Division,
    Task,
    TrainOptions,
    check_scorer,
    default_learning_rate,
    divide,
    find_task,
    measure_heads,
    score,
)
from .all_layers import ALL_LAYERS, JoinedSplit, checked_splits, joined_features
from .kinds import find_kind
from .trained import TrainedHead, check_same_prefix, outputs_of

__all__ = ["check_origin", "fit_head", "pool_of", "scored", "train_head"]

PADDING_TOLERANCE = 1e-4  # kernels round in another way for another length


def train_head(
    split: Split | Sequence[Split],
    features: Features | Mapping[str, Features],
    *,
    head: str = "suffix",
    epochs: int | None = None,
    batch_size: int | None = None,
    optimizer: str | None = None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    lr_schedule: str | None = None,
    warmup_epochs: float | None = None,
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
    ignore_index: int | None = None,
    loss: Callable[..., torch.Tensor] | None = None,
    learning_rates: Mapping[str, float] | None = None,
    clip_norm: float | None = None,
    average: str | None = None,
    mixed_precision: bool = False,
    train_splits: Sequence[str] | None = None,
    validation_splits: Sequence[str] | None = None,
    test_splits: Sequence[str] | None = None,
    progress: ProgressCallback = silent,
) -> TrainedHead:
    """Train a head on cached features.

    The caller's model is copied and never changed. The best weights by validation loss are kept, or the last ones if no
    rows are validated by.

    Parameters
    ----------
    split : Split or sequence of Split
        The network, cut where the features were taken. Several for ``"all-layers"``, from one call of
        ``featcache.split``.
    features : Features or mapping of str to Features
        The cached features of the samples, with their targets. For ``"all-layers"`` those of each cut, as
        ``featcache.extract`` returns them.
    head : str, default "suffix"
        What is trained: ``"suffix"`` (everything after the cut, with a new last layer for the data's classes),
        ``"linear"`` (one linear layer on pooled features), ``"all-layers"`` (one linear layer on the pooled features of
        several cuts together) or ``"sklearn:NAME"`` (a scikit-learn estimator on pooled features, with
        ``parameters``).
    epochs : int, optional
        The number of epochs, by default 20.
    batch_size : int, optional
        The rows per training step, by default 64.
    optimizer : str, optional
        ``"adamw"``, ``"adam"`` or ``"sgd"`` (with momentum 0.9); or ``"lbfgs"``, which solves one linear layer to
        convergence and takes no steps. By default ``"lbfgs"`` where one linear layer alone is trained, for a class, labels
        or values of samples, on up to 4·10⁹ rows × dimensions × outputs that fit into memory, and no option of steps is
        given (epochs, a batch size, a learning rate or its schedule, a loss, patience, clipping, an average or mixed
        precision); else ``"adamw"``.
    learning_rate : float, optional
        The peak learning rate. By default 1e-2 where one linear layer alone is trained, else 1e-3.
    weight_decay : float, optional
        The weight decay of the optimizer, by default 0.01. Of a solved head the strength of the penalty, for features of
        variance 1; by default the best by validation, or by cross-validation if no rows are validated by.
    lr_schedule : str, optional
        ``"cosine"``, the default, or ``"constant"``. The schedule steps after every batch.
    warmup_epochs : float, optional
        The epochs of linear warm-up before the schedule, at most ``epochs``. By default there is none.
    label_smoothing : float, default 0.0
        The label smoothing of the loss, from 0 up to 1. It applies to class targets only.
    class_weights : str or sequence of float, optional
        One loss weight per class, or ``"balanced"``.
    validation : float, default 0.2
        The share of the training rows that is kept to validate by. It applies where no rows are in a validation split.
        0 keeps none.
    patience : int, optional
        Stop after this many epochs without a better validation loss, or without a better ``metric`` if one is given.
    seed : int, default 0
        The seed of the new layer, of the kept rows, of the order of rows and of torch's generators.
    device : str, optional
        The device to train on, such as ``"cpu"`` or ``"cuda"``. By default the best one there is.
    trainable : sequence of str, optional
        The names of the modules or parameters after the cut to train, or patterns of such names, as fnmatch has them:
        ``"encoder.layers.*"``. What no name chooses stays as it is, and modules of which nothing is chosen are in
        evaluation mode. By default all are trained.
    fold : bool, default True
        Run the layers that training never changes once, and not in every epoch. A linear layer after such layers is not
        solved without it.
    pool : str, default "auto"
        How the heads on pooled features make vectors: ``"auto"``, ``"channels_first"``, ``"channels_last"``,
        ``"first"`` or ``"flatten"``. See ``featcache.codecs.pooling.Pool``.
    parameters : mapping of str to Any, optional
        The parameters of a scikit-learn estimator.
    task : str, optional
        ``"single_label"``, ``"multi_label"``, ``"regression"``, ``"dense"``, ``"token"`` or ``"output"``. By default it
        follows from the targets: a whole number is a class, a row of 0 and 1 several labels, another row of whole
        numbers the classes of tokens, a float or a row of floats values, a (height, width) map of whole numbers dense
        targets. ``"output"`` takes any targets, keeps the network's last layer and needs ``loss``.
    metric : str, optional
        The name of a scikit-learn scorer. It chooses the best epoch instead of the validation loss.
    sample_weights : sequence of float or numpy.ndarray, shape (rows,), optional
        One number for each row of ``features``, by which the row's loss is multiplied.
    ignore_index : int, optional
        The value of pixels or tokens that do not count. By default 255 for pixels and -100 for tokens.
    loss : callable, optional
        A loss in place of the task's, for validation too. It takes what the network returns and the targets of a batch,
        and returns a tensor of one number. If it has a third parameter without a default, it is also given what crosses
        the cut. It is not saved with the head.
    learning_rates : mapping of str to float, optional
        The peak learning rate by name or pattern, as ``trainable`` has them. The first one that fits a parameter
        counts; the others have ``learning_rate``.
    clip_norm : float, optional
        The largest norm of all gradients together, to which ``torch.nn.utils.clip_grad_norm_`` scales them down.
    average : str, optional
        The average of the weights that is judged and kept, by ``torch.optim.swa_utils``: ``"ema"`` or ``"ema:DECAY"``
        moves after every step with a decay of 0.999 or another, ``"swa"`` is the mean over the ends of the epochs in
        the second half. The statistics of BatchNorm layers are averaged alike.
    mixed_precision : bool, default False
        Whether the training steps run under ``torch.autocast`` to bfloat16, which is faster on a GPU that has it. Weights
        stay float32, and so does validation.
    train_splits : sequence of str, optional
        The names of the splits to train on, and no others; ``""`` stands for rows without a split. By default those
        called ``train`` or ``training``, and rows without a split.
    validation_splits : sequence of str, optional
        The names of the splits to validate by. By default those called ``val``, ``valid``, ``validation`` or ``dev``.
    test_splits : sequence of str, optional
        The names of the splits to test on. By default those called ``test`` or ``testing``.
    progress : callable, optional
        Called with a ``ProgressEvent`` after each epoch.

    Returns
    -------
    TrainedHead
        The trained head with its network, history and metrics.

    Raises
    ------
    UsageError
        If an option is out of range or does not fit the head or the task, or the name of a split does not say what its
        rows are for and no option does.
    HeadError
        If there are too few rows, the loss diverges, or the head cannot be trained on these features.
    DataError
        If the targets do not fit the task.
    StaleError
        If the features belong to another network.

    Notes
    -----
    From a float32 cache, training by steps equals the usual loop over the whole network, bit for bit on one CPU thread,
    if that loop does the same in the same order:

    1. Start from ``featcache.heads.new_network(split, classes, seed).model``.
    2. Put everything at or before the cut into evaluation mode without gradients, and the rest into training mode,
       again at the start of each epoch.
    3. Call ``torch.manual_seed(seed)`` once before the first step, and draw from torch's generator in the module alone.
    4. Take the rows of ``train_rows.loader(batch_size, seed=seed).order(epoch)``, including the last short batch.
    5. Step the schedule after every batch.

    Rows that were computed in batches of another size can differ in their last bits.

    The optimizer is AdamW of Loshchilov and Hutter (2019), and the cosine schedule is that of Loshchilov and Hutter
    (2017).

    Examples
    --------
    >>> import torch
    >>> import featcache
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 10))
    >>> samples = [(torch.randn(8), number % 3) for number in range(30)]
    >>> cut = featcache.split(network, "1", (torch.zeros(2, 8),))
    >>> features = featcache.extract(cut, samples, "features")
    >>> head = featcache.train_head(cut, features, epochs=2, device="cpu")
    >>> head.classes
    ['0', '1', '2']
    >>> head.model(torch.zeros(5, 8)).shape
    torch.Size([5, 3])
    """
    steps: dict[str, Any] = {
        "epochs": epochs, "batch_size": batch_size, "lr_schedule": lr_schedule, "warmup_epochs": warmup_epochs
    }  # fmt: skip
    steps = {name: value for name, value in steps.items() if value is not None}
    if steps and optimizer == "lbfgs":
        raise UsageError(f"lbfgs takes no steps that {next(iter(steps))} could belong to: use --optimizer adamw.")
    if steps and optimizer is None and not head.startswith("sklearn:"):
        optimizer = "adamw"
    options = TrainOptions(
        head=head, optimizer=optimizer, learning_rate=learning_rate, weight_decay=weight_decay, **steps,
        label_smoothing=label_smoothing, class_weights=class_weights, validation=validation, patience=patience,
        seed=seed, trainable=None if trainable is None else tuple(trainable), fold=fold,
        parameters=dict(parameters or {}), pool=pool, task=task, metric=metric, ignore_index=ignore_index,
        loss=loss, learning_rates=learning_rates, clip_norm=clip_norm, average=average,
        mixed_precision=mixed_precision,
        train_splits=train_splits, validation_splits=validation_splits, test_splits=test_splits,
    )  # fmt: skip
    where = pick_device(device)
    if head == ALL_LAYERS:
        splits = checked_splits(split)
        joined = joined_features(features, [each.cut for each in splits], pool)
        for each in splits:
            check_origin(each, features[each.cut])  # type: ignore[index]
        one = JoinedSplit(splits, str(joined.recipe.pool))
        return fit_head(one, joined, options, where, sample_weights=sample_weights, progress=progress)
    if isinstance(features, Mapping):
        raise UsageError(
            f"head={head!r} is trained on the features of one cut: give features[{next(iter(features), 'cut')!r}] and its "
            "split, or use head='all-layers'."
        )
    (split,) = as_now([split])  # type: ignore[list-item]
    return fit_head(split, features, options, where, sample_weights=sample_weights, progress=progress)


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
    """Return the head that ``train_head`` gives for these options, of a split that was just recorded.

    ``start`` is the state of the whole network that a suffix is trained on from; ``division_seed`` keeps the rows that
    are validated by apart from ``options.seed``. Both are what stages of a schedule need.
    """
    started_s = time.perf_counter()
    kind = find_kind(options.head)
    if options.metric is not None:
        check_scorer(options.metric)
    check_origin(split, features)
    options = replace(options, pool=pool_of(features, options.head, options.pool))
    task = find_task(features, options.task, options.ignore_index)
    if options.head == "suffix" and features.ragged:
        _refuse_unmasked(split, features, task)
        if options.loss is not None:
            _refuse_padded_labels(features)
    if task.kind == "output" and (options.loss is None or options.metric is not None):
        raise UsageError("task='output' has neither a loss nor a metric of its own: give loss, and no metric.")
    rows = divide(features, options, task, seed=division_seed, sample_weights=sample_weights)
    # Tensors made in a caller's inference mode could not be trained, and its autocast would round.
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        built = kind.build(split, task, options, device)
        if start is not None:
            built.model.load_state_dict(start)
            check_same_prefix(features, split.cut, split.structure, built.split.weights)
        history = kind.train(built, rows, options, task, progress)
    built.model.eval()
    built.layers.eval()
    if history and options.learning_rate is None:
        options = replace(options, learning_rate=default_learning_rate(built.layers))
    if built.strength is not None:
        options = replace(options, optimizer="lbfgs", weight_decay=built.strength)
    elif history:
        options = options.for_steps()
    options = replace(options, loss=None)  # not part of the head, which predicts without it
    trained = TrainedHead(built, task, options, features.recipe, features.dataset, features.snapshot, Records(history))
    trained.rows = rows.used
    if task.kind != "output":
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
    """Raise ``UsageError``, ``HeadError`` or ``StaleError`` where the features are not those of the split."""
    if split.cut != features.recipe.cut:
        raise UsageError(f"the features are those at {features.recipe.cut!r}, but the split is cut at {split.cut!r}.")
    if len(features) == 0:
        raise HeadError("there are no rows to train on.")
    if split.other_length is None and any(spec.ragged for spec in features.recipe.frontier):
        raise UsageError(
            "the samples of these features vary in length, but the split was recorded at one length: give featcache.split a "
            "batch that is padded to another one, too (other_length=…)."
        )
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


def _refuse_padded_labels(features: Features) -> None:
    """Raise ``HeadError`` where labels cross the cut, whose padding the network's own loss would take for a class."""
    padded = [spec.name for spec in features.frontier if spec.ragged and "label" in spec.name]
    if padded:
        raise HeadError(
            f"{padded[0]!r}, which crosses the cut, varies in length and is padded with 0: the network's own loss would count "
            "that as a class. Give the labels as targets, not as inputs, and leave loss out."
        )


def _refuse_unmasked(split: Split, features: Features, task: Task) -> None:
    """Raise ``HeadError`` where what comes after the cut could take padding for content."""
    cut = features.recipe.cut
    for spec in features.frontier:
        computed = spec.ragged and spec.name not in split.side_inputs and spec.name != cut
        if computed and (not spec.value_shape or "float" not in spec.dtype):
            raise HeadError(
                f"{spec.name!r}, which the model computes before the cut {cut!r} and needs after it, varies in length, and "
                "what it should hold for padding is not known: give the model a mask of its own, or use --head linear."
            )
    # Of tokens, what counts are those of the sample itself: whether padding reaches them is measured below.
    if task.kind != "token" and not any("mask" in name or "len" in name for name in split.side_inputs):
        raise HeadError(
            f"the samples of {features.dataset!r} vary in length, and no mask and no lengths cross the cut {cut!r} by "
            "their names: what comes after it would take padding for content. Give the model its mask with the inputs (a "
            "transform that returns a dict with it), or use --head linear, or pooled features."
        )
    if padding_difference(split) > PADDING_TOLERANCE:
        raise HeadError(
            f"after the cut {cut!r} the network looks at padded places (a convolution without a mask, perhaps), where rows "
            "from the cache hold zeros and the network its own values. Choose a later cut, use --head linear, or pooled features."
        )
