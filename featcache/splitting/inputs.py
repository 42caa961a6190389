"""The inputs of a call: tensors by the names that they are given under, and what the names say of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

__all__ = [
    "Call",
    "as_call",
    "as_given",
    "batch_of",
    "copied",
    "forward_names",
    "is_lengths",
    "is_masks",
    "main_input",
    "named_tensors",
    "with_tensors",
]

Call = tuple[tuple[Any, ...], dict[str, Any]]


def as_call(inputs: Any, model: nn.Module) -> Call:
    """Return positional inputs (a tuple), keyword inputs (a mapping) or a single one as a call of ``model``.

    A mapping is one input where ``forward`` takes that, and none of its names, as networks of sentence-transformers do.
    """
    if not isinstance(inputs, Mapping):
        return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}
    named = {str(name): value for name, value in inputs.items()}
    return ((named,), {}) if not _binds(model, **named) and _binds(model, named) else ((), named)


def _binds(model: nn.Module, *args: Any, **kwargs: Any) -> bool:
    try:
        inspect.signature(model.forward).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return False
    return True


def as_given(frontier: dict[str, torch.Tensor]) -> Any:
    """Return what crosses a cut as a suffix takes it: a dict, or the tensor itself where it is one."""
    return frontier if len(frontier) > 1 else next(iter(frontier.values()))


def forward_names(model: nn.Module) -> list[str]:
    """Return the names of a model's inputs, as its ``forward`` lists them."""
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return []
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in parameters if each.kind not in several]


def main_input(model: nn.Module, named: Sequence[tuple[str, torch.Tensor]]) -> str | None:
    """Return which of the named inputs is the main one: as transformers names it, else the first that ``forward`` lists.

    ``forward(**batch)`` lists none: there it is the first by name that is no mask and no length, floating ones before whole
    numbers and ids before other numbers; None where there is none.
    """

    def rank(each: tuple[str, torch.Tensor]) -> tuple[bool, bool, str]:
        name, tensor = each
        return not tensor.is_floating_point(), "ids" not in name.lower(), name

    declared = getattr(model, "main_input_name", None)
    order = [declared, *forward_names(model)] if isinstance(declared, str) else forward_names(model)
    ranked = [name for name, _ in sorted(named, key=rank)]
    order += [name for name in ranked if "mask" not in name.lower() and "len" not in name.lower()]
    return next((name for name in order if name in ranked), None)


def named_tensors(call: Call, model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Return the tensors of a call, in order, each with the name of the input that it is, or its key in that."""
    args, kwargs = call
    names = forward_names(model)
    positional = [(names[number] if number < len(names) else "", value) for number, value in enumerate(args)]
    return [
        (_last_key(path) or name, leaf)
        for name, value in [*positional, *kwargs.items()]
        for path, leaf in pytree.tree_flatten_with_path(value)[0]
        if isinstance(leaf, torch.Tensor)
    ]


def _last_key(path: Any) -> str:
    names = [str(key.key) for key in path if isinstance(key, pytree.MappingKey)]
    return names[-1] if names else ""


def with_tensors(call: Call, change: Callable[[torch.Tensor], torch.Tensor]) -> Call:
    """Return a call with other tensors in the places of its own."""
    return pytree.tree_map_only(torch.Tensor, change, call)  # type: ignore[no-any-return]


def copied(call: Call) -> Call:
    """Return a call with containers and tensors of its own: a network may write into those that it is given."""
    return with_tensors(call, torch.clone)


def batch_of(call: Call) -> int:
    """Return the number of rows of a call: the first size of its first tensor."""
    return len(next(leaf for leaf in pytree.tree_leaves(call) if isinstance(leaf, torch.Tensor)))


def is_masks(name: str, tensor: torch.Tensor) -> bool:
    """Return whether an input holds a mask for each row."""
    return "mask" in name.lower() and tensor.dim() > 1 and not (tensor.is_floating_point() or tensor.is_complex())


def is_lengths(name: str, tensor: torch.Tensor) -> bool:
    """Return whether an input holds a length for each row."""
    return "len" in name.lower() and tensor.dim() == 1 and not tensor.is_floating_point()
