"""What is asked of real batches: that the suffix equals the model, and that no row depends on its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ..errors import SplitError
from ..machine import is_out_of_memory
from ..samples import pieces
from ..splitting import difference, first_difference, rounding
from .batches import any_finite

if TYPE_CHECKING:
    from ..splitting import Split
    from .batches import Batches

__all__ = ["BatchChecks"]

MOST_ALONE = 16  # rows of the first batch that are computed alone; the others in small groups
FEW = 4  # rows of a later batch
# Relative to the row's scale: in a batch of another size, kernels round in another way.
ROW_TOLERANCE = {"exact": 2e-5, "fast": 1e-4, "bf16": 0.06}
DEVICE_TOLERANCE = 1e-4  # on a GPU, which chooses among more kernels
LEAST_SCALE = 0.01  # of the largest row's: a row of less is judged by that

Inputs = Any
Frontier = dict[str, torch.Tensor]


@dataclass
class BatchChecks:
    """Checks of the batches of one extraction: the whole first one, then a few rows of the 2nd, 4th, 8th and so on.

    ``largest_difference`` tells for each cut how far suffix(prefix(x)) was from the whole model.
    """

    source: Batches
    largest_difference: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _seen: int = 0

    def check(
        self, inputs: Inputs, splits: Sequence[Split], frontiers: Sequence[Frontier], names: Callable[[], list[str]]
    ) -> None:
        """Check a batch whose features were just computed; its first rows are the samples that ``names`` gives.

        Raises ``SplitError`` where caching would be unsound.
        """
        self._seen += 1
        if self._seen & (self._seen - 1):
            return
        known = names()
        if not any_finite(pieces(inputs, len(known))[0]):
            self._seen -= 1  # samples that prove nothing are refused or skipped one by one
            return
        first = self._seen == 1
        if first:
            self._check_suffixes(inputs, len(known), splits, frontiers)
        rows = list(range(len(known)))[::-1]
        alone = _spread(rows, MOST_ALONE if first else FEW)
        together = [row for row in rows if row not in alone] if first and len(rows) > MOST_ALONE else alone
        for group in [[row] for row in alone] + _groups(together):
            self._check_rows(inputs, group, splits, frontiers, known)
        if first and len(known) == 1:
            self._seen = 0  # one row has no neighbours: the next batch is asked, too

    def _check_suffixes(
        self, inputs: Inputs, count: int, splits: Sequence[Split], frontiers: Sequence[Frontier]
    ) -> None:
        if all(split.cut in self.largest_difference for split in splits):
            return
        while True:
            try:
                found = self.source.check(inputs, splits, frontiers)
                break
            except RuntimeError as error:
                # The whole model may need more memory than the prefix does.
                if not is_out_of_memory(error) or count == 1:
                    raise
                count //= 2
                inputs = pieces(inputs, count)[0]
                frontiers = [{name: values[:count] for name, values in each.items()} for each in frontiers]
        for split, difference_found in zip(splits, found, strict=True):
            self.largest_difference[split.cut] = difference_found
            if difference_found:
                self.notes.append(
                    f"suffix(prefix(x)) at {split.cut} equals the whole model within rounding (largest relative difference "
                    f"{difference_found:.1e}), not bit for bit"
                )

    def _check_rows(
        self,
        inputs: Inputs,
        rows: list[int],
        splits: Sequence[Split],
        frontiers: Sequence[Frontier],
        names: list[str],
    ) -> None:
        """Compute some rows again without the others of their batch, and compare."""
        try:
            again = self.source.compute(_picked(inputs, rows), splits)
        except (RuntimeError, ValueError, IndexError):
            if len(rows) > 1 and rows == sorted(rows):
                raise
            # Some networks need several rows, some the longest one first: in the order of the batch they take them.
            rows = sorted(rows if len(rows) > 1 else [*rows, (rows[0] + len(names) // 2) % len(names)])
            again = self.source.compute(_picked(inputs, rows), splits)
        for split, mine, theirs in zip(splits, frontiers, again, strict=True):
            for tensor, values in mine.items():
                found = _row_differences(values, theirs[tensor], rows)
                worst = max(range(len(rows)), key=lambda place: found[place])
                if found[worst] > self._tolerance(values):
                    blamed = first_difference(split, inputs, _picked(inputs, rows), (rows[worst], worst))
                    raise SplitError(
                        f"the features of {names[rows[worst]]} at {split.cut!r} depend on the other samples of their batch: "
                        f"computed in other company, {tensor!r} differs by {found[worst]:.1e} of its scale{blamed}. Rows of "
                        "this network cannot be cached there; choose an earlier cut."
                    )

    def _tolerance(self, values: torch.Tensor) -> float:
        least = DEVICE_TOLERANCE if values.device.type != "cpu" else 0.0
        whole = not (values.is_floating_point() or values.is_complex())
        return 0.0 if whole else max(ROW_TOLERANCE[self.source.numerics], least, rounding(values.dtype))


def _spread(rows: list[int], most: int) -> list[int]:
    """Return at most so many of the rows, from all over them, with the first and the last one."""
    places = {round(number * (len(rows) - 1) / max(1, most - 1)) for number in range(most)}
    return rows if len(rows) <= most else [rows[place] for place in sorted(places)]


def _groups(rows: list[int]) -> list[list[int]]:
    """Return rows in groups of 2, 3, 4 and so on: each in another order, company and size of batch."""
    groups: list[list[int]] = []
    start = 0
    while start < len(rows):
        groups.append(rows[start : start + len(groups) + 2])
        start += len(groups) + 1
    return groups


def _picked(inputs: Inputs, rows: list[int]) -> Inputs:
    if isinstance(inputs, dict):
        return {name: value[rows] for name, value in inputs.items()}
    return tuple(value[rows] for value in inputs)


def _row_differences(batch: torch.Tensor, again: torch.Tensor, rows: list[int]) -> list[float]:
    """Return for each of some rows of a batch how far it is from the same row computed again, relative to its scale."""
    mine = batch[rows]
    if mine.shape != again.shape:
        return [float("inf")] * len(rows)
    if torch.equal(mine, again):
        return [0.0] * len(rows)
    least = LEAST_SCALE * float(batch.abs().nan_to_num(0.0, 0.0, 0.0).max())
    return [difference(one, other, least) for one, other in zip(mine, again, strict=True)]
