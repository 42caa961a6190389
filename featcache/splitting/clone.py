"""A private skeleton of a model: its own modules and modes, the model's own parameters and buffers.

Recording and replaying need hooks, stubs and evaluation mode. On a skeleton they never touch the caller's modules, so
other threads may run the model meanwhile, and nothing has to be restored.
"""

from __future__ import annotations

import functools
import types
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

__all__ = ["skeleton"]

STRUCTURAL = {"_parameters", "_buffers", "_modules"}


def skeleton(model: nn.Module, training: bool | None = False, own_buffers: bool = False) -> nn.Module:
    """Return a skeleton of ``model`` with every module in the given mode (None: each in the mode that it is in).

    Parameter and buffer dictionaries are shared, so that moved, loaded or trained weights are seen by both; with
    ``own_buffers`` the skeleton gets copies of the buffers, so that a trial in training mode leaves no trace.
    Modules that are reached through plain lists, dictionaries, bound methods or partials are the skeleton's too.
    """
    copies = _Copies(own_buffers)
    copied = copies.module(model, training)
    copies.finish()
    return copied


class _Uncompiled(nn.Module):
    """Stands for what torch.compile returns, whose compiled code would run the caller's modules."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("_orig_mod"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._orig_mod(*args, **kwargs)


class _Copies:
    def __init__(self, own_buffers: bool) -> None:
        self.own_buffers = own_buffers
        self.done: dict[int, Any] = {}  # by identity, so that what is shared stays shared
        self.made: list[nn.Module] = []

    def module(self, module: nn.Module, training: bool | None) -> nn.Module:
        if id(module) in self.done:
            return self.done[id(module)]  # type: ignore[no-any-return]
        if isinstance(module, torch.jit.ScriptModule):
            self.done[id(module)] = module  # compiled code cannot be copied; splitting refuses it
            return module
        compiled = type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules
        kind = _Uncompiled if compiled else module.__class__
        copied = kind.__new__(kind)
        self.done[id(module)] = copied
        self.made.append(copied)
        copied.__dict__.update(vars(nn.Module()) if compiled else module.__dict__)
        copied.__dict__["_compiled_call_impl"] = None
        copied.__dict__["_modules"] = OrderedDict(
            (name, child if child is None else self.module(child, training)) for name, child in module._modules.items()
        )
        if self.own_buffers:
            copied.__dict__["_buffers"] = {name: self.buffer(buffer) for name, buffer in module._buffers.items()}
        if training is not None:
            copied.__dict__["training"] = training
        return copied

    def buffer(self, buffer: torch.Tensor | None) -> torch.Tensor | None:
        if buffer is None:
            return None
        if id(buffer) not in self.done:
            self.done[id(buffer)] = buffer.clone()
        return self.done[id(buffer)]  # type: ignore[no-any-return]

    def finish(self) -> None:
        """Point the plain attributes and hooks of the copies to copies, once all modules have one."""
        for copied in self.made:
            values = copied.__dict__
            for name, value in list(values.items()):
                if name not in STRUCTURAL:
                    values[name] = self.value(value)

    def value(self, value: Any) -> Any:
        known = self.done.get(id(value))
        if known is not None:
            return known
        if isinstance(value, types.MethodType):
            owner = self.done.get(id(value.__self__))
            return value if owner is None else types.MethodType(value.__func__, owner)
        if type(value) is functools.partial:
            return functools.partial(self.value(value.func), *map(self.value, value.args), **self.value(value.keywords))
        # Copied also where they hold no module: models keep caches of tensors in them.
        if type(value) in (dict, OrderedDict):
            made: Any = type(value)()
            self.done[id(value)] = made
            for key, part in value.items():
                made[key] = self.value(part)
            return made
        if type(value) is list:
            self.done[id(value)] = made = []
            made.extend(map(self.value, value))
            return made
        if type(value) is tuple:
            return tuple(map(self.value, value))
        return value
