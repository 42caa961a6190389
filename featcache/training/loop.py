"""The training loop over cached features."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..codecs import MASK
from ..errors import HeadError, UsageError
from ..features import FeatureLoader, Features
from ..machine import seeded
from ..progress import ProgressCallback, ProgressEvent
from .losses import OwnLoss, TaskLoss, plain_loss
from .metrics import EpochRecord
from .options import TrainOptions
from .rows import Division
from .scorers import score
from .steps import Steps, default_learning_rate
from .tasks import Task, output_tensor

__all__ = ["evaluating", "fit", "scores"]

BATCH = 256  # rows that are judged at once


def fit(
    module: nn.Module,
    train_mode: Callable[[], object],
    rows: Division,
    options: TrainOptions,
    task: Task,
    device: torch.device,
    progress: ProgressCallback,
    named: nn.Module | None = None,
) -> list[EpochRecord]:
    """Train ``module`` in place on the training rows, and return one record per epoch.

    The best weights by validation loss are kept, or by the scorer that the options name. A loss that the options give takes
    the place of the task's, for validation too, there in batches of the size that is trained with.

    The order of rows is ``features.loader(batch_size, seed=seed).order(epoch)``; torch's generators are seeded once before
    the first step and used by nothing but the module. So the usual loop over the whole network, seeded the same and
    given rows in this order, takes the same steps. The validation loss is the plain one, without weights and smoothing;
    without validation rows the last weights are kept. Where the options ask for an average of the weights, that is judged and
    kept. They call parameters as ``named`` does, by default as ``module``.
    """
    features, validation, weights = rows.train, rows.validation, rows.weights
    trained = next((parameter for parameter in module.parameters() if parameter.requires_grad), None)
    if trained is None:
        raise HeadError("no parameter after the cut is trained: choose an earlier cut, or use --head linear.")
    if options.patience is not None and validation is None:
        raise UsageError("patience counts epochs by validation loss, but there are no validation rows: set validation.")
    options = replace(options, learning_rate=options.learning_rate or default_learning_rate(module))
    loader = features.loader(options.batch_size, seed=options.seed, device=str(device), world_size=1)
    steps = Steps(module, named or module, options, len(loader))
    loss_of: TaskLoss | OwnLoss
    if options.loss is None:
        loss_of = TaskLoss(task, options, features.targets).to(device, trained.dtype)
    else:
        loss_of = OwnLoss(options.loss, task, device)
        if weights is not None:
            raise UsageError("sample_weights do not go with a loss of your own: weigh the samples in it.")
    of_rows = None if weights is None else torch.from_numpy(weights)
    at_once = BATCH if options.loss is None else options.batch_size  # another loss may be one of the whole batch
    judge = None if validation is None else validation.loader(at_once, shuffle=False, device=str(device), world_size=1)
    history: list[EpochRecord] = []
    best: tuple[float, int, dict[str, torch.Tensor]] | None = None
    if options.metric is not None and judge is None:
        raise UsageError("metric chooses the best epoch by validation rows, but there are none: set validation.")
    with seeded(options.seed, device), torch.enable_grad():
        for epoch in range(options.epochs):
            started_s = time.perf_counter()
            train_mode()
            total = _train_epoch(module, loader, loss_of, steps, of_rows)
            train_loss = float(total) / len(features)
            if not math.isfinite(train_loss):
                raise HeadError(
                    f"the loss became {train_loss} in epoch {epoch + 1}: use a smaller --learning-rate than "
                    f"{options.learning_rate:g}."
                )
            average = steps.average
            judged = (
                average.in_place()
                if average is not None and average.after_epoch(epoch)
                else nullcontext(average is None)
            )
            with judged as final:  # whether these are weights that may be kept
                found = _Judged() if judge is None else _judge(module, judge, loss_of, options.metric)
                worth = found.loss if found.score is None else -found.score
                if worth is not None and final and (best is None or worth < best[0]):
                    best = (worth, epoch, {name: value.clone() for name, value in module.state_dict().items()})
            if options.loss is not None and not math.isfinite(found.loss or 0.0):
                raise HeadError(
                    f"the loss of the validation rows became {found.loss} in epoch {epoch + 1}: mend the loss."
                )
            taken_s = time.perf_counter() - started_s
            history.append(
                EpochRecord(epoch + 1, train_loss, found.loss, found.accuracy, steps.rate, taken_s, found.score)
            )
            progress(ProgressEvent("train", epoch + 1, options.epochs, "epochs", found.describe(options.metric)))
            if best is not None and options.patience is not None and epoch - best[1] >= options.patience:
                break
    if best is not None:
        module.load_state_dict(best[2])
    elif steps.average is not None:
        steps.average.put()
    return history


def _train_epoch(
    module: nn.Module,
    loader: FeatureLoader,
    loss_of: TaskLoss | OwnLoss,
    steps: Steps,
    weights: torch.Tensor | None,
) -> torch.Tensor:
    """Take the steps of one epoch and return the sum of the rows' losses, on the device so that no step waits for it."""
    total = torch.zeros((), device=loader.device, dtype=torch.float32 if loader.device.type == "mps" else torch.float64)
    order, done = loader.order(loader.epoch), 0
    for frontier, targets in loader:
        rows = order[done : done + len(targets)]
        done += len(targets)
        with steps.precision(loader.device):
            try:
                output = module(frontier)
            except ValueError as error:
                if len(targets) == 1 and "more than 1 value per channel" in str(error):
                    raise HeadError(
                        f"the last batch of each epoch has one row ({len(loader.features)} rows in batches of "
                        f"{loader.batch_size}), and BatchNorm after the cut needs two: use another --train-batch-size."
                    ) from error
                raise
            loss_of.task.check_own(targets, _own_steps(frontier))
            if isinstance(loss_of, OwnLoss):
                loss = loss_of(output, targets, frontier)
            else:
                scores = output_tensor(output)
                loss = loss_of(
                    scores, targets, None if weights is None else weights[rows].to(scores.device, scores.dtype)
                )
        steps.take(loss)
        total += loss.detach() * len(targets)
    return total


def scores(module: nn.Module, features: Features, device: torch.device, task: Task) -> torch.Tensor:
    """Return what the task keeps of the module's output for every row in evaluation mode, in the order of the rows."""
    with torch.no_grad(), evaluating(module):
        loader = features.loader(BATCH, shuffle=False, device=str(device), world_size=1)
        parts = [task.kept(output_tensor(module(frontier)), _own_steps(frontier)) for frontier, _ in loader]
    return task.joined(parts)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode for a while; each part's mode comes back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@dataclass(frozen=True)
class _Judged:
    """What the validation rows say of an epoch."""

    loss: float | None = None
    accuracy: float | None = None
    score: float | None = None

    def describe(self, metric: str | None) -> str:
        """Return the figure to show beside the progress bar."""
        if self.score is not None:
            return f"validation {metric} {self.score:.4f}"
        if self.accuracy is not None:
            return f"validation accuracy {100 * self.accuracy:.1f} %"
        return "" if self.loss is None else f"validation loss {self.loss:.4g}"


def _judge(module: nn.Module, loader: FeatureLoader, loss_of: TaskLoss | OwnLoss, metric: str | None) -> _Judged:
    module.eval()
    task = loss_of.task
    loss = correct = count = 0.0
    parts: list[torch.Tensor] = []
    with torch.no_grad():
        for frontier, targets in loader:
            found = module(frontier)
            count += float(task.counted(targets).sum()) if task.kind == "token" else len(targets)
            if isinstance(loss_of, OwnLoss):
                loss += float(loss_of(found, targets, frontier)) * len(targets) / len(loader.features)
            if task.kind == "output":
                continue
            output = output_tensor(found)
            if not isinstance(loss_of, OwnLoss):
                loss += float(plain_loss(task, output, targets))
            correct += float(_right(task, output, targets))
            if metric is not None:
                parts.append(task.kept(output, _own_steps(frontier)))
    count = max(count, 1.0)  # no token may count
    accuracy = None if task.kind in ("regression", "output") else correct / count
    scored = None if metric is None else score(metric, task, loader.features.targets, task.joined(parts))
    return _Judged(loss if isinstance(loss_of, OwnLoss) else loss / count, accuracy, scored)


def _right(task: Task, output: torch.Tensor, targets: torch.Tensor) -> Any:
    """Return how many samples, or tokens that count, are right: of several labels and of pixels the sum of samples' shares."""
    if task.kind == "regression":
        return 0.0
    if task.kind == "multi_label":
        return ((output > 0) == (targets > 0)).float().mean(dim=1).sum()
    output, paired = task.paired(output, targets)
    right = output.argmax(1) == paired
    if not task.places:
        return right.sum()
    counted = task.counted(paired)
    if task.kind == "token":
        return (right & counted).sum()
    counted = counted.flatten(1).float()
    return ((right.flatten(1) * counted).sum(1) / counted.sum(1).clamp(min=1)).sum()


def _own_steps(frontier: Any) -> torch.Tensor | None:
    """Return which steps are a sample's own where others are padding."""
    return frontier.get(MASK) if isinstance(frontier, Mapping) else None
