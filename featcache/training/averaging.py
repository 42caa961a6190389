"""Averages of the weights over the steps or epochs of training, by torch's own means."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.optim import swa_utils

from ..errors import UsageError

__all__ = ["EMA_DECAY", "Average", "parse_average"]

EMA_DECAY = 0.999


def parse_average(text: str) -> float | None:
    """Return the decay that ``"ema"`` or ``"ema:DECAY"`` means, None for ``"swa"``; raises ``UsageError`` for anything else."""
    name, separator, decay = text.partition(":")
    if name == "ema" and not separator:
        return EMA_DECAY
    try:
        if name == "ema" and 0 < float(decay) < 1:
            return float(decay)
    except ValueError:
        pass
    if text == "swa":
        return None
    raise UsageError(f"average must be ema, ema:DECAY with a decay between 0 and 1, or swa, not {text!r}.")


class Average:
    """An average of the trained weights of a module, and of the statistics of its BatchNorm layers.

    ``ema`` moves after every step, ``swa`` is the mean over the ends of the epochs in the second half.
    """

    def __init__(self, module: nn.Module, average: str, epochs: int) -> None:
        decay = parse_average(average)
        self._module, self._first = module, epochs // 2
        self._of_steps = decay is not None
        torchs: Any = swa_utils  # whose functions have no types
        fit = torchs.get_swa_multi_avg_fn() if decay is None else torchs.get_ema_multi_avg_fn(decay)
        self._model = swa_utils.AveragedModel(_Tensors(module), multi_avg_fn=fit, use_buffers=True)

    def after_step(self) -> None:
        """Take in the weights that a step left."""
        if self._of_steps:
            self._model.update_parameters(_Tensors(self._module))

    def after_epoch(self, epoch: int) -> bool:
        """Take in the weights that an epoch, counted from 0, left; return whether there is an average by now."""
        if not self._of_steps and epoch >= self._first:
            self._model.update_parameters(_Tensors(self._module))
        return self._of_steps or epoch >= self._first

    @contextlib.contextmanager
    def in_place(self) -> Iterator[bool]:
        """Have the averages in the place of the module's weights."""
        trained = [each.clone() for each in _Tensors(self._module).all()]
        self.put()
        try:
            yield True
        finally:
            _copy(trained, _Tensors(self._module).all())

    def put(self) -> None:
        """Put the averages in the place of the module's weights."""
        averaged = self._model.module
        assert isinstance(averaged, _Tensors)
        _copy(averaged.all(), _Tensors(self._module).all())


class _Tensors(nn.Module):
    """What is averaged of a module, which itself may be one that cannot be copied.

    Buffers other than statistics stay as they are: of a mask of infinities there is no average.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.trained = nn.ParameterList([each for each in module.parameters() if each.requires_grad])
        norms = [each for each in module.modules() if isinstance(each, nn.modules.batchnorm._NormBase)]
        for number, norm in enumerate(norms):
            if norm.running_mean is not None and norm.running_var is not None:
                self.register_buffer(f"mean_{number}", norm.running_mean)
                self.register_buffer(f"variance_{number}", norm.running_var)

    def all(self) -> list[torch.Tensor]:
        """Return the tensors."""
        return [*(each.detach() for each in self.parameters()), *self.buffers()]


def _copy(values: list[torch.Tensor], places: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for value, place in zip(values, places, strict=True):
            place.copy_(value)
