"""Where the rows of features come from, and rows that lie in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch

from ..codecs import MASK
from ..hdf5 import Ragged, gather
from .memory import Empty, in_large_pages

__all__ = ["HELD", "LoadedRows", "Rows", "padded", "with_mask"]

HELD = {"float16": torch.float16, "bfloat16": torch.bfloat16}  # held in memory as they are stored
PIECE_BYTES = 1 << 20  # of rows that are decoded at once, while they are in the processor's cache

Array = np.ndarray[Any, Any]


class Rows(Protocol):
    """A source of rows, addressed by position."""

    def gather(self, positions: Array, empty: Empty = in_large_pages) -> dict[str, torch.Tensor]:
        """Return the decoded rows at ``positions``, by tensor name, in memory of ``empty`` where that can be."""

    def steps(self, positions: Array) -> int:
        """Return how many steps the rows at ``positions`` have in all, where samples vary in length."""


class Mappable(Protocol):
    """Rows that can be mapped into memory."""

    present: Array

    def mapped(self, positions: Array) -> LoadedRows:
        """Return all rows, of which those at ``positions`` are checked."""


class LoadedRows:
    """Rows in memory: of each tensor one array, or where samples vary in length all their steps and where each ends.

    Half precisions are held as such, and given out as float32. Where ``places`` are given, they say of each tensor where
    the rows lie in its array, which is shared and must not be written to. ``source`` is kept for as long as the rows are.
    """

    def __init__(
        self,
        values: Mapping[str, torch.Tensor | Ragged],
        places: Mapping[str, Array] | None = None,
        source: Mappable | None = None,
    ) -> None:
        self.values = dict(values)
        self._places, self._source = places, source

    def __reduce__(self) -> Any:
        if self._source is None:
            return LoadedRows, (self.values,)
        return _mapped_again, (self._source,)  # in another process: the same pages, not a copy

    def _at(self, name: str, positions: Array) -> Array:
        return positions if self._places is None else self._places[name][positions]

    def held(self, positions: Array) -> dict[str, torch.Tensor]:
        """Return the rows at ``positions`` as they are held, of each tensor that does not vary in length."""
        found = {}
        for name, values in self.values.items():
            if isinstance(values, torch.Tensor):
                where = self._at(name, positions)
                everything = len(where) == len(values) and bool((where == np.arange(len(where))).all())
                mine = everything and self._places is None  # what is shared must not be written to
                found[name] = values if mine else values[torch.from_numpy(where)]
        return found

    def gather(self, positions: Array, empty: Empty = in_large_pages) -> dict[str, torch.Tensor]:
        """Return the rows at ``positions``; those that vary in length padded with zeros, and their mask."""
        gathered: dict[str, torch.Tensor] = {}
        masks = []
        for name, values in self.values.items():
            if isinstance(values, Ragged):
                gathered[name], mask = padded(values.take(positions))
                masks.append(mask)
            elif values.dtype in HELD.values():
                gathered[name] = _take_upcast(values, self._at(name, positions), empty)
            else:
                gathered[name] = empty((len(positions), *values.shape[1:]), values.dtype)
                gather(values.numpy(), self._at(name, positions), gathered[name].numpy())
        return with_mask(gathered, masks)

    def steps(self, positions: Array) -> int:
        """Return how many steps the rows at ``positions`` have in all, where samples vary in length."""
        for values in self.values.values():
            if isinstance(values, Ragged):
                return int(np.diff(values.ends, prepend=0)[positions].sum())
        return 0


def _mapped_again(source: Mappable) -> LoadedRows:
    return source.mapped(np.flatnonzero(source.present))


def with_mask(gathered: dict[str, torch.Tensor], masks: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return gathered rows with the first of their masks, if there is one and the frontier has none of its name.

    It stands behind the frontier, whose first tensor is the cut's own.
    """
    if masks and MASK not in gathered:
        gathered[MASK] = masks[0]
    return gathered


def padded(rows: Ragged) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of varying length padded with zeros (rows, longest, …), and which steps are their own (rows, longest)."""
    lengths = np.diff(rows.ends, prepend=0)
    longest = int(lengths.max(initial=0))
    mask = np.arange(longest) < lengths[:, None]
    padded = np.zeros((len(lengths), longest, *rows.values.shape[1:]), dtype=rows.values.dtype)
    padded[mask] = rows.values
    return torch.from_numpy(padded), torch.from_numpy(mask)


def _take_upcast(values: torch.Tensor, rows: Array, empty: Empty) -> torch.Tensor:
    """Return rows of a half precision as float32, a few at a time: the conversion finds them in the processor's cache."""
    gathered = empty((len(rows), *values.shape[1:]), torch.float32)
    plain = values.view(torch.int16).numpy()  # numpy knows no bfloat16
    count = max(1, PIECE_BYTES // max(1, values[:1].nbytes))
    for start in range(0, len(rows), count):
        taken = torch.from_numpy(gather(plain, rows[start : start + count]))
        gathered[start : start + count] = taken.view(values.dtype)
    return gathered
