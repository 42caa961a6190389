"""Deriving: rows of a set computed from another set that is cached already, instead of from the samples.

A deeper cut is computed from a shallower one through the section between them, a pooled or rounded set from the whole
one at the same cut. Stored values that are exact give exactly what the samples would give, so the recipe is the same;
what comes from rounded values says so in its recipe.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..codecs import Stored
from ..errors import FeatCacheError, StaleError
from ..features import ShardRows
from ..identity import Recipe
from ..machine import exact_numerics, on_device, to_device
from ..splitting import difference, rounding
from ..store import FeatureSet, StoreFiles
from .batches import Batch, SampleBatches
from .derivable import derivable_from
from .request import Request, make_recipe, views_recipe

if TYPE_CHECKING:
    from ..splitting import Split

__all__ = ["CachedBatches", "cached_source"]

Array = np.ndarray[Any, Any]
Frontier = dict[str, torch.Tensor]
WORTH_MEASURING = 16  # batches; below, whichever way is a matter of seconds
MEASURED_ROWS = 2  # at once
COMPARED_ROWS = 4  # with what the samples give
TOLERANCE = 1e-4  # kernels round in another way in a batch of another size
CLEARLY = 1.5  # how much faster the samples must be to be preferred to what is cached


class CachedBatches:
    """Batches of the rows of a cached set, and the section that leads from them to a deeper cut."""

    def __init__(
        self,
        source: FeatureSet,
        section: Callable[[Frontier], Frontier],
        ids: Array,
        batch_size: int,
        device: torch.device,
    ) -> None:
        self.source, self.section, self.ids = source, section, ids
        self.batch_size, self.device = batch_size, device
        self.numerics = source.recipe.numerics
        self.reads = f"the set {source.recipe.fingerprint} at {source.recipe.cut} ({source.recipe.dtype})"
        self._dtypes = {spec.name: getattr(torch, spec.dtype) for spec in source.recipe.frontier}
        self._ragged = any(spec.ragged for spec in source.recipe.frontier)

    def batches(self, runs: Sequence[Array]) -> Iterator[Batch]:
        """Yield the batches of each run of rows (k, 2), run by run."""
        for rows in runs:
            cached = ShardRows(self.source, self.ids[rows[:, 0]], rows[:, 1])
            for chosen in self._groups(cached, len(rows)):
                # Filled up as batches of samples are: a row's last bits can depend on the size of its batch.
                count = len(chosen) if self._ragged else self.batch_size
                padded = np.concatenate([chosen, np.repeat(chosen[-1:], count - len(chosen))])
                values = cached.gather(padded)
                inputs = {name: values[name].to(dtype) for name, dtype in self._dtypes.items()}
                yield Batch(rows[chosen], to_device(inputs, self.device))

    def compute(self, inputs: Frontier, splits: Sequence[Split]) -> list[Frontier]:
        """Return what crosses the deeper cut."""
        return [self.section(inputs) for _ in splits]

    def check(self, inputs: Frontier, splits: Sequence[Split], frontiers: Sequence[Frontier]) -> list[float]:
        """Return zeros: the section was compared with the prefix when it was made."""
        return [0.0 for _ in splits]

    def _groups(self, cached: ShardRows, count: int) -> Iterator[Array]:
        everything = np.arange(count)
        groups = [everything]
        if self._ragged:
            lengths = cached.lengths(everything)
            groups = [np.flatnonzero(lengths == length) for length in np.unique(lengths)]
        for group in groups:
            for start in range(0, len(group), self.batch_size):
                yield group[start : start + self.batch_size]


def cached_source(
    request: Request,
    number: int,
    target: FeatureSet,
    rows: Array,
    store: StoreFiles,
    batch_size: int,
    device: torch.device,
) -> tuple[CachedBatches, Array] | None:
    """Return batches of a cached set from which rows of ``target`` are derived, and which of the rows those are.

    None where no set allows it, or where the samples themselves are clearly faster. Raises ``StaleError`` where the
    recipe names a set that lacks rows.
    """
    ids = request.snapshot.ids
    for recipe in derivable_from(target.recipe, store):
        source = store.set(recipe)
        present = source.holds(ids, rows)
        if target.recipe.derived_from and not present.all():
            raise StaleError(
                f"{int((~present).sum())} rows are missing in the {recipe.dtype} set at {recipe.cut!r} that --from-lossy "
                f"derives from: run `featcache extract --cut {recipe.cut} --dtype {recipe.dtype}` first."
            )
        section = _section(request, number, recipe) if present.any() else None
        if section is None:
            continue
        found = CachedBatches(source, section, ids, batch_size, device)
        if not target.recipe.derived_from and not _gives_what_samples_give(request, number, found, rows[present]):
            continue
        if target.recipe.derived_from or not _samples_are_faster(request, number, found, rows[present]):
            return found, present
    return None


def _section(request: Request, number: int, recipe: Recipe) -> Callable[[Frontier], Frontier] | None:
    """Return the section from a cached set to a cut of the request, None where the set is not what the model makes now."""
    from ..splitting import middle

    deep = request.splits[number]
    try:
        shallow = deep if recipe.cut == deep.cut else deep.shallower(recipe.cut)
    except FeatCacheError:
        return None
    now = make_recipe(shallow, request.samples, Stored(dtype=recipe.dtype, numerics=recipe.numerics))
    if recipe.views is not None:
        now = views_recipe(now, request.samples)
    return middle(shallow, deep) if now.fingerprint == recipe.fingerprint else None


def _gives_what_samples_give(request: Request, number: int, cached: CachedBatches, rows: Array) -> bool:
    """Return whether a few rows are, within rounding, what the samples give; True where the samples cannot be read."""
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(COMPARED_ROWS, len(rows))).astype(int))]
    split = request.splits[number]
    samples = SampleBatches(request.samples, len(chosen), 0, cached.device, request.stored.numerics)
    with on_device(split.model, cached.device), exact_numerics():
        fresh, derived = (_by_row(source, chosen, split) for source in (samples, cached))
    return all(
        difference(values, derived[row][name]) <= max(rounding(values.dtype), TOLERANCE)
        for row, tensors in fresh.items()
        for name, values in tensors.items()
    )


def _by_row(source: SampleBatches | CachedBatches, rows: Array, split: Split) -> dict[tuple[int, int], Frontier]:
    found = {}
    for batch in source.batches([rows]):
        if not len(batch.rows):
            continue
        (tensors,) = source.compute(batch.inputs, [split])
        for place, row in enumerate(batch.rows.tolist()):
            found[tuple(row)] = {name: values[place] for name, values in tensors.items()}
    return found


def _samples_are_faster(request: Request, number: int, cached: CachedBatches, rows: Array) -> bool:
    if len(rows) < WORTH_MEASURING * cached.batch_size:
        return False
    size = min(cached.batch_size, MEASURED_ROWS)
    few = copy.copy(cached)
    few.batch_size = size
    samples = SampleBatches(request.samples, size, 0, cached.device, request.stored.numerics)
    split = request.splits[number]

    def elapsed_s(source: SampleBatches | CachedBatches, part: Array) -> float:
        started_s = time.perf_counter()
        for batch in source.batches([part]):
            if len(batch.rows):
                source.compute(batch.inputs, [split])
        return time.perf_counter() - started_s

    # What is cached is used unless it loses twice: the first time it may have been cold.
    parts = (rows[:size], rows[size : 2 * size])
    return all(elapsed_s(samples, part) * CLEARLY < elapsed_s(few, part) for part in parts)
