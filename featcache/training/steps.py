"""The steps of training: the optimizer, its groups and schedule, clipping, and averages of the weights."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from ..errors import HeadError, UsageError, near_names, one_line
from ..machine import is_out_of_memory
from .averaging import Average
from .options import TrainOptions
from .patterns import chosen_by

__all__ = ["Steps", "default_learning_rate", "is_pointwise", "make_optimizer", "make_schedule"]


class Steps:
    """Takes the steps of training the parameters of a module that need gradients.

    The options call the parameters as ``named`` does, which holds them too.
    """

    def __init__(self, module: nn.Module, named: nn.Module, options: TrainOptions, steps_an_epoch: int) -> None:
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer(_groups(self.parameters, named, options), options)
        self.schedule = make_schedule(self.optimizer, options, steps_an_epoch)
        self.clip_norm = options.clip_norm
        self._mixed_precision = options.mixed_precision
        self.average = None if options.average is None else Average(module, options.average, options.epochs)

    @property
    def rate(self) -> float:
        """Return the learning rate of the first group, which is that of all parameters without one of their own."""
        return float(self.optimizer.param_groups[0]["lr"])

    def precision(self, device: torch.device) -> AbstractContextManager[Any]:
        """Return the context in which the output and the loss of a step are computed."""
        if not self._mixed_precision:
            return nullcontext()
        torch.clear_autocast_cache()  # inside another autocast it holds the weights of the step before
        return torch.autocast(device.type, torch.bfloat16)

    def take(self, loss: Any) -> None:
        """Take a step down the gradient of a loss; raises ``HeadError`` where there is none."""
        self.optimizer.zero_grad(set_to_none=True)
        try:
            loss.backward()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise HeadError(f"a training step of the network after the cut fails: {one_line(error, 200)}.") from error
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        if self.average is not None:
            self.average.after_step()


def _groups(parameters: list[nn.Parameter], named: nn.Module, options: TrainOptions) -> list[Any]:
    """Return the parameters, in groups by their learning rate where some have one of their own: the first pattern counts."""
    if not options.learning_rates:
        return parameters
    names = {parameter: name for name, parameter in named.named_parameters() if parameter.requires_grad}
    chosen = chosen_by("learning_rates", list(options.learning_rates), named)
    for pattern, fitting in chosen.items():
        if not fitting.intersection(names.values()):
            raise UsageError(
                f"learning_rates {pattern!r} fits no parameter that is trained.{near_names(pattern, names.values())}"
            )
    grouped: dict[float | None, list[nn.Parameter]] = {None: []}
    for parameter in parameters:
        first = next((pattern for pattern, each in chosen.items() if names[parameter] in each), None)
        grouped.setdefault(None if first is None else options.learning_rates[first], []).append(parameter)
    return [
        {"params": each} if rate is None else {"params": each, "lr": rate} for rate, each in grouped.items() if each
    ]


def default_learning_rate(module: nn.Module) -> float:
    """Return 1e-2 where one linear layer alone is trained, which is a convex problem, and 1e-3 for deeper suffixes."""
    owners = [part for part in module.modules() if any(each.requires_grad for each in part.parameters(recurse=False))]
    return 1e-2 if len(owners) == 1 and (isinstance(owners[0], nn.Linear) or is_pointwise(owners[0])) else 1e-3


def is_pointwise(layer: nn.Module) -> bool:
    """Return whether a layer is a convolution that is a linear layer at every place."""
    if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return False
    return {*layer.kernel_size} == {1} and layer.groups == 1


def make_optimizer(parameters: list[Any], options: TrainOptions) -> torch.optim.Optimizer:
    """Return the optimizer that the options name: AdamW (Loshchilov and Hutter, 2019), Adam, or SGD with momentum 0.9.

    ``parameters`` are such, or groups of them as torch takes these.
    """
    rate, decay = options.learning_rate or 1e-3, options.decay
    if options.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=0.9)
    kind = torch.optim.Adam if options.optimizer == "adam" else torch.optim.AdamW
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
