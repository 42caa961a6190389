"""The example input in the variants that a recording and its proof need."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ..errors import UsageError
from .canonical import canonical, runs
from .inputs import Call, as_call, batch_of, copied, is_lengths, is_masks, named_tensors, with_tensors
from .trees import tensors_in

__all__ = ["Examples", "examples"]


@dataclass(frozen=True)
class Examples:
    """The example input as (args, kwargs), in the form that depends on no sample's mask and length.

    All variants are made from a batch of two rows.
    """

    first: Call
    second: Call | None = None
    third: Call | None = None
    masks: frozenset[int] = frozenset()  # their places among the tensors: other values make no sense there
    longest_first: bool = False  # the model takes batches in that order only; row 0 is the longer one

    @property
    def two(self) -> Call:
        """Return a batch of two rows. Its containers are new each time, since a network may write into them."""
        return copied(self.first)

    @property
    def resized(self) -> Call | None:
        """Return the same at another length, where samples vary in it."""
        return None if self.second is None else copied(self.second)

    @property
    def given(self) -> Call | None:
        """Return the rows as they were given, if these differ."""
        return None if self.third is None else copied(self.third)

    @property
    def three(self) -> Call:
        """Return a batch of another size, in which row 0 comes twice: at first, and at ``again``."""
        return _rows(self.two, [0, 0, 1] if self.longest_first else [0, 1, 0])

    @property
    def again(self) -> int:
        """Return the place at which the larger batch has its first row again."""
        return 1 if self.longest_first else 2

    @property
    def other(self) -> Call:
        """Return the two rows in another order, if the model takes them so, with other values."""
        return _rows(self.two, [0, 1] if self.longest_first else [1, 0], {0: 0, 1: 0}, self.masks)

    @property
    def company(self) -> Call:
        """Return the two rows, the second one first if the model takes that, between two rows with quite other values."""
        return _rows(self.two, [0, 0, 1, 1] if self.longest_first else [0, 1, 0, 1], {0: 1, 3: 2}, self.masks)

    @property
    def places(self) -> dict[int, int]:
        """Return where in that company each of the two rows is."""
        return {0: 1, 1: 2} if self.longest_first else {0: 2, 1: 1}

    def one(self, row: int, beside: int | None = None) -> Call:
        """Return one of the two rows alone, or as the first beside a row with other values."""
        return _rows(self.two, [row]) if beside is None else _rows(self.two, [row, 1 - row], {1: beside}, self.masks)

    def trials(self) -> list[Call]:
        """Return the variants on which a suffix must equal the model."""
        return [self.two, self.three, self.other, *(each for each in (self.resized, self.given) if each is not None)]


def examples(model: nn.Module, example_inputs: Any, other_length: Any = None) -> Examples:
    """Return an example input for recording ``model``; raises ``UsageError`` if it has no batch."""
    given = _call(example_inputs, model)
    other = None if other_length is None else _call(other_length, model)
    if other is not None and _shapes(given) == _shapes(other):
        raise UsageError(
            "other_length has the same shapes as example_inputs: give samples of another length, or leave it out."
        )
    if other is not None and _inputs(given, model) != _inputs(other, model):
        raise UsageError(
            "other_length holds other inputs than example_inputs: give the same ones in the same order, of another length."
        )
    two, other = _rows(given, [0, 1]), None if other is None else _rows(other, [0, 1])
    made, resized = canonical(model, two, other)
    named = named_tensors(made, model)
    masks = frozenset(place for place, (name, tensor) in enumerate(named) if is_masks(name, tensor))
    # Packing sequences with enforce_sorted, for one, fails on any other order.
    lengths = any(is_lengths(name, tensor) for name, tensor in named)
    longest_first = lengths and runs(model, made) and not runs(model, _rows(made, [1, 0]))
    if longest_first and not runs(model, two):
        two = _rows(two, [1, 0])
    return Examples(made, resized, None if made is two else two, masks, longest_first)


def _call(inputs: Any, model: nn.Module) -> Call:
    call = as_call(inputs, model)
    tensors = [leaf for leaf in pytree.tree_leaves(call) if isinstance(leaf, torch.Tensor)]
    if not tensors or not tensors[0].dim() or not len(tensors[0]):
        raise UsageError(
            "example_inputs must hold tensors whose first dimension is the batch, with at least one sample."
        )
    return call


def _rows(
    call: Call, numbers: Sequence[int], changes: Mapping[int, int] | None = None, masks: frozenset[int] = frozenset()
) -> Call:
    """Return the numbered rows of a call; ``changes`` names places and the way in which values are changed there."""
    batch, place = batch_of(call), itertools.count()

    def pick(tensor: torch.Tensor) -> torch.Tensor:
        is_mask = next(place) in masks
        if not tensor.dim() or len(tensor) != batch:
            return tensor.detach().clone()
        picked = tensor.detach()[[number % batch for number in numbers]]
        if not is_mask:
            for row, way in (changes or {}).items():
                picked[row] = _changed(picked[row], way)
        return picked

    with torch.inference_mode(False), torch.no_grad():
        return with_tensors(call, pick)


def _changed(row: torch.Tensor, way: int) -> torch.Tensor:
    if row.is_floating_point() or row.is_complex():
        factor, shift = ((0.75, 0.03125), (-3.0, 0.5), (7.0, -1.0))[way]
        return row * factor + shift
    # Whole numbers may be token ids: their own values in another order are surely allowed.
    return row.roll(1 + way, -1) if row.dim() else row


def _shapes(call: Call) -> list[tuple[int, ...]]:
    return [tuple(leaf.shape) for leaf in pytree.tree_leaves(call) if isinstance(leaf, torch.Tensor)]


def _inputs(call: Call, model: nn.Module) -> tuple[list[str], list[int]]:
    return [name for name, _ in named_tensors(call, model)], [each.dim() for each in tensors_in(call)]
