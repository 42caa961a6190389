"""The example input in the variants that a recording needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ..errors import UsageError

__all__ = ["Call", "Examples", "examples"]

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Examples:
    """The example input as (args, kwargs): with a batch of two, of three, of two with other values in all rows, and of
    two with other values in the second row only; of two at another length where samples vary in it."""

    two: Call
    three: Call
    other: Call
    other_row: Call
    resized: Call | None = None

    def trials(self) -> list[Call]:
        """Return the variants on which a suffix must equal the model."""
        return [self.two, self.three, self.other, *([self.resized] if self.resized is not None else [])]


def examples(example_inputs: Any, other_length: Any = None) -> Examples:
    """Return the variants of an example input that a recording needs; raises ``UsageError`` if it has no batch."""
    made = _examples(example_inputs)
    if other_length is None:
        return made
    resized = _examples(other_length).two
    if _shapes(made.two) == _shapes(resized):
        raise UsageError(
            "other_length has the same shapes as example_inputs: give samples of another length, or leave it out."
        )
    return dataclasses.replace(made, resized=resized)


def _examples(example_inputs: Any) -> Examples:
    if isinstance(example_inputs, Mapping):
        call: Call = ((), dict(example_inputs))
    elif isinstance(example_inputs, (tuple, list)):
        call = (tuple(example_inputs), {})
    else:
        call = ((example_inputs,), {})
    tensors = [leaf for leaf in pytree.tree_leaves(call) if isinstance(leaf, torch.Tensor)]
    if not tensors or not tensors[0].dim() or not len(tensors[0]):
        raise UsageError(
            "example_inputs must hold tensors whose first dimension is the batch, with at least one sample."
        )
    batch = len(tensors[0])

    def rows(numbers: list[int], changed: tuple[int, ...] = ()) -> Call:
        def pick(tensor: torch.Tensor) -> torch.Tensor:
            if not tensor.dim() or len(tensor) != batch:
                return tensor.detach().clone()
            picked = tensor.detach()[[number % batch for number in numbers]]
            for row in changed:
                picked[row] = _changed(picked[row])
            return picked

        with torch.inference_mode(False), torch.no_grad():
            return pytree.tree_map_only(torch.Tensor, pick, call)  # type: ignore[no-any-return]

    return Examples(rows([0, 1]), rows([0, 1, 0]), rows([1, 0], (0, 1)), rows([0, 1], (1,)))


def _shapes(call: Call) -> list[tuple[int, ...]]:
    return [tuple(leaf.shape) for leaf in pytree.tree_leaves(call) if isinstance(leaf, torch.Tensor)]


def _changed(row: torch.Tensor) -> torch.Tensor:
    if row.is_floating_point() or row.is_complex():
        return row * 0.75 + 0.03125
    # Whole numbers may be token ids or masks: their own values in another order are surely allowed.
    return row.roll(1, -1) if row.dim() else row
