"""The loss of each task, as torch's own modules compute it."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ..errors import HeadError, UsageError
from .options import TrainOptions
from .tasks import Task, output_tensor

__all__ = ["OwnLoss", "TaskLoss", "class_weight_tensor", "plain_loss"]


class TaskLoss(nn.Module):
    """The training loss of a batch: CrossEntropyLoss, BCEWithLogitsLoss or MSELoss, and nothing else where no sample
    weights are given.

    With sample weights, the losses of the samples are multiplied by them before the mean is taken, so that weights of 1
    change nothing.
    """

    def __init__(self, task: Task, options: TrainOptions, targets: Any) -> None:
        super().__init__()
        self.task = task
        weights = class_weight_tensor(options, targets, task)
        smoothing = options.label_smoothing
        if smoothing and not task.classifies:
            raise UsageError("label_smoothing is for class targets; this task has none: leave it at 0.")
        self.plain: nn.Module
        if task.places:
            self.plain = nn.CrossEntropyLoss(weight=weights, label_smoothing=smoothing, ignore_index=task.ignore_index)
        elif task.kind == "single_label":
            self.plain = nn.CrossEntropyLoss(weight=weights, label_smoothing=smoothing)
        elif task.kind == "multi_label":
            self.plain = nn.BCEWithLogitsLoss(pos_weight=weights)
        else:
            self.plain = nn.MSELoss()

    def forward(self, output: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Return the loss of a batch; ``weights`` are those of its samples, with mean 1 over all training rows."""
        output, targets = self.task.paired(output, targets)
        if weights is None:
            loss: torch.Tensor = self.plain(output, targets)
            return loss
        # A share of each sample in the plain loss is what it adds to it, the divisor being that of the whole batch.
        each = self.elementwise(output, targets).reshape(len(weights), -1)
        weighted: torch.Tensor = (each * weights.to(each.dtype)[:, None]).sum() / self.divisor(each, targets)
        return weighted

    def elementwise(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of each target before the mean is taken."""
        plain: Any = self.plain
        if self.task.classifies:
            return functional.cross_entropy(
                output, targets, plain.weight, ignore_index=plain.ignore_index, reduction="none",
                label_smoothing=plain.label_smoothing,
            )  # fmt: skip
        if self.task.kind == "multi_label":
            return functional.binary_cross_entropy_with_logits(
                output, targets, pos_weight=plain.pos_weight, reduction="none"
            )
        return functional.mse_loss(output, targets, reduction="none")

    def divisor(self, each: torch.Tensor, targets: torch.Tensor) -> Any:
        """Return by what the sum of ``elementwise`` losses is divided for the mean."""
        if not self.task.classifies:
            return float(each.numel())
        plain: Any = self.plain
        counted = targets != plain.ignore_index
        if plain.weight is None:
            return counted.sum()
        return plain.weight[targets[counted]].sum()

    def shares(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return, for single labels, a row's shares by its class (classes, classes), a column each, and classes' weights.

        A batch's loss is minus the sum of its rows' shares times their log-probabilities, by the sum of its rows' weights.
        """
        plain: Any = self.plain
        classes, smoothing = self.task.outputs, plain.label_smoothing
        weights = torch.ones(classes, device=device) if plain.weight is None else plain.weight
        return (smoothing / classes * weights)[:, None] + torch.diag((1 - smoothing) * weights), weights


class OwnLoss:
    """A loss of the caller's: of what the network returns and the targets, and of what crosses the cut if it asks for that.

    Raises ``UsageError`` for one that takes something else, or has parameters of its own, which nothing would train.
    """

    def __init__(self, loss: Callable[..., Any], task: Task, device: torch.device) -> None:
        self.takes_frontier = takes_frontier(loss)
        if isinstance(loss, nn.Module):
            if any(each.requires_grad for each in loss.parameters()):
                raise UsageError(
                    f"the loss {type(loss).__name__} has parameters of its own, which train_head does not train: put them in the "
                    "network, or have them need no gradients."
                )
            loss = copy.deepcopy(loss).to(device)
        self.loss, self.task = loss, task

    def __call__(self, output: Any, targets: torch.Tensor, frontier: Any) -> torch.Tensor:
        """Return the loss of a batch; raises ``HeadError`` where it is no single number, or has no gradient to train by."""
        if self.task.kind == "token":
            targets = self.task.of_length(targets, output_tensor(output).shape[1])
        if self.task.classifies:
            targets = targets.long()
        found = self.loss(output, targets, frontier) if self.takes_frontier else self.loss(output, targets)
        if not isinstance(found, torch.Tensor) or found.dim():
            what = f"a tensor of shape {list(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
            raise HeadError(
                f"the loss returned {what}: it must return a tensor of one number, such as a mean over the batch."
            )
        if torch.is_grad_enabled() and not found.requires_grad:
            raise HeadError(
                "the loss has no gradient: compute it from the network's output by torch's operations, not from detached values."
            )
        return found


def takes_frontier(loss: Callable[..., Any]) -> bool:
    """Return whether a loss declares a third parameter without a default; raises ``UsageError`` if it cannot take two."""
    try:
        declared = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters.values()
    except (TypeError, ValueError) as error:
        if callable(loss):  # of C, as some of torch's own
            return False
        raise UsageError(f"loss must be a function of (output, targets), not {type(loss).__name__}.") from error
    given = [each for each in declared if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    needed = sum(each.default is each.empty for each in given)
    several = any(each.kind == each.VAR_POSITIONAL for each in declared)
    if needed > 3 or (len(given) < 2 and not several):
        raise UsageError(f"loss must take (output, targets), or (output, targets, frontier), not {needed} values.")
    if needed == 3 and str(getattr(loss, "__module__", "")).startswith("torch."):
        name = getattr(loss, "__name__", type(loss).__name__)
        raise UsageError(
            f"torch's {name} takes three values, of which none is what crosses the cut: call it in a function of yours."
        )
    return needed == 3


def plain_loss(
    task: Task, output: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the sum over samples (or tokens that count) of the loss without smoothing and weights of classes.

    It compares epochs. ``weights`` are those of samples that each have one class, labels or values.
    """
    output, targets = task.paired(output.float(), targets)
    if weights is not None and task.kind == "single_label":
        return (functional.cross_entropy(output, targets, reduction="none") * weights).sum()
    if task.kind == "single_label":
        return functional.cross_entropy(output, targets, reduction="sum")
    if task.kind == "token":
        return functional.cross_entropy(output, targets, ignore_index=task.ignore_index, reduction="sum")
    if task.kind == "dense":
        each = functional.cross_entropy(output, targets, ignore_index=task.ignore_index, reduction="none")
        counted = (targets != task.ignore_index).flatten(1).sum(1).clamp(min=1)
        return (each.flatten(1).sum(1) / counted).sum()
    if task.kind == "multi_label":
        each = functional.binary_cross_entropy_with_logits(output, targets, reduction="none")
    else:
        each = functional.mse_loss(output, targets, reduction="none")
    each = each.flatten(1).mean(1) if each.dim() > 1 else each
    return each.sum() if weights is None else (each * weights).sum()


def class_weight_tensor(options: TrainOptions, targets: Any, task: Task) -> torch.Tensor | None:
    """Return the loss weight of each class, None for equal ones; ``balanced`` is inverse to the number of rows.

    For several labels it is the weight of a label's positive samples; ``balanced`` is negatives over positives.
    """
    given, classes = options.class_weights, task.outputs
    if given is None:
        return None
    if task.kind == "regression":
        raise UsageError("class_weights weigh classes; a regression has none: leave them out, or use sample_weights.")
    if isinstance(given, str):
        if task.kind == "multi_label":
            positive = np.asarray(targets).sum(axis=0)
            return torch.tensor((len(targets) - positive) / np.maximum(positive, 1), dtype=torch.float32)
        counted = np.asarray(targets).reshape(-1).astype(np.int64)
        if task.places:
            counted = counted[task.counted(counted)]
        counts = np.bincount(counted, minlength=classes)
        weights = len(counted) / (np.maximum(counts, 1) * max(1, (counts > 0).sum()))
        return torch.tensor(weights, dtype=torch.float32)
    if len(given) != classes or not all(0 <= weight < math.inf for weight in given) or not any(given):
        raise UsageError(
            f"class_weights must be {classes} numbers from 0 on, one a class and not all 0, not {list(given)}."
        )
    return torch.tensor(list(given), dtype=torch.float32)
