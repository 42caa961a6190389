"""A private skeleton of a model: its own modules and modes, the model's own parameters and buffers.

Recording and replaying need hooks, stubs and evaluation mode. On a skeleton they never touch the caller's modules, so
other threads may run the model meanwhile, and nothing has to be restored.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

__all__ = ["skeleton"]


def skeleton(model: nn.Module, training: bool | None = False, own_buffers: bool = False) -> nn.Module:
    """Return a skeleton of ``model`` with every module in the given mode (None: each in the mode that it is in).

    Parameter and buffer dictionaries are shared, so that moved, loaded or trained weights are seen by both; with
    ``own_buffers`` the skeleton gets copies of the buffers, so that a trial in training mode leaves no trace.
    """
    return _copy(model, training, own_buffers, {})


def _copy(module: nn.Module, training: bool | None, own_buffers: bool, done: dict[int, nn.Module]) -> nn.Module:
    if id(module) in done:
        return done[id(module)]
    if isinstance(module, torch.jit.ScriptModule):
        done[id(module)] = module  # compiled code cannot be copied; it is run as it is
        return module
    copied = module.__class__.__new__(module.__class__)
    done[id(module)] = copied
    copied.__dict__.update(module.__dict__)
    for name, value in module.__dict__.items():
        if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")) and isinstance(value, dict):
            copied.__dict__[name] = OrderedDict(value)
    copied.__dict__["_modules"] = OrderedDict(
        (name, child if child is None else _copy(child, training, own_buffers, done))
        for name, child in module._modules.items()
    )
    if own_buffers:
        copied.__dict__["_buffers"] = {
            name: buffer if buffer is None else buffer.clone() for name, buffer in module._buffers.items()
        }
    if training is not None:
        copied.__dict__["training"] = training
    return copied
