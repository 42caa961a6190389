"""Ways of computing a prefix: as the model does, faster within rounding, or in bfloat16."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..errors import SplitError
from ..samples import pieces
from ..splitting import Split, as_call, deep_copy, prefixes

__all__ = ["PrefixRunner"]

TRIED_ROWS = 2  # of the first batch
TOLERANCE = 1e-4  # of fast against exact, relative to the largest value of a tensor

Frontier = dict[str, torch.Tensor]


class PrefixRunner:
    """Runs the prefixes of some splits on batches in one way of computing.

    ``fast`` puts images and convolutions in channels-last order and folds each BatchNorm into the convolution before it;
    where that does not agree with the model within 1e-4 on the first batch, it keeps the order alone, or nothing.
    ``bf16`` runs the same under autocast to bfloat16.
    """

    def __init__(self, numerics: str = "exact") -> None:
        self.numerics = numerics
        self._models: dict[int, nn.Module] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return PrefixRunner, (self.numerics,)  # what was prepared belongs to the models of this process

    def run(self, inputs: Any, splits: Sequence[Split], follow: bool = False) -> list[Frontier]:
        """Return what crosses the cut of each split; with ``follow``, after a look at whether the path was recorded."""
        model = splits[0].model
        if self.numerics == "exact":
            return prefixes(splits, inputs, model, follow)
        if follow:
            prefixes(splits, inputs, model, follow)
        made = self._models.get(id(model))
        if made is None:
            made = self._models[id(model)] = self._prepared(inputs, splits)
        return self._computed(made, inputs, splits)

    def _computed(self, model: nn.Module, inputs: Any, splits: Sequence[Split]) -> list[Frontier]:
        inputs = _channels_last(inputs)
        if self.numerics != "bf16":
            return prefixes(splits, inputs, model)
        device = next((each.device.type for each in _tensors(inputs)), "cpu")
        with torch.autocast(device, torch.bfloat16):
            return prefixes(splits, inputs, model)

    def _prepared(self, inputs: Any, splits: Sequence[Split]) -> nn.Module:
        """Return a copy of the model whose prefix runs faster, proven on a batch; the model itself where none is."""
        model = splits[0].model
        inputs = pieces(inputs, TRIED_ROWS)[0]
        ordered = _in_channels_last(deep_copy(model))
        expected, given = prefixes(splits, inputs, model), _channels_last(inputs)
        for candidate in (_folded(ordered, inputs), ordered):
            try:
                if _agree(expected, prefixes(splits, given, candidate)):
                    return candidate
            except SplitError:  # the prefix is followed call by call, and the folded ones are missing
                continue
        return model


def _folded(model: nn.Module, inputs: Any) -> nn.Module:
    """Return a copy of the model whose BatchNorms are in the convolutions before them, where they follow one."""
    model = deep_copy(model)
    calls: list[tuple[str, nn.Module, Any, Any]] = []
    names = {module: name for name, module in model.named_modules()}
    hooks = [
        module.register_forward_hook(
            lambda module, args, output: calls.append((names[module], module, args[0], output))
        )
        for module in names
        if isinstance(module, nn.Conv2d) or type(module) is nn.BatchNorm2d
    ]
    args, kwargs = as_call(inputs, model)
    try:
        model.eval()
        with torch.no_grad():
            model(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    once = [name for name, *_ in calls]
    made_by = {id(output): (name, module) for name, module, _, output in calls if isinstance(module, nn.Conv2d)}
    for name, module, given, _ in calls:
        conv_name, conv = made_by.get(id(given), ("", None))
        if type(module) is not nn.BatchNorm2d or conv is None or not module.track_running_stats:
            continue
        if once.count(name) == 1 and once.count(conv_name) == 1:
            _replace(model, conv_name, fuse_conv_bn_eval(conv, module))
            _replace(model, name, nn.Identity())
    return _in_channels_last(model)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _agree(expected: list[Frontier], found: list[Frontier]) -> bool:
    for wanted, given in zip(expected, found, strict=True):
        for name, tensor in wanted.items():
            if not tensor.is_floating_point():
                if not torch.equal(tensor, given[name]):
                    return False
                continue
            largest = float(tensor.abs().max()) if tensor.numel() else 0.0
            if tensor.numel() and not float((tensor - given[name]).abs().max()) <= TOLERANCE * largest:
                return False
    return True


def _in_channels_last(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def _channels_last(inputs: Any) -> Any:
    if isinstance(inputs, torch.Tensor):
        return inputs.contiguous(memory_format=torch.channels_last) if inputs.dim() == 4 else inputs
    if isinstance(inputs, dict):
        return {name: _channels_last(value) for name, value in inputs.items()}
    return tuple(_channels_last(value) for value in inputs)


def _tensors(inputs: Any) -> list[torch.Tensor]:
    values = inputs.values() if isinstance(inputs, dict) else inputs
    return [value for value in values if isinstance(value, torch.Tensor)]
