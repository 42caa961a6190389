"""Tensors in nested values of any kind."""

from __future__ import annotations

import copy
import dataclasses
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, PackedSequence_
from torch.utils import _pytree as pytree

__all__ = ["Lists", "TensorSet", "named_state", "ordered", "tensors_in", "unmapped", "unpacked"]

DEEPEST = 4


def named_state(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Return the parameters and buffers of a model, a shared one under each of its names, the last name first.

    In a dictionary by tensor, the first name therefore stays.
    """
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return named[::-1]


def ordered(tree: Any) -> Any:
    """Return a nested value with the keys of all dicts in order, so that the order in which they were put in does not matter."""
    if type(tree) in (list, tuple):
        return type(tree)(map(ordered, tree))
    return {key: ordered(tree[key]) for key in sorted(tree, key=str)} if type(tree) is dict else tree


def unmapped(tensor: torch.Tensor) -> torch.Tensor:
    """Return the whole tensor that ``torch.vmap`` shows a part of; itself outside of it."""
    functorch: Any = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return tensor


def unpacked(tree: Any) -> Any:
    """Return a nested value in which packed sequences are plain named tuples, whose tensors are seen."""

    def is_packed(value: Any) -> bool:
        return isinstance(value, PackedSequence)

    return pytree.tree_map_only(PackedSequence, lambda packed: PackedSequence_(*packed), tree, is_leaf=is_packed)


class TensorSet:
    """Tensors by identity; one that is gone leaves the set, so that its memory does, too."""

    def __init__(self, tensors: Iterable[torch.Tensor] = ()) -> None:
        self._held: weakref.WeakValueDictionary[int, torch.Tensor] = weakref.WeakValueDictionary()
        self.add(tensors)

    def add(self, tensors: Iterable[torch.Tensor]) -> None:
        """Take tensors into the set."""
        self._held.update((id(each), each) for each in tensors)

    def meets(self, tensors: Iterable[torch.Tensor]) -> bool:
        """Return whether one of the tensors is in the set."""
        return any(id(each) in self._held for each in tensors)


class Lists:
    """Lists that ``tolist`` gave of tensors, each with what stands for it, as long as nobody changes it."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[list[Any], list[Any], Any]] = {}  # with the list, so that its id is not used again

    def note(self, name: str, result: Any, stands_for: Any) -> None:
        """Take the result of a call of this name into account, if it is such a list."""
        if name == "Tensor.tolist" and isinstance(result, list):
            self._known[id(result)] = (result, copy.deepcopy(result), stands_for)

    def replaced(self, tree: Any) -> Any:
        """Return a nested value with what stands for lists in their place."""
        if not self._known:
            return tree
        return pytree.tree_map(
            lambda leaf: self._known[id(leaf)][2] if self._holds(leaf) else leaf, tree, is_leaf=self._holds
        )

    def _holds(self, value: Any) -> bool:
        found = self._known.get(id(value))
        return found is not None and found[0] == found[1]


def tensors_in(tree: Any) -> list[torch.Tensor]:
    """Return the tensors in a value of any kind, in order: containers, dataclasses, and objects that hold them."""
    found: list[torch.Tensor] = []
    _collect(tree, found, set(), DEEPEST)
    return found


def _collect(tree: Any, found: list[torch.Tensor], seen: set[int], depth: int) -> None:
    for leaf in pytree.tree_leaves(tree):
        if isinstance(leaf, torch.Tensor):
            found.append(leaf)
        elif depth and id(leaf) not in seen and not isinstance(leaf, (type, nn.Module, str, bytes)):
            seen.add(id(leaf))
            for part in _parts(leaf):
                _collect(part, found, seen, depth - 1)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if dataclasses.is_dataclass(value):
        return [getattr(value, each.name, None) for each in dataclasses.fields(value)]
    if callable(value) or type(value).__module__ in ("builtins", "torch", "numpy"):
        return []
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ()) if isinstance(name, str)]
    return (
        [*vars(value).values(), *(getattr(value, name, None) for name in slots)]
        if hasattr(value, "__dict__")
        else [getattr(value, name, None) for name in slots]
    )
