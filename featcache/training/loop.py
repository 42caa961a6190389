"""The training loop over cached features."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..errors import HeadError, UsageError, one_line
from ..features import FeatureLoader, Features
from ..machine import is_out_of_memory, seeded
from ..progress import ProgressCallback, ProgressEvent
from .losses import TaskLoss, plain_loss
from .metrics import EpochRecord
from .options import TrainOptions
from .rows import Division
from .scorers import score
from .tasks import Task, output_tensor

__all__ = ["default_learning_rate", "fit", "make_optimizer", "make_schedule", "scores"]

BATCH = 256  # rows that are judged at once


def fit(
    module: nn.Module,
    train_mode: Callable[[], object],
    rows: Division,
    options: TrainOptions,
    task: Task,
    device: torch.device,
    progress: ProgressCallback,
) -> list[EpochRecord]:
    """Train ``module`` in place on the training rows, and return one record per epoch.

    The best weights by validation loss are kept, or by the scorer that the options name.

    The order of rows is ``features.loader(batch_size, seed=seed).order(epoch)``; torch's generators are seeded once before
    the first step and used by nothing but the module. So the usual loop over the whole network, seeded the same and
    given rows in this order, takes the same steps. The validation loss is the plain one, without weights and smoothing;
    without validation rows the last weights are kept.
    """
    features, validation, weights = rows.train, rows.validation, rows.weights
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not parameters:
        raise HeadError("no parameter behind the cut is trained: choose an earlier cut, or use --head linear.")
    if options.patience is not None and validation is None:
        raise UsageError("patience counts epochs by validation loss, but there are no validation rows: set validation.")
    options = replace(options, learning_rate=options.learning_rate or default_learning_rate(module))
    optimizer = make_optimizer(parameters, options)
    loader = features.loader(options.batch_size, seed=options.seed, device=str(device), world_size=1)
    schedule = make_schedule(optimizer, options, len(loader))
    loss_of = TaskLoss(task, options, features.targets).to(device, parameters[0].dtype)
    of_rows = None if weights is None else torch.from_numpy(weights)
    judge = None if validation is None else validation.loader(BATCH, shuffle=False, device=str(device), world_size=1)
    history: list[EpochRecord] = []
    best: tuple[float, int, dict[str, torch.Tensor]] | None = None
    if options.metric is not None and judge is None:
        raise UsageError("metric chooses the best epoch by validation rows, but there are none: set validation.")
    with seeded(options.seed, device), torch.enable_grad():
        for epoch in range(options.epochs):
            started_s = time.perf_counter()
            train_mode()
            total = _train_epoch(module, loader, loss_of, optimizer, schedule, options, of_rows)
            train_loss = float(total) / len(features)
            if not math.isfinite(train_loss):
                raise HeadError(
                    f"the loss became {train_loss} in epoch {epoch + 1}: use a smaller --learning-rate than "
                    f"{options.learning_rate:g}."
                )
            found = _Judged() if judge is None else _judge(module, judge, task, options.metric)
            rate = float(optimizer.param_groups[0]["lr"])
            taken_s = time.perf_counter() - started_s
            history.append(EpochRecord(epoch + 1, train_loss, found.loss, found.accuracy, rate, taken_s, found.score))
            progress(ProgressEvent("train", epoch + 1, options.epochs, "epochs", found.describe(options.metric)))
            worth = found.loss if found.score is None else -found.score
            if worth is not None and (best is None or worth < best[0]):
                best = (worth, epoch, {name: value.clone() for name, value in module.state_dict().items()})
            if best is not None and options.patience is not None and epoch - best[1] >= options.patience:
                break
    if best is not None:
        module.load_state_dict(best[2])
    return history


def _train_epoch(
    module: nn.Module,
    loader: FeatureLoader,
    loss_of: TaskLoss,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    options: TrainOptions,
    weights: torch.Tensor | None,
) -> torch.Tensor:
    """Take the steps of one epoch and return the sum of the rows' losses, on the device so that no step waits for it."""
    total = torch.zeros((), device=loader.device, dtype=torch.float32 if loader.device.type == "mps" else torch.float64)
    order, done = loader.order(loader.epoch), 0
    for frontier, targets in loader:
        rows = order[done : done + len(targets)]
        done += len(targets)
        try:
            output = output_tensor(module(frontier))
        except ValueError as error:
            if len(targets) == 1 and "more than 1 value per channel" in str(error):
                raise HeadError(
                    f"the last batch of each epoch has one row ({len(loader.features)} rows in batches of "
                    f"{options.batch_size}), and BatchNorm behind the cut needs two: use another --train-batch-size."
                ) from error
            raise
        loss = loss_of(output, targets, None if weights is None else weights[rows].to(output.device, output.dtype))
        optimizer.zero_grad(set_to_none=True)
        try:
            loss.backward()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise HeadError(f"a training step of the network behind the cut fails: {one_line(error, 200)}.") from error
        optimizer.step()
        schedule.step()
        total += loss.detach() * len(targets)
    return total


def default_learning_rate(module: nn.Module) -> float:
    """Return 1e-2 where one linear layer alone is trained, which is a convex problem, and 1e-3 for deeper suffixes."""
    owners = [part for part in module.modules() if any(each.requires_grad for each in part.parameters(recurse=False))]
    pointwise = len(owners) == 1 and isinstance(owners[0], nn.Conv2d) and owners[0].kernel_size == (1, 1)
    return 1e-2 if pointwise or (len(owners) == 1 and isinstance(owners[0], nn.Linear)) else 1e-3


def make_optimizer(parameters: list[nn.Parameter], options: TrainOptions) -> torch.optim.Optimizer:
    """Return the optimizer that the options name: AdamW (Loshchilov and Hutter, 2019), Adam, or SGD with momentum 0.9."""
    rate, decay = options.learning_rate or 1e-3, options.weight_decay
    if options.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=0.9)
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr=rate, weight_decay=decay)


def make_schedule(
    optimizer: torch.optim.Optimizer, options: TrainOptions, steps_an_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Return the schedule, stepped after every batch: linear warm-up, then constant or cosine (Loshchilov and Hutter, 2017)."""
    total = options.epochs * steps_an_epoch
    warmup = round(options.warmup_epochs * steps_an_epoch)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if options.lr_schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def scores(module: nn.Module, features: Features, device: torch.device, task: Task) -> torch.Tensor:
    """Return what the task keeps of the module's output for every row in evaluation mode, in the order of the rows."""
    was_training = [part.training for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            loader = features.loader(BATCH, shuffle=False, device=str(device), world_size=1)
            parts = [task.kept(output_tensor(module(frontier))) for frontier, _ in loader]
    finally:
        for part, training in zip(module.modules(), was_training, strict=True):
            part.training = training
    return torch.cat(parts)


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


def _judge(module: nn.Module, loader: FeatureLoader, task: Task, metric: str | None) -> _Judged:
    module.eval()
    loss = correct = count = 0.0
    parts: list[torch.Tensor] = []
    with torch.no_grad():
        for frontier, targets in loader:
            output = output_tensor(module(frontier))
            loss += float(plain_loss(task, output, targets))
            if task.kind == "multi_label":
                correct += float(((output > 0) == (targets > 0)).float().mean(dim=1).sum())
            elif task.classifies:
                right = (output.argmax(1) == targets).flatten(1 if task.kind == "dense" else 0).float()
                correct += float(_share_of_labelled(task, right, targets) if task.kind == "dense" else right.sum())
            count += len(targets)
            if metric is not None:
                parts.append(task.kept(output))
    accuracy = None if task.kind == "regression" else correct / count
    scored = None if metric is None else score(metric, task, loader.features.targets, torch.cat(parts))
    return _Judged(loss / count, accuracy, scored)


def _share_of_labelled(task: Task, right: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the sum over samples of the share of labelled pixels that are right."""
    counted = (targets.long() != task.ignore_index).flatten(1).float()
    return ((right * counted).sum(1) / counted.sum(1).clamp(min=1)).sum()
