"""Filling sets: which rows are missing, where they come from, and the tasks that compute them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .codecs import load_codec
from .engines import load_engine
from .errors import StoreError
from .example import example_of, save_example
from .missing import ExtractReport, describe, missing_rows
from .progress import ProgressCallback, ProgressEvent
from .recipe import Recipe
from .request import Request, views_recipe
from .store import FeatureSet, StoreFiles, row_keys

if TYPE_CHECKING:
    import torch

    from .job import Batches, Destination, Task

__all__ = ["FillOptions", "fill", "stored_row_bytes"]

MAX_SHARD_ROWS = 4096  # also bounds what a kill can lose where rows are small and slow to compute
TYPICAL_STEPS = 256  # of samples that vary in length, for shard sizes and the guess at the space that they need

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class FillOptions:
    """How missing rows are computed; see :func:`featcache.extract`."""

    batch_size: int
    device: torch.device
    shard_bytes: int
    engine: str
    workers: int | None
    skip: bool
    progress: ProgressCallback
    compression: str | None = None


def fill(request: Request, store: StoreFiles, options: FillOptions) -> list[ExtractReport]:
    """Return a report for each cut of a request, after having computed the rows that its sets lack."""
    filling = _Filling(request, store, options)
    filling.derive()
    filling.compute()
    return filling.reports()


class _Filling:
    def __init__(self, request: Request, store: StoreFiles, options: FillOptions) -> None:
        self.request, self.store, self.options = request, store, options
        # For each cut the set of the plain samples and that of their views, if there are any.
        self.sets: list[tuple[int, FeatureSet]] = []
        for number, recipe in enumerate(request.recipes):
            self.sets.append((number, store.set(recipe)))
            if request.stored.views:
                self.sets.append((number, store.set(views_recipe(recipe, request.samples))))
        self.missing = [
            missing_rows(request.snapshot, each, request.stored.views, retry_skipped=not options.skip)
            for _, each in self.sets
        ]
        self.asked = [rows.copy() for rows in self.missing]
        self.derived: list[Array] = [rows[:0] for rows in self.missing]
        self.written = [0] * len(self.sets)
        self.notes: list[list[str]] = [[] for _ in request.recipes]
        self.total = sum(len(rows) for rows in self.missing)
        self.done = 0
        if self.total:
            _check_free_space(
                store, sum(len(rows) * stored_row_bytes(each.recipe) for rows, (_, each) in self._pairs())
            )
            for rows, (_, each) in self._pairs():
                if len(rows):
                    each.storage.sweep(each.path)

    def _pairs(self) -> list[tuple[Array, tuple[int, FeatureSet]]]:
        return list(zip(self.missing, self.sets, strict=True))

    def derive(self) -> None:
        """Compute what can be had from other cached sets; the shallowest cut first, so that deeper ones can follow."""
        from .derive import cached_source

        for place, (rows, (number, target)) in enumerate(self._pairs()):
            if not len(rows):
                continue
            found = cached_source(
                self.request, number, target, rows, self.store, self.options.batch_size, self.options.device
            )
            if found is None:
                continue
            source, present = found
            self._run(source, [place], rows[present])
            self.derived[place], self.missing[place] = rows[present], rows[~present]
            self.notes[number].append(f"{int(present.sum()):,} rows derived from {source.reads}")

    def compute(self) -> None:
        """Compute the rest from the samples: rows that several sets lack in one pass."""
        from .batches import SampleBatches, default_workers

        for places, rows in self._groups():
            options, samples = self.options, self.request.samples
            workers = (
                default_workers(samples, len(rows), options.device) if options.workers is None else options.workers
            )
            self._run(
                SampleBatches(samples, options.batch_size, workers, options.device, self.request.stored.numerics),
                places,
                rows,
            )

    def _groups(self) -> list[tuple[list[int], Array]]:
        """Return the missing rows by the sets that lack them."""
        lacking: dict[tuple[int, int], list[int]] = {}
        for place, rows in enumerate(self.missing):
            for position, view in rows.tolist():
                lacking.setdefault((position, view), []).append(place)
        groups: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        for row, places in lacking.items():
            groups.setdefault(tuple(places), []).append(row)
        return [
            (list(places), np.array(sorted(rows, key=lambda row: (row[1], row[0])))) for places, rows in groups.items()
        ]

    def _run(self, source: Batches, places: list[int], rows: Array) -> None:
        from .job import Destination, ExtractJob, Task

        options, snapshot = self.options, self.request.snapshot
        destinations = [
            Destination(self.request.splits[number], each) for number, each in (self.sets[p] for p in places)
        ]
        self._prepare(destinations)
        largest = max(_buffered_row_bytes(each.feature_set.recipe) for each in destinations)
        count = (
            max(1, min(options.shard_bytes // max(1, largest), MAX_SHARD_ROWS) // options.batch_size)
            * options.batch_size
        )
        everywhere = tuple(range(len(destinations)))
        tasks: list[Task] = [
            Task(number, rows[start : start + count], everywhere)
            for number, start in enumerate(range(0, len(rows), count))
        ]
        job = ExtractJob(
            source, destinations, snapshot, options.device, options.batch_size, options.skip, options.compression
        )
        options.progress(ProgressEvent("extract", self.done, self.total, "samples"))
        for receipt in load_engine(options.engine).run(job, tasks):
            self.done += (receipt.computed + len(receipt.skipped)) * len(places)
            for place, size_bytes in zip(places, receipt.size_bytes, strict=True):
                self.written[place] += size_bytes
            options.progress(ProgressEvent("extract", min(self.done, self.total), self.total, "samples"))
        for place in places:
            notes = self.notes[self.sets[place][0]]
            notes += [note for note in job.notes if note not in notes]

    def _prepare(self, destinations: list[Destination]) -> None:
        example = example_of(self.request.samples)
        for each in destinations:
            each.feature_set.declare()
            save_example(each.feature_set, example)

    def reports(self) -> list[ExtractReport]:
        """Return the report of each cut."""
        made = []
        for number in range(len(self.request.recipes)):
            places = [place for place, (owner, _) in enumerate(self.sets) if owner == number]
            sets = [self.sets[place][1] for place in places]
            report = describe(
                self.request.samples, sets[0], sets[1] if len(sets) > 1 else None, self.request.stored.views
            )
            for place in places:
                new = self._samples_among(self.asked[place], self.sets[place][1])
                derived = self._samples_among(self.derived[place], self.sets[place][1])
                report.derived += derived
                report.computed += new - derived
                report.reused -= new
                report.size_bytes += self.written[place]
                if len(self.asked[place]):
                    report.device = str(self.options.device)
            report.notes = self.notes[number]
            made.append(report)
        return made

    def _samples_among(self, rows: Array, feature_set: FeatureSet) -> int:
        """Return how many samples, equal ones counted each, got their row from the given rows."""
        ids = self.request.snapshot.ids
        count = 0
        for view in np.unique(rows[:, 1]).tolist():
            chosen = np.isin(row_keys(ids), row_keys(ids[rows[rows[:, 1] == view, 0]]))
            count += int((chosen & feature_set.present(ids, view)).sum())
        return count


def stored_row_bytes(recipe: Recipe) -> int:
    """Return the bytes that one row of a set takes on disk, uncompressed; a guess where samples vary in length."""
    codec = load_codec(recipe.dtype)
    return sum(
        math.prod(codec.storage_shape(spec.value_shape, spec.dtype))
        * codec.storage_dtype(spec.dtype).itemsize
        * (TYPICAL_STEPS if spec.ragged else 1)
        for spec in recipe.frontier
    )


def _buffered_row_bytes(recipe: Recipe) -> int:
    """Return the bytes that one row takes in memory until its shard is written: scaled precisions wait for all rows."""
    if not load_codec(recipe.dtype).scaled:
        return stored_row_bytes(recipe)
    return sum(spec.size_bytes * (TYPICAL_STEPS if spec.ragged else 1) for spec in recipe.frontier)


def _check_free_space(store: StoreFiles, needed_bytes: int) -> None:
    free = store.storage.free_bytes()
    if free is not None and needed_bytes > free:
        raise StoreError(
            f"the features need {needed_bytes / 1e9:.1f} GB, but {store.storage.url} has {free / 1e9:.1f} GB free. "
            "Choose a deeper --cut or --dtype float16, free some space, or another --store."
        )
