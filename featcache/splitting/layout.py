"""How the rows of a batch lie in a tensor of a run, and how they become one stored row per sample, and back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from .runs import Runs

__all__ = ["Layout", "Steps", "apart", "applied", "layout_of"]

Steps = list[tuple[str, tuple[Any, ...]]]  # methods of a tensor, each with its arguments


@dataclass(frozen=True)
class Layout:
    """Which dimension of a tensor is the batch, and how many of its rows each sample has.

    A sample's rows, such as the windows of an image, follow one another; ``apart`` are those of ``torch.cat([a, b])``,
    where all samples have their first row before any has its second one. Stored rows are contiguous; the model's tensor may
    not be, as behind a permutation of channels.
    """

    dim: int = 0
    rows: int = 1
    apart: bool = False
    order: tuple[int, ...] = ()  # of the dimensions in memory, where it is another one

    @property
    def length_dim(self) -> int:
        """Return the dimension in which samples vary in length, if they do: the first one that is not the batch."""
        return 0 if self.dim else 1

    def to_rows(self) -> Steps:
        """Return the steps from the tensor of a run to one row per sample."""
        steps: Steps = [("movedim", (self.dim, 0))] if self.dim else []
        if self.rows > 1:
            steps.append(("unflatten", (0, (self.rows, -1) if self.apart else (-1, self.rows))))
        if self.apart:
            steps.append(("transpose", (0, 1)))
        return steps

    def from_rows(self) -> Steps:
        """Return the steps back. The tensor is laid out in memory as the model's was, so that kernels round alike."""
        steps: Steps = [("transpose", (0, 1))] if self.apart else []
        if self.rows > 1:
            steps.append(("flatten", (0, 1)))
        if self.dim:
            steps += [("movedim", (0, self.dim)), ("contiguous", ())]
        if self.order:
            back = tuple(self.order.index(place) for place in range(len(self.order)))
            steps += [("permute", (self.order,)), ("contiguous", ()), ("permute", (back,))]
        return steps


def applied(steps: Steps, tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor after some steps."""
    for name, args in steps:
        tensor = getattr(tensor, name)(*args)
    return tensor


def layout_of(runs: Runs, number: int) -> Layout | None:
    """Return the layout of an object, read from its shapes in batches of two sizes; None where it has no rows."""
    mine, theirs = runs.run.shapes[number], runs.larger.shapes[number]
    if len(mine) != len(theirs):
        return None
    growing = [dim for dim, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b]
    if len(growing) != 1:
        return None
    (dim,) = growing
    rows = mine[dim] // runs.run.batch
    if not rows or (mine[dim], theirs[dim]) != (rows * runs.run.batch, rows * runs.larger.batch):
        return None
    order = runs.run.orders[number] if dim == 0 and rows == 1 else ()
    return Layout(dim, rows, number in runs.apart, order)


def apart(runs: Runs, again: int) -> frozenset[int]:
    """Return the objects in which the rows of a sample lie a batch apart.

    The larger batch of a recording has the sample that it begins with again at another place, which tells.
    """
    return frozenset(number for number in range(len(runs.run.shapes)) if _is_apart(runs, number, again))


def _is_apart(runs: Runs, number: int, again: int) -> bool:
    layout = layout_of(runs, number) if number < len(runs.larger.shapes) else None
    if layout is None or layout.rows == 1:
        return False
    tensor = runs.larger.objects[number]
    together, spread = (applied(replace(layout, apart=each).to_rows(), tensor) for each in (False, True))
    return _comes_again(spread, again) and not _comes_again(together, again)


def _comes_again(rows: torch.Tensor, again: int) -> bool:
    return torch.allclose(rows[0], rows[again], rtol=1e-4, atol=1e-6, equal_nan=True)
