"""Successive halving: dropping cuts that do badly on few rows before the others get all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .trials import Trials

__all__ = ["keep_best"]

LEAST_ROWS_AN_OUTPUT = 8


def keep_best(trials: Trials, order: Sequence[str]) -> list[str]:
    """Return the cuts that are left, in the given order: two, after rounds that each drop half on twice the rows.

    Each round trains once after each cut that is left, with the first seed.
    """
    kept = list(order)
    if len(kept) <= 2:
        return kept
    _, features = trials.features(kept[0])
    outputs = trials.judge_of(features).task.outputs
    rounds = int(np.ceil(np.log2(len(kept) / 2)))
    least = min(1.0, LEAST_ROWS_AN_OUTPUT * outputs / len(features))
    for number in range(rounds):
        share = max(least, 0.5 ** (rounds - number))
        scores = {cut: trials.on_few_rows(cut, share) for cut in kept}
        # Of equally good cuts the deeper one, which is cheaper, stays.
        ranked = sorted(kept, key=lambda cut: (-scores[cut], order.index(cut)))
        kept = [cut for cut in order if cut in ranked[: max(2, -(-len(kept) // 2))]]
    return kept
