"""From measured costs to predictions: seconds, bytes, break-even, and which cuts to store for a sweep.

Pure arithmetic on ``CutCost`` and ``DataCost``, so that every rule can be tested with made-up costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from .measure import CutCost, DataCost

__all__ = ["Estimate", "Storing", "break_even", "choose_stored", "estimate"]

MOST_SUBSETS_CUTS = 12  # all subsets of so many cuts are weighed; of more, the ones that differ least are left out


@dataclass(frozen=True)
class Estimate:
    """Predicted seconds of one cut: to extract, once before the first epoch, an epoch from the cache and one without."""

    extract_s: float
    once_s: float
    cached_epoch_s: float
    plain_epoch_s: float

    def cached_total_s(self, epochs: int) -> float:
        """Return the seconds of extracting and training for so many epochs."""
        return self.extract_s + self.once_s + epochs * self.cached_epoch_s

    def plain_total_s(self, epochs: int) -> float:
        """Return the seconds of training for so many epochs without a cache."""
        return epochs * self.plain_epoch_s


@dataclass(frozen=True)
class Storing:
    """Which cuts to store for a sweep over several, the seconds of the whole sweep then, and the bytes that they take."""

    cuts: tuple[str, ...]
    total_s: float
    disk_bytes: int


def estimate(
    cost: CutCost, data: DataCost, samples: int, row_bytes: int, shard_bytes: int, fixed_s: float = 0.0
) -> Estimate:
    """Return the predicted seconds of a cut; ``fixed_s`` is what recording the network takes before the first row."""
    missing = max(0, samples * data.rows_a_sample - cost.cached_rows)
    extract_s = 0.0
    if missing:
        compute_s = missing * _overlapped(data, cost.prefix_s)
        write_s = missing * row_bytes * data.write_s_a_byte
        extract_s = compute_s + write_s
        if data.overlaps:
            # A shard is written while the next one is computed; the last one is waited for.
            shards = max(1, math.ceil(missing * row_bytes / shard_bytes))
            extract_s = max(compute_s, write_s) + min(compute_s, write_s) / shards
        extract_s += fixed_s + cost.setup_s + samples * data.hash_s
    folded = cost.folded_bytes is not None
    once_s = samples * (row_bytes * data.read_s_a_byte + cost.frozen_s)
    in_epoch_bytes = cost.folded_bytes if cost.folded_bytes is not None else row_bytes
    cached_epoch_s = samples * (in_epoch_bytes * data.read_s_a_byte + cost.step_s + (0.0 if folded else cost.frozen_s))
    plain_epoch_s = samples * _overlapped(data, cost.prefix_s + cost.frozen_s + cost.step_s)
    return Estimate(extract_s, once_s, cached_epoch_s, plain_epoch_s)


def _overlapped(data: DataCost, compute_s: float) -> float:
    """Return seconds a sample; decoding processes work beside the network, without them it waits for its input."""
    return max(data.input_s(), compute_s) if data.workers else data.decode_s + compute_s


def break_even(found: Estimate) -> int | None:
    """Return the first epoch count at which extracting and training from the cache is the faster way, None for never."""
    saved_s = found.plain_epoch_s - found.cached_epoch_s
    if saved_s <= 0:
        return None
    return max(1, math.floor((found.extract_s + found.once_s) / saved_s) + 1)


def choose_stored(
    costs: Sequence[CutCost],
    row_bytes: Sequence[int],
    data: DataCost,
    samples: int,
    epochs: int,
    disk_budget_bytes: float | None = None,
) -> Storing:
    """Return the cuts whose features to store so that training at all of them takes least time within a disk budget.

    One pass over the data computes what is stored, up to the deepest such cut; a cut that is not stored trains from the
    nearest stored one before it, whose layers up to it are run in every epoch, or else from the samples. This is the choice
    between storage and recomputation of Vista (Nakandala and Kumar, SIGMOD 2020) and Nautilus (SIGMOD 2022), small enough
    here to weigh every subset. ``costs`` are in the order of computation.
    """
    numbers = range(min(len(costs), MOST_SUBSETS_CUTS))
    best: Storing | None = None
    for size in range(len(numbers) + 1):
        for subset in combinations(numbers, size):
            disk_bytes = samples * data.rows_a_sample * sum(row_bytes[number] for number in subset)
            if disk_budget_bytes is not None and disk_bytes > disk_budget_bytes:
                continue
            total_s = _sweep_s(subset, costs, row_bytes, data, samples, epochs)
            if best is None or total_s < best.total_s:
                best = Storing(tuple(costs[number].cut for number in subset), total_s, disk_bytes)
    assert best is not None  # storing nothing always fits
    return best


def _sweep_s(
    stored: tuple[int, ...],
    costs: Sequence[CutCost],
    row_bytes: Sequence[int],
    data: DataCost,
    samples: int,
    epochs: int,
) -> float:
    total_s = 0.0
    if stored:
        rows = samples * data.rows_a_sample
        compute_s = rows * _overlapped(data, costs[stored[-1]].prefix_s)
        write_s = rows * sum(row_bytes[number] for number in stored) * data.write_s_a_byte
        together_s = max(compute_s, write_s) if data.overlaps else compute_s + write_s
        total_s += together_s + samples * data.hash_s
    for number, cost in enumerate(costs):
        found = estimate(cost, data, samples, row_bytes[number], 1 << 62)
        before = [each for each in stored if each <= number]
        if number in stored:
            total_s += found.once_s + epochs * found.cached_epoch_s
        elif before:
            source = costs[before[-1]]
            again_s = cost.prefix_s - source.prefix_s + cost.frozen_s + cost.step_s
            total_s += epochs * samples * (row_bytes[before[-1]] * data.read_s_a_byte + again_s)
        else:
            total_s += epochs * found.plain_epoch_s
    return total_s
