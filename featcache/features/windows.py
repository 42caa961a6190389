"""Which rows an epoch by windows gives out, and when: known without reading any, and one window at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Windows", "in_blocks", "window_sizes"]

ENDS = (8, 4, 2)  # parts of a window that the first ones are, and the last ones likewise
WORTH_ENDS = 12  # windows: of fewer, small ones would be too large a part, and mix rows of fewer places

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Windows:
    """Rows in the order in which windows take them, how many each takes, and, where they are mixed, by what seed."""

    rows: Array
    sizes: list[int]
    seed: list[int] | None

    def __len__(self) -> int:
        return len(self.sizes)

    def window(self, number: int) -> tuple[Array, Array]:
        """Return the sorted rows of a window, and the places among these of its part of the order."""
        start = sum(self.sizes[:number])
        rows = self.rows[start : start + self.sizes[number]]
        if self.seed is None:
            order = np.argsort(rows, kind="stable")
            places = np.empty_like(order)
            places[order] = np.arange(len(rows))
            return rows[order], places
        # A stable sort merges runs, ten times as fast. A generator for each window lets threads mix them beside each other.
        return np.sort(rows, kind="stable"), np.random.default_rng([*self.seed, number]).permutation(len(rows))

    def order(self) -> Array:
        """Return all rows in the order in which they are given out."""
        return np.concatenate([rows[places] for rows, places in map(self.window, range(len(self)))])


def in_blocks(count: int, block: int, generator: np.random.Generator) -> Array:
    """Return the numbers below ``count``, in runs of ``block`` that come in a random order.

    A run that is not full comes last, so that windows hold whole ones, which are read straight into their memory.
    """
    full = count // block
    rows = (generator.permutation(full)[:, None] * block + np.arange(block)).reshape(-1)
    return np.concatenate([rows, np.arange(full * block, count)])


def window_sizes(count: int, block: int, blocks: int) -> list[int]:
    """Return how many of so many rows each window takes: whole blocks, at most ``blocks`` of them.

    The first ones are small, as nothing can be given out while they are read, and so are the last ones, as nothing is read
    while they are given out. A few windows are of one size: small ones would mix most of the rows less.
    """
    total = -(-count // block)
    ends = [blocks // part for part in ENDS if blocks >= part] if total >= WORTH_ENDS * blocks else []
    rest = total - 2 * sum(ends)
    number = -(-rest // blocks)
    middle = [(each + 1) * rest // number - each * rest // number for each in range(number)]
    sizes = [each * block for each in (*ends, *middle, *reversed(ends))]
    return [*sizes[:-1], count - sum(sizes[:-1])] if count else []
