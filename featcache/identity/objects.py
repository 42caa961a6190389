"""What an object's state consists of, and whether all of it can be seen from Python."""

from __future__ import annotations

import functools
import inspect
import types
from typing import Any

__all__ = ["hides_state", "is_module", "module_state", "object_state"]

POINTER_BYTES = tuple.__itemsize__
WITHOUT_MODES = "torchvision.transforms."  # transforms that do the same in training and evaluation mode


def object_state(value: Any) -> dict[str, Any]:
    """Return an object's attributes: those in its ``__dict__`` and in its slots, without cached properties."""
    kind = type(value)
    state = {
        str(name): part
        for name, part in getattr(value, "__dict__", {}).items()
        if not isinstance(inspect.getattr_static(kind, str(name), None), functools.cached_property)
    }
    for parent in kind.__mro__:
        for name, slot in vars(parent).items():
            if isinstance(slot, types.MemberDescriptorType) and "__slots__" in vars(parent) and hasattr(value, name):
                state[name] = getattr(value, name)
    return state


def hides_state(kind: type) -> bool:
    """Return whether objects of a class hold something that Python code cannot see, as those of C classes do.

    Their size says so: it is more than a bare object with a dict, weak references and the declared slots takes.
    """
    slots = sum(
        isinstance(part, types.MemberDescriptorType)
        for parent in kind.__mro__
        if "__slots__" in vars(parent)
        for part in vars(parent).values()
    )
    slots += (kind.__dictoffset__ > 0) + (kind.__weakrefoffset__ > 0)
    return kind.__itemsize__ > 0 or kind.__basicsize__ > object.__basicsize__ + POINTER_BYTES * slots


def is_module(value: Any) -> bool:
    """Return whether a value is an ``nn.Module``, without importing torch."""
    return any(
        kind.__module__ == "torch.nn.modules.module" and kind.__name__ == "Module" for kind in type(value).__mro__
    )


def module_state(module: Any) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """Return a module's attributes, parameters and buffers by name, and its children in their order."""
    from torch import nn

    bookkeeping = {*vars(nn.Module()), *(name for name in vars(module) if name.endswith("_hooks"))}
    if not type(module).__module__.startswith(WITHOUT_MODES):
        bookkeeping -= {"training"}
    state = {name: part for name, part in object_state(module).items() if name not in bookkeeping}
    state.update({**module._parameters, **module._buffers})
    return state, list(module._modules.items())
