"""How far a dataset lies from the data that a network was trained on, by the statistics that its BatchNorm layers keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from ..machine import to_device
from ..samples import Samples
from ..splitting import as_call, skeleton

__all__ = ["LOOKED_AT", "describe_shift", "source_shift"]

LOOKED_AT = 256  # samples: means and deviations of channels need no more
NEAR, FAR = 0.3, 1.5


def source_shift(
    model: nn.Module, samples: Samples, positions: list[int], batch_size: int, device: torch.device
) -> dict[str, float]:
    """Return for each BatchNorm layer, by name in the order in which they run, how far its input has moved from the source.

    A BatchNorm layer keeps mean and variance of its input on the data it was trained on. Returned is the Fréchet distance
    between the two normal distributions of each channel (Dowson and Landau 1982, as in Heusel et al. 2017, with diagonal
    covariances), squared, in units of the source's variance, averaged over channels: 0 is data like the source's, 1 a shift
    by one standard deviation. Empty for networks without such layers.
    """
    running = skeleton(model, own_buffers=True)
    sums: dict[str, tuple[Any, Any, int]] = {}

    def look(name: str) -> Any:
        def hook(_module: nn.Module, inputs: Any) -> None:
            values = inputs[0].detach().double().transpose(0, 1).flatten(1)
            total, squares, count = sums.get(name, (0.0, 0.0, 0))
            sums[name] = (total + values.sum(1), squares + (values**2).sum(1), count + values.shape[1])

        return hook

    layers = {}
    for name, module in running.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            layers[name] = module
            module.register_forward_pre_hook(look(name))
    if not layers:
        return {}
    with torch.no_grad():
        for start in range(0, len(positions), batch_size):
            inputs = [samples.input(position) for position in positions[start : start + batch_size]]
            args, kwargs = as_call(to_device(samples.batch(inputs), device), running)
            running(*args, **kwargs)
    found = {}
    for name, (total, squares, count) in sums.items():
        mean = total / count
        deviation = (squares / count - mean**2).clamp(min=0).sqrt()
        layer = layers[name]
        assert layer.running_mean is not None
        assert layer.running_var is not None
        variance = layer.running_var.double() + layer.eps
        moved = (mean - layer.running_mean) ** 2 + (deviation - layer.running_var.double().clamp(min=0).sqrt()) ** 2
        found[name] = float((moved / variance).mean())
    return found


def describe_shift(shifts: dict[str, float]) -> str:
    """Return in words how near a dataset is to the source, and what that says about freezing."""
    if not shifts:
        return (
            "how far these data lie from the source is not known: the network keeps no statistics of it (no BatchNorm)"
        )
    mean = float(np.mean(list(shifts.values())))
    if mean < NEAR:
        return f"the data look much like the source's (shift {mean:.2f}): freezing most layers is likely to serve"
    if mean < FAR:
        return f"the data differ from the source's (shift {mean:.2f}): expect the deeper layers to need training"
    return f"the data are far from the source's (shift {mean:.2f}): expect many layers to need training"
