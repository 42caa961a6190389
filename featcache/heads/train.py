"""The training loop over cached features."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import HeadError, UsageError
from ..features import FeatureLoader, Features
from ..progress import ProgressCallback, ProgressEvent
from ..seeding import seeded
from .metrics import EpochRecord
from .options import TrainOptions

__all__ = ["class_weight_tensor", "default_learning_rate", "fit", "make_optimizer", "make_schedule", "scores"]


def fit(
    module: nn.Module,
    train_mode: Callable[[], object],
    features: Features,
    validation: Features | None,
    options: TrainOptions,
    classes: int,
    device: torch.device,
    progress: ProgressCallback,
) -> list[EpochRecord]:
    """Train ``module`` in place and return one record an epoch; the best weights by validation loss are kept.

    The order of rows is ``features.loader(batch_size, seed=seed).order(epoch)``; torch's generators are seeded once before
    the first step and used by nothing but the module. So the usual loop over the whole network, seeded the same and
    given rows in this order, takes the same steps. The validation loss is the plain cross entropy, without class weights
    and smoothing; without validation rows the last weights are kept.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not parameters:
        raise HeadError("no parameter behind the cut is trained: choose an earlier cut, or use --head linear.")
    if options.patience is not None and validation is None:
        raise UsageError("patience counts epochs by validation loss, but there are no validation rows: set validation.")
    options = replace(options, learning_rate=options.learning_rate or default_learning_rate(module))
    optimizer = make_optimizer(parameters, options)
    loader = features.loader(options.batch_size, seed=options.seed, device=str(device))
    schedule = make_schedule(optimizer, options, len(loader))
    weights = class_weight_tensor(options, features.targets, classes)
    loss_of = nn.CrossEntropyLoss(weight=weights, label_smoothing=options.label_smoothing).to(
        device, parameters[0].dtype
    )
    judge = None if validation is None else validation.loader(256, shuffle=False, device=str(device))
    history: list[EpochRecord] = []
    best: tuple[float, int, dict[str, torch.Tensor]] | None = None
    with seeded(options.seed, device), torch.enable_grad():
        for epoch in range(options.epochs):
            started_s = time.perf_counter()
            train_mode()
            total = _train_epoch(module, loader, loss_of, optimizer, schedule, options)
            train_loss = float(total) / len(features)
            if not math.isfinite(train_loss):
                raise HeadError(
                    f"the loss became {train_loss} in epoch {epoch + 1}: use a smaller --learning-rate than "
                    f"{options.learning_rate:g}."
                )
            loss_now, accuracy = (None, None) if judge is None else _judge(module, judge)
            rate = float(optimizer.param_groups[0]["lr"])
            history.append(
                EpochRecord(epoch + 1, train_loss, loss_now, accuracy, rate, time.perf_counter() - started_s)
            )
            words = "" if accuracy is None else f"validation accuracy {100 * accuracy:.1f} %"
            progress(ProgressEvent("train", epoch + 1, options.epochs, "epochs", words))
            if loss_now is not None and (best is None or loss_now < best[0]):
                best = (loss_now, epoch, {name: value.clone() for name, value in module.state_dict().items()})
            if best is not None and options.patience is not None and epoch - best[1] >= options.patience:
                break
    if best is not None:
        module.load_state_dict(best[2])
    return history


def _train_epoch(
    module: nn.Module,
    loader: FeatureLoader,
    loss_of: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    options: TrainOptions,
) -> torch.Tensor:
    """Take the steps of one epoch and return the sum of the rows' losses, on the device so that no step waits for it."""
    total = torch.zeros((), device=loader.device, dtype=torch.float32 if loader.device.type == "mps" else torch.float64)
    for frontier, targets in loader:
        try:
            output = module(frontier)
        except ValueError as error:
            if len(targets) == 1 and "more than 1 value per channel" in str(error):
                raise HeadError(
                    f"the last batch of each epoch has one row ({len(loader.features)} rows in batches of "
                    f"{options.batch_size}), and BatchNorm behind the cut needs two: use another --train-batch-size."
                ) from error
            raise
        loss = loss_of(output, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.detach() * len(targets)
    return total


def default_learning_rate(module: nn.Module) -> float:
    """Return 1e-2 where one linear layer alone is trained, which is a convex problem, and 1e-3 for deeper suffixes."""
    owners = [part for part in module.modules() if any(each.requires_grad for each in part.parameters(recurse=False))]
    return 1e-2 if len(owners) == 1 and isinstance(owners[0], nn.Linear) else 1e-3


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
        if options.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def class_weight_tensor(options: TrainOptions, targets: Any, classes: int) -> torch.Tensor | None:
    """Return the loss weight of each class, None for equal ones; ``balanced`` is inverse to the number of rows."""
    given = options.class_weights
    if given is None:
        return None
    if isinstance(given, str):
        counts = np.bincount(targets, minlength=classes)
        weights = len(targets) / (np.maximum(counts, 1) * max(1, (counts > 0).sum()))
        return torch.tensor(weights, dtype=torch.float32)
    if len(given) != classes or not all(0 <= weight < math.inf for weight in given) or not any(given):
        raise UsageError(
            f"class_weights must be {classes} numbers from 0 on, one a class and not all 0, not {list(given)}."
        )
    return torch.tensor(list(given), dtype=torch.float32)


def scores(module: nn.Module, features: Features, device: torch.device) -> torch.Tensor:
    """Return the module's output for every row in evaluation mode, on the CPU, in the order of the rows."""
    was_training = [part.training for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            parts = [module(frontier).cpu() for frontier, _ in features.loader(256, shuffle=False, device=str(device))]
    finally:
        for part, training in zip(module.modules(), was_training, strict=True):
            part.training = training
    return torch.cat(parts)


def _judge(module: nn.Module, loader: FeatureLoader) -> tuple[float, float]:
    module.eval()
    loss = correct = count = 0.0
    with torch.no_grad():
        for frontier, targets in loader:
            output = module(frontier)
            loss += float(nn.functional.cross_entropy(output.float(), targets, reduction="sum"))
            correct += float((output.argmax(1) == targets).sum())
            count += len(targets)
    return loss / count, correct / count
