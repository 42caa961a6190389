"""Computing cached rows again and comparing them with what is stored."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..codecs import load_codec
from ..errors import StaleError
from ..store import FeatureSet, Ragged, Shard, StoreFiles
from ..tables import Records

if TYPE_CHECKING:
    import torch

    from ..extraction import Batches, Request, ShardBuffer

__all__ = ["ROUNDING", "Recomputed", "recompute"]

ROUNDING = 1e-3  # of the largest value; float16 alone rounds by half of it
NOT_A_CAUSE = ("written_at", "suffix_check")

Array = np.ndarray[Any, Any]


@dataclass
class Recomputed:
    """How rows of a set compare with a fresh forward pass.

    Attributes
    ----------
    recipe : str
        The fingerprint of the set.
    cut : str
        The cut.
    rows : int
        The number of rows that were compared.
    largest_difference : float
        The largest absolute difference that rounding to the stored precision does not explain.
    relative_difference : float
        The largest difference, relative to the largest stored value.
    sample : str, optional
        The name of the sample with the largest difference. None if there is no difference.
    provenance : dict of str to list
        In what the circumstances differ: each field with ``[stored, now]``.
    """

    recipe: str
    cut: str
    rows: int = 0
    largest_difference: float = 0.0
    relative_difference: float = 0.0
    sample: str | None = None
    provenance: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def within_rounding(self) -> bool:
        """Whether the rows differ by no more than rounding, 1e-3 of the largest value."""
        return self.relative_difference <= ROUNDING


def recompute(
    request: Request, store: StoreFiles, rows: int, batch_size: int, device: torch.device, seed: int = 0
) -> list[Recomputed]:
    """Return for each set of a request how so many of its rows, drawn with ``seed``, compare with fresh ones.

    Raises ``StaleError`` where a set has no rows of the samples.
    """
    from ..extraction import views_recipe

    found = Records[Recomputed]()
    for number, recipe in enumerate(request.recipes):
        found.append(_compare(request, number, store.set(recipe), store, rows, batch_size, device, seed))
        if request.views:
            of_views = store.set(views_recipe(recipe, request.samples))
            found.append(_compare(request, number, of_views, store, rows, batch_size, device, seed))
    return found


def _compare(
    request: Request,
    number: int,
    feature_set: FeatureSet,
    store: StoreFiles,
    count: int,
    batch_size: int,
    device: torch.device,
    seed: int,
) -> Recomputed:
    from ..extraction import Destination, ExtractJob, SampleBatches, ShardBuffer, cached_source
    from ..machine import HostCopy, exact_numerics, on_device

    recipe, split = feature_set.recipe, request.splits[number]
    rows = _drawn(request, feature_set, count, seed)
    source: Batches = SampleBatches(request.samples, batch_size, 0, device, recipe.numerics)
    if recipe.derived_from:
        derived = cached_source(request, number, feature_set, rows, store, batch_size, device)
        if derived is None:
            raise StaleError(
                f"the set at {recipe.cut!r} was derived from a rounded one that is gone: extract that one again."
            )
        source = derived[0]
    buffer = ShardBuffer(replace(recipe, dtype="float32"), len(rows))
    with on_device(split.model, device), exact_numerics():
        for batch in source.batches([rows]):
            if batch.changed:
                raise StaleError(
                    f"{batch.changed[0].name} changed after it was listed, so its row cannot be compared with a fresh one. Run "
                    "again once nothing writes to the data."
                )
            if len(batch.rows):
                frontier = source.compute(batch.inputs, [split])[0]
                buffer.append(batch.rows, HostCopy(buffer.pooled(frontier)).result())
    job = ExtractJob(source, [Destination(split, feature_set)], request.snapshot, device, batch_size)
    now = {**job.provenance(recipe.cut), "computed_at_once": batch_size}
    return _differences(request, feature_set, buffer, now)


def _drawn(request: Request, feature_set: FeatureSet, count: int, seed: int) -> Array:
    ids = request.snapshot.ids
    views = range(1, request.views + 1) if feature_set.recipe.views is not None else (0,)
    there = np.argwhere(np.array([feature_set.present(ids, view) for view in views]).reshape(len(views), len(ids)))
    if not len(there):
        raise StaleError(
            f"the set at {feature_set.recipe.cut!r} has no rows of these samples, so there is nothing to compare. "
            "Run `featcache extract` first."
        )
    chosen = np.random.default_rng(seed).permutation(len(there))[:count]
    numbers, positions = there[np.sort(chosen)].T
    return np.stack([positions, np.array(views)[numbers]], axis=1)


def _differences(request: Request, feature_set: FeatureSet, buffer: ShardBuffer, now: dict[str, Any]) -> Recomputed:
    rows, (fresh, _) = buffer.rows, buffer.arrays()
    report = Recomputed(feature_set.recipe.fingerprint, feature_set.recipe.cut, len(rows))
    _, numbers, places = feature_set.index().find(request.snapshot.ids[rows[:, 0]], rows[:, 1])
    names = feature_set.shard_names()
    largest_value = 0.0
    for number in np.unique(numbers).tolist():
        shard = feature_set.open_shard(names[number])
        _note_provenance(report, shard.provenance, now)
        for each in np.flatnonzero(numbers == number).tolist():
            place = places[each : each + 1]
            shard.check(place)
            for name, values in fresh.items():
                old, new = _flat(shard.decoded(name, place)).astype(np.float64), _flat(_row(values, each))
                difference = _unexplained(shard, name, old, new) if old.shape == new.shape else float("inf")
                largest_value = max(largest_value, float(np.abs(old).max(initial=0.0)))
                if difference > report.largest_difference:
                    report.largest_difference = difference
                    report.sample = request.snapshot.names[int(rows[each, 0])]
    report.relative_difference = report.largest_difference / (largest_value or 1.0)
    return report


def _unexplained(shard: Shard, name: str, old: Array, new: Array) -> float:
    """Return the largest difference between stored and fresh values that rounding to the stored precision does not explain."""
    spec = next(each for each in shard.recipe.frontier if each.name == name)
    codec, scales = load_codec(shard.recipe.dtype), shard.scales.get(name)
    rounded = codec.decode(codec.encode(new, scales), spec.value_shape, spec.dtype, scales)
    rounding = np.abs(rounded.astype(np.float64) - new)
    if scales is not None:  # beyond what the shard holds, values are cut off, which is not rounding
        rounding = np.minimum(rounding, float(scales[0].max()) / 2)
    return float(np.maximum(np.abs(old - new) - rounding, 0).max(initial=0.0))


def _note_provenance(report: Recomputed, stored: dict[str, Any], now: dict[str, Any]) -> None:
    for name, value in now.items():
        if name not in NOT_A_CAUSE and stored.get(name) != value:
            report.provenance.setdefault(name, [stored.get(name), value])


def _row(values: Array | Ragged, number: int) -> Array | Ragged:
    if isinstance(values, Ragged):
        return values.values[values.ends[number - 1] if number else 0 : values.ends[number]]
    return values[number : number + 1]


def _flat(values: Array | Ragged) -> Array:
    return values.values if isinstance(values, Ragged) else values
