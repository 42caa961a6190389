"""A private skeleton of a model: its own modules and modes, the model's own parameters and buffers.

Recording and replaying need hooks, stubs and evaluation mode. On a skeleton they never touch the caller's modules, so
other threads may run the model meanwhile, and nothing has to be restored.
"""

from __future__ import annotations

import copy
import functools
import types
import weakref
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .modes import Modes, overrides_modes, set_mode
from .randomness import copied_generator
from .wrappers import inner_name

__all__ = ["deep_copy", "own_modes", "skeleton"]

STRUCTURAL = {"_parameters", "_buffers", "_modules"}
MOST_PARTS = 1000  # of a container: beyond, it is a table of values, and copying it takes longer than a training step


def skeleton(
    model: nn.Module,
    training: bool | None = False,
    own_buffers: bool = False,
    own_parameters: bool = False,
    shares_objects: bool = False,
    lasting: bool = False,
) -> nn.Module:
    """Return a skeleton of ``model``, put into the given mode by its own ``train`` or ``eval`` (None: left as it is).

    Parameters and buffers are shared, so that trained weights are seen by both; with ``lasting`` the dictionaries that hold
    them, too, for a skeleton that is kept while the model is moved or loaded. With ``own_buffers`` the skeleton gets copies
    of the buffers and of plain tensors, so that a trial leaves no trace; ``own_parameters`` does the same for parameters.

    Decoders of transformers give no key-value cache, which is for generating texts, and no feature.

    Modules that are reached through plain containers and objects, bound methods, partials, closures or weak references are
    the skeleton's too, and so is whatever else they hold, random generators of torch among it; with ``shares_objects``, what
    holds no module stays the caller's: the lists that hooks fill, for one.
    """
    copies = _Copies(own_buffers, own_parameters, shares_objects, lasting)
    for module in model.modules():
        copies.without_generation_cache(module)
    copied = copies.of(model)
    if training is not None:
        set_mode(copied, training)
    return copied


def deep_copy(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` that shares no parameter, buffer or module with it.

    ``copy.deepcopy`` leaves functions as they are: a closure of the copy would run the original's modules.
    """
    return _Copies(own_buffers=True, own_parameters=True, shares_objects=False, lasting=False).of(model)


def own_modes(model: nn.Module) -> Modes:
    """Return the modes in which a model's own ``train`` and ``eval`` leave its modules; the model is not touched."""
    return Modes({mode: _exceptions(model, mode) for mode in (False, True)}) if overrides_modes(model) else Modes()


def _exceptions(model: nn.Module, mode: bool) -> dict[str, bool]:
    named = skeleton(model, mode).named_modules(remove_duplicate=False)
    return {name: module.training for name, module in named if module.training != mode}


class _Transparent(nn.Module):
    """Stands for a wrapper in the midst of a network: what torch.compile makes would run the caller's modules."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            (inner,) = self._modules.values()
            return getattr(inner, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        (inner,) = self._modules.values()
        assert inner is not None
        return inner(*args, **kwargs)


class _Copies:
    def __init__(self, own_buffers: bool, own_parameters: bool, shares_objects: bool, lasting: bool) -> None:
        self.lasting = lasting
        self.own_buffers, self.own_parameters, self.shares_objects = own_buffers, own_parameters, shares_objects
        self.done: dict[int, Any] = {}  # by identity, so that what is shared stays shared
        self.made: list[nn.Module] = []
        self.shares = False  # attributes are copied: models keep caches of tensors in containers

    def of(self, model: nn.Module) -> nn.Module:
        """Return the copy of a model."""
        copied = self.module(model)
        self.finish()
        return copied

    def without_generation_cache(self, module: nn.Module) -> None:
        """Have the copies see a configuration that keeps no key-value cache."""
        config = module.__dict__.get("config")
        if config is not None and getattr(config, "use_cache", None) is True and id(config) not in self.done:
            self.done[id(config)] = copied = copy.copy(config)
            copied.use_cache = False

    def module(self, module: nn.Module) -> nn.Module:
        if id(module) in self.done:
            return self.done[id(module)]  # type: ignore[no-any-return]
        if isinstance(module, torch.jit.ScriptModule):
            self.done[id(module)] = module  # compiled code cannot be copied; splitting refuses it
            return module
        wraps = inner_name(module) is not None
        kind = _Transparent if wraps else module.__class__
        copied = object.__new__(kind)  # that of torch.fx makes a class without a forward
        self.done[id(module)] = copied
        self.made.append(copied)
        usual = vars(nn.Module()) if wraps else module.__dict__
        copied.__dict__.update({name: module.__dict__.get(name, value) for name, value in usual.items()})
        copied.__dict__["_compiled_call_impl"] = None
        copied.__dict__["_modules"] = OrderedDict(
            (name, child if child is None else self.module(child)) for name, child in module._modules.items()
        )
        if not self.lasting:  # a forward may register another tensor
            copied.__dict__["_parameters"] = dict(module._parameters)
            copied.__dict__["_buffers"] = dict(module._buffers)
        if self.own_parameters:
            copied.__dict__["_parameters"] = {name: self.parameter(each) for name, each in module._parameters.items()}
        if self.own_buffers:
            copied.__dict__["_buffers"] = {
                name: buffer if buffer is None else self.tensor(buffer) for name, buffer in module._buffers.items()
            }
        return copied

    def parameter(self, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is not None and id(parameter) not in self.done:
            self.done[id(parameter)] = copy.deepcopy(parameter)
        return None if parameter is None else self.done[id(parameter)]

    def tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in self.done:
            self.done[id(tensor)] = tensor.detach().clone().requires_grad_(tensor.requires_grad)
        return self.done[id(tensor)]  # type: ignore[no-any-return]

    def finish(self) -> None:
        """Point the plain attributes and hooks of the copies to copies, once all modules have one."""
        for copied in self.made:  # which grows by modules that are no children
            values = copied.__dict__
            for name, value in list(values.items()):
                if name not in STRUCTURAL:
                    values[name] = self.value(value)

    def value(self, value: Any) -> Any:
        kind: Any = type(value)
        if kind in PLAIN:
            return value
        known = self.done.get(id(value))
        if known is not None:
            return known
        if kind in CONTAINERS:
            return self.container(value)
        if isinstance(value, nn.Module):
            return self.module(value)
        if isinstance(value, torch.Tensor):
            plain = self.own_buffers and not isinstance(value, nn.Parameter)
            return self.tensor(value) if plain else value
        if kind is torch.Generator and not self.shares_objects:
            return self.done.setdefault(id(value), copied_generator(value))
        if kind is types.MethodType:
            owner = self.value(value.__self__)
            return value if owner is value.__self__ else types.MethodType(value.__func__, owner)
        if kind is functools.partial:
            return functools.partial(self.value(value.func), *map(self.value, value.args), **self.value(value.keywords))
        if kind is types.FunctionType:
            return self.function(value) if value.__closure__ or value.__defaults__ or value.__kwdefaults__ else value
        if kind is weakref.ref:
            referent = self.done.get(id(value()))
            return value if referent is None else weakref.ref(referent)
        return self.object(value) if _is_plain_object(kind) and hasattr(value, "__dict__") else value

    def container(self, value: Any) -> Any:
        if len(value) > MOST_PARTS:
            return value
        if isinstance(value, tuple):
            parts = tuple(map(self.value, value))
            return value if all(one is other for one, other in zip(parts, value, strict=True)) else parts
        made = self.done[id(value)] = copy.copy(value)
        if not value:
            return self.settled(value, made, self.shares)
        if isinstance(value, (set, deque)):
            made.clear()
            members = list(map(self.value, value))
            (made.extend if isinstance(made, deque) else made.update)(members)
            same = self.shares and all(one is other for one, other in zip(members, value, strict=True))
        elif isinstance(value, list):
            made[:] = map(self.value, value)
            same = self.shares and all(one is other for one, other in zip(made, value, strict=True))
        else:
            for key, part in value.items():
                made[key] = self.value(part)
            same = self.shares and all(made[key] is part for key, part in value.items())
        return self.settled(value, made, same)

    def settled(self, value: Any, made: Any, same: bool) -> Any:
        """Return a copy, or the value itself where it reaches nothing that was copied."""
        self.done[id(value)] = value if same else made
        return self.done[id(value)]

    def function(self, function: types.FunctionType) -> Any:
        """Return a function that reaches the copies instead of the caller's modules, through cells of its own."""
        old = function.__closure__ or ()
        cells = tuple(self.done.setdefault(id(cell), types.CellType()) for cell in old)
        made = types.FunctionType(function.__code__, function.__globals__, function.__name__, None, cells)
        self.done[id(function)] = made  # before its cells are filled: it may be in one of them
        made.__dict__.update(function.__dict__)
        made.__qualname__, made.__module__ = function.__qualname__, function.__module__
        with self.sharing():
            made.__defaults__ = self.value(function.__defaults__)
            made.__kwdefaults__ = self.value(function.__kwdefaults__)
            same = made.__defaults__ is function.__defaults__ and made.__kwdefaults__ in (None, function.__kwdefaults__)
            for cell, copied in zip(old, cells, strict=True):
                try:
                    content = cell.cell_contents
                except ValueError:  # not assigned yet
                    continue
                copied.cell_contents = self.value(content)
                same = same and copied.cell_contents is content
            return self.settled(function, made, same and self.shares)

    def object(self, value: Any) -> Any:
        made = self.done[id(value)] = object.__new__(type(value))
        with self.sharing():
            parts = {name: self.value(part) for name, part in vars(value).items()}
            same = self.shares and all(parts[name] is part for name, part in vars(value).items())
        made.__dict__.update(parts)
        return self.settled(value, made, same)

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Leave what holds no module as it is, if that is wanted."""
        before, self.shares = self.shares, self.shares_objects
        try:
            yield
        finally:
            self.shares = before


CONTAINERS = {dict, OrderedDict, defaultdict, Counter, list, tuple, set, deque}
PLAIN = {type(None), bool, int, float, str, bytes, torch.dtype, torch.device, type}


@functools.cache
def _is_plain_object(kind: Any) -> bool:
    """Return whether instances are nothing but a dictionary of attributes, made by Python code of neither torch nor numpy."""
    if kind.__module__.partition(".")[0] in ("builtins", "torch", "numpy", "threading", "logging"):
        return False
    usual = all(getattr(kind, name) is getattr(object, name) for name in ("__new__", "__reduce__", "__reduce_ex__"))
    # A copy must not close what its original holds open.
    return usual and not hasattr(kind, "__del__") and not any("__slots__" in vars(each) for each in kind.__mro__)
