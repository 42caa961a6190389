"""``plan``: what caching at each cut will cost, when it pays, and when it does not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..catalog import FeatureStore
from ..codecs import Stored, takes_stored
from ..errors import UsageError
from ..extraction import DEFAULT_SHARD_BYTES, WORTH_SCALING, make_recipe, scaling_gain, stored_row_bytes
from ..machine import pick_device
from ..progress import ProgressCallback, ProgressEvent, silent
from ..samples import Samples
from ..splitting import Split, split_at
from ..tables import Tabular
from .estimate import Estimate, Storing, break_even, choose_stored, estimate
from .measure import CutCost, DataCost, measure_cut, measure_data
from .subject import Subject, subject

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PlanResult", "PlanRow", "plan"]


@dataclass(frozen=True)
class PlanRow:
    """What caching at one cut will cost, predicted from a few batches.

    Attributes
    ----------
    cut : str
        The cut.
    dtype : str
        The stored precision.
    flops_share : float
        The share of the network's FLOPs that lies before the cut, from 0 to 1.
    row_bytes : int
        The bytes of one stored row.
    disk_bytes : int
        The bytes of all rows, with those of the random views.
    cached_rows : int
        The number of plain rows that the store holds already.
    extract_s : float
        The seconds to extract what is missing.
    cached_epoch_s : float
        The seconds of one epoch from the cache.
    plain_epoch_s : float
        The seconds of one epoch without a cache.
    break_even_epoch : int or None
        The first number of epochs at which the cache is the faster way. None if it never is.
    cached_total_s : float
        The seconds to extract and train from the cache for the epochs that were asked for.
    plain_total_s : float
        The seconds to train without a cache for these epochs.
    worth_it : bool
        Whether the cache is the faster way for these epochs, within the budgets.
    verdict : str
        What follows, in words.
    """

    cut: str
    dtype: str
    flops_share: float
    row_bytes: int
    disk_bytes: int
    cached_rows: int
    extract_s: float
    cached_epoch_s: float
    plain_epoch_s: float
    break_even_epoch: int | None
    cached_total_s: float
    plain_total_s: float
    worth_it: bool
    verdict: str


@dataclass(frozen=True)
class PlanResult(Tabular):
    """What caching costs at each cut, and which cuts to store for a sweep over all of them.

    Attributes
    ----------
    dataset : str
        The name of the dataset.
    samples : int
        The number of samples.
    epochs : int
        The epochs that were asked for.
    batch_size : int
        The samples per batch.
    device : str
        The device.
    workers : int
        The number of decoding processes that the prediction is for.
    disk_free_bytes : int or None
        The bytes that are free where the store lies. None if that is unknown.
    disk_budget_bytes : int or None
        The bytes that may be used. None if there is no limit.
    time_budget_s : float or None
        The seconds that may be used. None if there is no limit.
    rows : tuple of PlanRow
        One row for each cut and precision, by precision and the shallowest cut first.
    store_cuts : tuple of str
        The cuts whose features to store for a sweep over all cuts.
    sweep_cuts : tuple of str
        The cuts that fit into the time budget, from the deepest up.
    sweep_s : float
        The seconds of the sweep if these cuts are stored.
    plain_sweep_s : float
        The seconds of the sweep without a cache.
    notes : tuple of str
        Remarks.
    """

    dataset: str
    samples: int
    epochs: int
    batch_size: int
    device: str
    workers: int
    disk_free_bytes: int | None
    disk_budget_bytes: int | None
    time_budget_s: float | None
    rows: tuple[PlanRow, ...]
    store_cuts: tuple[str, ...]
    sweep_cuts: tuple[str, ...]
    sweep_s: float
    plain_sweep_s: float
    notes: tuple[str, ...] = ()


@takes_stored
def plan(
    model: nn.Module,
    dataset: Any,
    store: FeatureStore | str,
    cuts: Sequence[str] | None = None,
    *,
    transform: Callable[[Any], Any] | None = None,
    epochs: int = 20,
    batch_size: int = 64,
    device: str | None = None,
    dtype: str | Sequence[str] = "float32",
    disk_budget_bytes: int | None = None,
    time_budget_s: float | None = None,
    name: str | None = None,
    progress: ProgressCallback = silent,
    **stored: Any,  # the options of Stored but dtype, of which several may be asked about
) -> PlanResult:
    """Predict the time and disk that caching takes at each cut, and from which epoch on it pays.

    A batch of samples is decoded, run and trained on a few times, and a file beside the store is written and removed.
    No features are stored.

    An epoch is one pass over all samples that trains what comes after the cut. Pooled vectors are trained on by a
    linear head, whose steps cost next to nothing. Plain rows that the store holds already are not counted again.

    Parameters
    ----------
    model : torch.nn.Module
        The network.
    dataset : Any
        The dataset or its specification, as for ``featcache.extract``.
    store : FeatureStore or str
        The store, or its path or URL.
    cuts : sequence of str, optional
        The cuts to compare. By default the boundaries worth comparing.
    transform : callable, optional
        The transform from an item of the dataset to the network's input.
    epochs : int, default 20
        The number of epochs to train for.
    batch_size : int, default 64
        The samples per batch.
    device : str, optional
        The device. By default the best one there is.
    dtype : str or sequence of str, default "float32"
        The stored precision, or several to compare.
    disk_budget_bytes : int, optional
        The bytes that may be used. Never more than those that are free.
    time_budget_s : float, optional
        The seconds that may be used. By default there is no limit.
    name : str, optional
        The name of the dataset. By default its own.
    progress : callable, optional
        Called with a ``ProgressEvent`` after each cut.
    numerics : str, default "exact"
        The way of computing, as for ``featcache.extract``.
    pool : str, optional
        The pooling, as for ``featcache.extract``.
    views : int, default 1
        The number of random views, as for ``featcache.extract``. It counts if the samples have an augmentation.
    augment : callable or str, optional
        The random augmentation, applied to an item before the transform: a callable, ``"flip"``, ``"trivial"``,
        ``"FILE.py:factory"`` or ``"MODULE:factory"``.
    view_seed : int, default 0
        The seed of the random views.
    from_lossy : bool, default False
        Derive the rows from a rounded set at a shallower cut. That makes another recipe.

    Returns
    -------
    PlanResult
        The predictions, and what follows from them.

    Raises
    ------
    UsageError
        If an option is not valid, or the network cannot be cut at one of the cuts.
    DataError
        If the dataset cannot be used.
    SplitError
        If the network cannot be recorded.

    Notes
    -----
    Which cuts to store for a sweep is the choice between storage and recomputation of Vista (Nakandala and Kumar,
    SIGMOD 2020) and Nautilus (SIGMOD 2022).

    Examples
    --------
    >>> import torch
    >>> import featcache
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> samples = [(torch.randn(8), number % 3) for number in range(30)]
    >>> planned = featcache.plan(network, samples, "features", ["0", "1"], epochs=10)
    >>> [(row.cut, row.row_bytes, row.disk_bytes) for row in planned.rows]
    [('0', 16, 480), ('1', 16, 480)]
    """
    dtypes = [dtype] if isinstance(dtype, str) else list(dict.fromkeys(dtype))
    ways = [Stored.of({**stored, "dtype": each}) for each in dtypes]
    _check_options(epochs, batch_size, disk_budget_bytes, time_budget_s)
    files = store if isinstance(store, FeatureStore) else FeatureStore(store)
    where = pick_device(device)
    about = subject(model, dataset, transform, name, ways[0], progress)
    names = [cut.name for cut in about.find(cuts)]
    example = about.example
    progress(ProgressEvent("measure", 0, len(names), "cuts"))
    splits = split_at(model, names, example.inputs, example.other_length)
    started_s = time.perf_counter()  # now that torch has loaded what splitting needs, which can take seconds
    split_at(model, names[-1:], example.inputs, example.other_length)
    fixed_s = time.perf_counter() - started_s  # which each extraction takes before its first row
    data, batch = measure_data(about, files, batch_size, where)
    data = replace(data, rows_a_sample=1 + (ways[0].views if about.samples.augment is not None else 0))
    classes = None if ways[0].pool else _classes(about)
    measured = []
    for split in splits:
        measured.append(measure_cut(about, split, batch, classes, where, ways[0].numerics))
        progress(ProgressEvent("measure", len(measured), len(names), "cuts"))
    costs = _deepening(measured)
    samples = len(about.samples.dataset)
    free = files.storage.free_bytes()
    budget = min((each for each in (free, disk_budget_bytes) if each is not None), default=None)
    rows = []
    for way in ways:
        for split, cost in zip(splits, costs, strict=True):
            row_bytes, cached = _stored(split, about, files, way)
            cost = replace(cost, cached_rows=min(cached, samples))
            found = estimate(cost, data, samples, row_bytes, DEFAULT_SHARD_BYTES, fixed_s)
            disk_bytes = row_bytes * samples * data.rows_a_sample
            rows.append(_row(cost, found, way.dtype, row_bytes, disk_bytes, epochs, budget, time_budget_s))
    first = [row for row in rows if row.dtype == dtypes[0]]
    storing = choose_stored(costs, [row.row_bytes for row in first], data, samples, epochs, budget)
    return PlanResult(
        about.samples.name,
        samples,
        epochs,
        batch_size,
        str(where),
        data.workers,
        free,
        disk_budget_bytes,
        time_budget_s,
        tuple(rows),
        storing.cuts,
        _within(first, storing, time_budget_s),
        storing.total_s,
        sum(row.plain_total_s for row in first),
        (*_notes(first, storing), *_scaled_note(about.samples, data, costs)),
    )


def _check_options(epochs: int, batch_size: int, disk_budget_bytes: int | None, time_budget_s: float | None) -> None:
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise UsageError(f"{name} must be at least 1, not {value}.")
    for name, budget in (("disk_budget_bytes", disk_budget_bytes), ("time_budget_s", time_budget_s)):
        if budget is not None and budget < 0:
            raise UsageError(f"{name} must be 0 or more, not {budget}.")


def _deepening(costs: Sequence[CutCost]) -> list[CutCost]:
    """Return the costs with prefixes that never get faster with depth: a timing that says so is noise."""
    least = np.maximum.accumulate([cost.prefix_s for cost in costs]).tolist()
    return [replace(cost, prefix_s=prefix_s) for cost, prefix_s in zip(costs, least, strict=True)]


def _classes(about: Subject) -> int:
    classes = getattr(about.samples.dataset, "classes", None)
    return max(2, len(classes)) if classes is not None else 10  # of little weight for what a step costs


def _stored(split: Split, about: Subject, files: FeatureStore, stored: Stored) -> tuple[int, int]:
    """Return the bytes of a stored row, and how many rows of that recipe the store holds."""
    recipe = make_recipe(split, about.samples, stored)
    return stored_row_bytes(recipe), len(files.set(recipe).index())


def _row(
    cost: CutCost,
    found: Estimate,
    dtype: str,
    row_bytes: int,
    disk_bytes: int,
    epochs: int,
    budget: float | None,
    time_budget_s: float | None,
) -> PlanRow:
    even = break_even(found)
    total_s = found.cached_total_s(epochs)
    worth_it, verdict = _judged(found, even, disk_bytes, row_bytes, epochs, budget)
    if worth_it and time_budget_s is not None and total_s > time_budget_s:
        worth_it, verdict = False, f"takes {total_s:.0f} s in all, more than the {time_budget_s:.0f} s allowed"
    return PlanRow(
        cost.cut, dtype, cost.flops_share, row_bytes, disk_bytes, cost.cached_rows, found.extract_s, found.cached_epoch_s,
        found.plain_epoch_s, even, total_s, found.plain_total_s(epochs), worth_it, verdict,
    )  # fmt: skip


def _judged(
    found: Estimate, even: int | None, disk_bytes: int, row_bytes: int, epochs: int, budget: float | None
) -> tuple[bool, str]:
    if budget is not None and disk_bytes > budget:
        return False, f"needs {disk_bytes / 1e9:.2f} GB of disk, and {budget / 1e9:.2f} GB may be used"
    if even is None:
        return False, f"never pays: reading {row_bytes / 1e6:.2f} MB a sample takes as long as computing them"
    if even > epochs:
        return False, f"pays from {even} epochs on, and {epochs} were asked for"
    times = found.plain_total_s(epochs) / max(found.cached_total_s(epochs), 1e-9)
    return True, f"pays from epoch {even} on: {times:.1f} × faster over {epochs} epochs"


def _within(rows: Sequence[PlanRow], storing: Storing, time_budget_s: float | None) -> tuple[str, ...]:
    """Return the cuts, deepest first, whose training fits into the time budget one after the other."""
    chosen: list[str] = []
    used_s = 0.0
    for row in reversed(rows):
        used_s += row.cached_total_s if row.cut in storing.cuts else min(row.plain_total_s, row.cached_total_s)
        if time_budget_s is not None and used_s > time_budget_s:
            break
        chosen.append(row.cut)
    return tuple(chosen)


def _scaled_note(samples: Samples, data: DataCost, costs: Sequence[CutCost]) -> list[str]:
    """Return what to do where images take longer to decode than the network takes for them, if anything helps."""
    slower = [cost.cut for cost in costs if cost.prefix_s < data.input_s()]
    gain = scaling_gain(samples) if slower else 1.0
    if gain < WORTH_SCALING:
        return []
    return [
        f"decoding an image takes {1000 * data.decode_s:.0f} ms, longer than the network up to {slower[-1]}: --decoding "
        f"scaled does it {gain:.1f} × faster"
    ]


def _notes(rows: Sequence[PlanRow], storing: Storing) -> tuple[str, ...]:
    notes = []
    if not any(row.worth_it for row in rows):
        notes.append("caching does not pay at any of these cuts for so few epochs and this data: train without it")
    left_out = [row.cut for row in rows if row.cut not in storing.cuts]
    if left_out and storing.cuts:
        notes.append(f"for a sweep store {', '.join(storing.cuts)}; recompute {', '.join(left_out)} in every epoch")
    return tuple(notes)
