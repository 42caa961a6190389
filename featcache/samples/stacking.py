"""Stacking model inputs into batches, also such as vary in length; and the targets of all samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import DataError

__all__ = ["TARGET_PADDING", "TargetStack", "length_of", "pieces", "stack_inputs"]

TARGET_PADDING = -100  # what torch's losses ignore unless they are told otherwise
STACKED = 4096  # targets that are Python objects at once

Array = np.ndarray[Any, Any]


def stack_inputs(inputs: list[Any], transform: Callable[[Any], Any] | None = None) -> Any:
    """Return inputs stacked into a batch: a tuple of positional or a dict of keyword inputs.

    A transform that offers ``collate(inputs)`` does it itself. Raises ``DataError`` where they do not fit.
    """
    from torch.utils.data import default_collate

    stack = getattr(transform, "collate", default_collate)
    try:
        if stack is default_collate and _are_masked(inputs):
            inputs = _zero_padded(inputs)
        batch = stack(inputs)
    except (RuntimeError, TypeError) as error:
        kinds = {str(tuple(item.shape)) if hasattr(item, "shape") else type(item).__name__ for item in inputs}
        raise DataError(
            f"samples cannot be stacked into a batch: found {', '.join(sorted(kinds)[:4])}. Give a transform that makes "
            "tensors of one shape (--transform, --image-size), or one that pads them: `collate(inputs)`."
        ) from error
    made = dict(batch) if isinstance(batch, Mapping) else tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    nested = [type(each).__name__ for each in (made.values() if isinstance(made, dict) else made)]
    if not {"dict", "list", "tuple"}.isdisjoint(nested):
        raise DataError(
            "the input of a sample is nested: give a tensor, a tuple or a flat dict of them. A network that takes one dict is "
            "given that dict."
        )
    return made


def _are_masked(inputs: list[Any]) -> bool:
    """Return whether inputs name a mask, so that padding them with zeros cannot be taken for content."""
    return isinstance(inputs[0], Mapping) and any("mask" in str(name) for name in inputs[0])


def _zero_padded(inputs: list[Any]) -> list[Any]:
    import torch

    parts: dict[str, Any] = {}
    for name in inputs[0]:
        values = [torch.as_tensor(each[name]) for each in inputs]
        parts[name] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True) if values[0].dim() else values
    return [{name: values[row] for name, values in parts.items()} for row in range(len(inputs))]


def length_of(value: Any) -> tuple[Any, ...] | None:
    """Return what tells inputs of different length apart, None for what cannot be stacked with its like at any length.

    Inputs that share all sizes but the first, tensor by tensor, share everything but this.
    """
    if isinstance(value, Mapping):
        parts = [value[name] for name in sorted(value, key=str)]  # the order of keys says nothing
    else:
        parts = list(value) if isinstance(value, (tuple, list)) else [value]
    if not all(hasattr(part, "shape") for part in parts):
        return None
    return tuple(int(part.shape[0]) if len(part.shape) else -1 for part in parts)


def pieces(inputs: Any, step: int) -> list[Any]:
    """Return the inputs in runs of at most ``step`` samples."""
    first = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs[0]
    count = len(first)
    if step >= count:
        return [inputs]
    slices = [slice(start, start + step) for start in range(0, count, step)]
    if isinstance(inputs, dict):
        return [{name: value[part] for name, value in inputs.items()} for part in slices]
    return [tuple(value[part] for value in inputs) for part in slices]


class TargetStack:
    """Targets as they come, stacked now and then: as Python objects they take many times the memory."""

    def __init__(self) -> None:
        self._new: list[Any] = []
        self._parts: list[Array] = []

    def add(self, target: Any) -> None:
        """Take the target of the next sample."""
        self._new.append(target)
        if len(self._new) == STACKED:
            self._stack()

    def stacked(self) -> Array:
        """Return all targets, rows of whole numbers padded to the longest one's length with ``TARGET_PADDING``.

        Raises ``DataError`` where others have different shapes, or where they are no numbers.
        """
        self._stack()
        joined = _alike(np.concatenate, _padded(self._parts, 2))
        if joined.dtype.kind not in "biuf":
            raise DataError(
                f"the targets of the dataset are {joined.dtype}, not numbers: give class numbers (and `classes` with "
                "their names)."
            )
        return joined.astype(np.int64, copy=False) if joined.dtype.kind in "iu" else joined

    def _stack(self) -> None:
        if set(map(type, self._new)) == {int}:  # by far the most usual, and faster than one array each
            self._parts.append(np.array(self._new))
        elif self._new:
            self._parts.append(_alike(np.stack, _padded([np.asarray(target) for target in self._new], 1)))
        self._new = []


def _padded(parts: list[Array], rank: int) -> list[Array]:
    """Return whole numbers of one rank that differ in their last size alone padded to the longest; all others as they are."""
    longest = max((part.shape[-1] for part in parts if part.ndim == rank), default=0)
    if not all(part.ndim == rank and part.dtype.kind in "iu" for part in parts):
        return parts
    return [
        part
        if part.shape[-1] == longest
        else np.pad(
            part.astype(np.int64),
            [(0, 0)] * (rank - 1) + [(0, longest - part.shape[-1])],
            constant_values=TARGET_PADDING,
        )
        for part in parts
    ]


def _alike(joined: Callable[[list[Array]], Array], parts: list[Array]) -> Array:
    try:
        return joined(parts)
    except ValueError as error:
        raise DataError(
            f"the targets of the dataset have different shapes ({error}); give all the same shape."
        ) from error
