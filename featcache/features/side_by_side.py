"""The vectors of several sets of the same samples, next to each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ..errors import HeadError, UsageError
from ..identity import Recipe
from ..machine import available_memory_bytes
from ..quantity import size_in_words
from .features import Features
from .rows import LoadedRows

__all__ = ["side_by_side"]

ROOM_SHARE = 0.6  # of the free memory that the vectors may fill


def side_by_side(parts: Sequence[Features], pools: Sequence[Callable[[Any], torch.Tensor]], recipe: Recipe) -> Features:
    """Return features in memory whose rows are the pooled rows of each part, one after the other in one vector.

    Raises ``UsageError`` where the parts are not those of the same samples, in the same order, with as many views, and
    ``HeadError`` where the vectors do not fit into the free memory.
    """
    first, (spec,) = parts[0], recipe.frontier
    for part in parts[1:]:
        if part.views != first.views or not _same_samples(first, part):
            raise UsageError(
                f"the features at {first.recipe.cut!r} and at {part.recipe.cut!r} are not those of the same samples in the same "
                "order, with as many views: extract both from the same data."
            )
    needed_bytes, room_bytes = len(first) * (first.views + 1) * spec.size_bytes, available_memory_bytes()
    if needed_bytes > ROOM_SHARE * room_bytes:
        raise HeadError(
            f"the vectors of all {len(parts)} cuts take {size_in_words(needed_bytes)}, and {size_in_words(room_bytes)} of "
            "memory are free: give fewer cuts."
        )
    vectors = [torch.empty((len(first), *spec.value_shape)) for _ in range(first.views + 1)]
    start = 0
    for part, pool in zip(parts, pools, strict=True):
        pooled = part.map(pool)
        for view, all_values in enumerate(vectors):
            values, _ = pooled.numpy(view)
            all_values[:, start : start + values.shape[1]] = torch.from_numpy(values)
        start += values.shape[1]
    return first.with_rows([LoadedRows({spec.name: values}) for values in vectors], recipe.frontier, recipe)


def _same_samples(one: Features, other: Features) -> bool:
    same = len(one) == len(other) and np.array_equal(one.sample_ids, other.sample_ids)
    return same and np.array_equal(one.targets, other.targets) and np.array_equal(one.splits, other.splits)
