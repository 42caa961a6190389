"""How a size that was recorded grows with the batch and with the length of the samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ..errors import SplitError

__all__ = ["Growth", "growth"]


@dataclass(frozen=True)
class Growth:
    """A size as ``(batch_slope · batch + rest)``, or, with ``lengths``, what it is at two lengths, a sample or in all.

    ``lengths`` holds the sizes at the recorded and at the other length; with ``each`` it is that times the batch.
    """

    rest: int
    batch_slope: int = 0
    lengths: tuple[int, int] | None = None
    each: bool = False

    def at_length(self, recorded: int, other: int) -> tuple[Fraction, Fraction]:
        """Return (slope, rest) such that the size is slope · length + rest, for a basis that was recorded at two lengths."""
        assert self.lengths is not None
        slope = Fraction(self.lengths[1] - self.lengths[0], other - recorded)
        return slope, self.lengths[0] - slope * recorded

    def canonical(self, lengths: Sequence[tuple[int, int]]) -> list[object]:
        """Return the growth as JSON-able values that do not depend on the batches and lengths it was recorded at.

        ``lengths`` are the recorded and the other one of the inputs and of what crosses the cut. A size that follows
        neither is given as it was recorded: that may cost a recomputation for another example, never a stale row.
        """
        if self.lengths is None:
            return ["batch", self.batch_slope, self.rest]
        for number, pair in enumerate(lengths):
            slope, rest = self.at_length(*pair)
            if slope.denominator == 1 == rest.denominator:
                return ["length", number, self.each, int(slope), int(rest)]
        return ["recorded", self.each, *self.lengths, *(each for pair in lengths for each in pair)]


def growth(sizes: tuple[int, int, int], batches: tuple[int, int]) -> Growth:
    """Return how a size grows: its values at the recorded batch, at another one, and at the recorded one and another length.

    Raises ``SplitError`` where it follows no such rule.
    """
    mine, at_batch, at_length = sizes
    batch, other = batches
    if mine == at_length:
        slope, rest = divmod(at_batch - mine, other - batch)
        if rest:
            raise SplitError(f"a size of {mine} becomes {at_batch} when the batch grows from {batch} to {other}")
        return Growth(mine - slope * batch, slope)
    if mine == at_batch:
        return Growth(0, 0, (mine, at_length))
    if mine % batch or at_length % batch or mine // batch * other != at_batch:
        raise SplitError(
            f"before the cut, a size of {mine} becomes {at_batch} in another batch and {at_length} at another length, as that of "
            "packed sequences does: it follows neither. Cut before they are packed."
        )
    return Growth(0, 0, (mine // batch, at_length // batch), each=True)
