"""Filling sets: which rows are missing, where they come from, and the tasks that compute them."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engines import load_engine
from ..identity import Recipe
from ..machine import Timings
from ..progress import ProgressCallback, ProgressEvent
from ..store import FeatureSet, StoreFiles, claim, claim_keys, hold
from .example import save_example
from .missing import ExtractReport, among_skipped, describe, missing_rows, samples_among
from .request import Request, views_recipe
from .slices import MissingTask, TaskSlice, task_count, task_numbers
from .space import TYPICAL_STEPS, buffered_row_bytes, check_space, new_set_bytes, shard_bytes, stored_row_bytes

if TYPE_CHECKING:
    import torch

    from .job import Batches, Destination, ExtractJob

__all__ = ["FillOptions", "fill", "missing_tasks"]

MAX_SHARD_ROWS = 4096  # also bounds what a kill can lose where rows are small and slow to compute
WAIT_S = 0.5  # at most, between looks at whether others have computed what they claimed

Array = np.ndarray[Any, Any]
NO_ROWS: Array = np.empty((0, 2), dtype=np.int32)


@dataclass(frozen=True)
class FillOptions:
    """How missing rows are computed; see ``featcache.extract``."""

    batch_size: int
    device: torch.device
    shard_bytes: int
    engine: str
    workers: int | None
    skip: bool
    progress: ProgressCallback
    compression: str | None = None
    store_budget_bytes: int | None = None
    task: TaskSlice | None = None


def missing_tasks(request: Request, store: StoreFiles, options: FillOptions) -> list[MissingTask]:
    """Return the tasks of a request that are not done; nothing is written."""
    filling = _Filling(request, store, options)
    samples = len(request.snapshot)
    lacking: dict[int, list[tuple[str, int]]] = {}
    of = task_count(samples, request.stored.views, filling.task_rows)
    for (number, _), rows in zip(filling.sets, filling.missing, strict=True):
        numbers, counts = np.unique(task_numbers(rows, samples, filling.task_rows), return_counts=True)
        for task, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            lacking.setdefault(task, []).append((request.recipes[number].cut, count))
    return [
        MissingTask(f"{task}/{of}", tuple(dict.fromkeys(cut for cut, _ in found)), sum(count for _, count in found))
        for task, found in sorted(lacking.items())
    ]


def fill(request: Request, store: StoreFiles, options: FillOptions) -> list[tuple[ExtractReport, list[FeatureSet]]]:
    """Return for each cut of a request its report and sets, after having computed the rows that they lack.

    The first set is that of the plain samples, the second that of their views, if there are any.
    """
    filling = _Filling(request, store, options)
    filling.prepare()
    filling.derive()
    filling.compute()
    reports = filling.reports()
    for _, each in filling.sets:
        each.keep_index()
    return [
        (report, [each for owner, each in filling.sets if owner == number]) for number, report in enumerate(reports)
    ]


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
        self.task_rows = self._shard_rows([each.recipe for _, each in self.sets])
        if options.task is not None:
            samples = len(request.snapshot)
            self.missing = [options.task.chosen(rows, samples, self.task_rows) for rows in self.missing]
        self.made = [NO_ROWS] * len(self.missing)
        self.derived = [NO_ROWS] * len(self.missing)
        self.written = [0] * len(self.sets)
        self.notes: list[list[str]] = [[] for _ in request.recipes]
        self.total = sum(len(rows) for rows in self.missing)
        self.done = 0
        self.steps = TYPICAL_STEPS
        self.shards: list[list[str]] = [[] for _ in self.sets]
        self.timings = [Timings() for _ in request.recipes]

    def prepare(self) -> None:
        """Note that the sets are in use, check that there is room, and clear away what dead writers left."""
        request, store, options = self.request, self.store, self.options
        for _, each in self.sets:
            hold(store.storage, each.recipe.fingerprint, self)
        if self.total:
            needed_bytes = 0
            if options.store_budget_bytes is not None:
                inputs = request.example.inputs
                self.steps = self._longest(inputs)
                needed_bytes = sum(new_set_bytes(each, request.snapshot, inputs) for _, each in self.sets)
            needed_bytes += sum(self._needed_bytes(each.recipe, len(rows)) for rows, (_, each) in self._pairs())
            check_space(store, needed_bytes, options.store_budget_bytes)
            store.sweep()

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
            self.derived[place], self.missing[place] = self._run(source, [place], rows[present]), rows[~present]
            self.notes[number].append(f"{len(self.derived[place]):,} rows derived from {source.reads}")

    def compute(self) -> None:
        """Compute the rest from the samples: rows that several sets lack in one pass."""
        from .batches import SampleBatches, default_workers

        groups, options, samples = self._groups(), self.options, self.request.samples
        self.missing = []  # what is missing is in the groups, each of which is let go when its turn comes
        while groups:
            places, rows = groups[0][0], len(groups[0][1])
            workers = default_workers(samples, rows, options.device) if options.workers is None else options.workers
            source = SampleBatches(samples, options.batch_size, workers, options.device, self.request.stored.numerics)
            self._run(source, places, groups.pop(0)[1])

    def _groups(self) -> list[tuple[list[int], Array]]:
        """Return the missing rows by the sets that lack them, the plain samples before their views."""
        if all(np.array_equal(rows, self.missing[0]) for rows in self.missing[1:]):
            return [(list(range(len(self.missing))), self.missing[0])] if len(self.missing[0]) else []
        numbers = [rows[:, 1] * len(self.request.snapshot) + rows[:, 0] for rows in self.missing]
        every = np.unique(np.concatenate(numbers))
        lacking = np.stack([np.isin(every, each) for each in numbers], axis=1)
        patterns, group = np.unique(lacking, axis=0, return_inverse=True)
        views, positions = np.divmod(every, max(1, len(self.request.snapshot)))
        rows = np.stack([positions, views], axis=1)
        return [
            (np.flatnonzero(pattern).tolist(), rows[group.reshape(-1) == number])
            for number, pattern in enumerate(patterns)
        ]

    def _run(self, source: Batches, places: list[int], rows: Array) -> Array:
        """Return the rows that this process computed of those asked for; others may have computed the rest."""
        from .job import Destination, ExtractJob

        options, snapshot = self.options, self.request.snapshot
        destinations = [
            Destination(self.request.splits[number], each) for number, each in (self.sets[p] for p in places)
        ]
        self._prepare(destinations)
        sets = [each.feature_set for each in destinations]
        names = [each.recipe.fingerprint for each in sets]
        unit = self._shard_rows([each.recipe for each in sets])
        job = ExtractJob(
            source, destinations, snapshot, options.device, options.batch_size, options.skip, options.compression
        )
        options.progress(ProgressEvent("extract", self.done, self.total, "samples"))
        made, pause_s = [NO_ROWS], 0.01
        while len(rows):
            # Where the bytes of a shard are a guess and must not be too many, it is looked at after each.
            careful = options.store_budget_bytes is not None and any(s.ragged for e in sets for s in e.recipe.frontier)
            keys = claim_keys(snapshot.ids, rows)
            claimed = claim(self.store.storage, names, keys, unit, 1 if careful else None)
            del keys  # twenty bytes a row, for as long as it takes to compute them
            try:
                # Whoever held these rows before may have committed them since they were found missing.
                mine = self._lacking(sets, rows[claimed.rows])
                self._carry_out(job, places, mine, unit)
            finally:
                claimed.release()
            made.append(mine.astype(np.int32))
            before, rows = len(rows), self._lacking(sets, np.delete(rows, claimed.rows, axis=0))
            self._advance((before - len(rows) - len(mine)) * len(places))
            if len(rows) and not len(claimed.rows):
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, WAIT_S)
        joined: Array = np.concatenate(made)
        for place in places:
            self.made[place] = np.concatenate([self.made[place], joined]) if len(self.made[place]) else joined
            notes = self.notes[self.sets[place][0]]
            notes += [note for note in job.notes if note not in notes]
        return joined

    def _lacking(self, sets: list[FeatureSet], rows: Array) -> Array:
        """Return those of the rows that some of the sets lack, not counting what turned out to be unreadable."""
        if not len(rows):
            return rows
        lacking = ~np.logical_and.reduce([each.holds(self.request.snapshot.ids, rows) for each in sets])
        if self.options.skip:
            skipped = set.intersection(*(set(each.skipped()) for each in sets))
            lacking &= ~among_skipped(self.request.snapshot, rows, skipped)
        kept: Array = rows if lacking.all() else rows[lacking]
        return kept

    def _carry_out(self, job: ExtractJob, places: list[int], rows: Array, unit: int) -> None:
        from .job import Task

        everywhere = tuple(range(len(places)))
        tasks = [
            Task(number, rows[start : start + unit], everywhere)
            for number, start in enumerate(range(0, len(rows), unit))
        ]
        if not tasks:
            return
        recipes = [self.sets[place][1].recipe for place in places]
        needed_bytes = sum(self._needed_bytes(recipe, len(rows)) for recipe in recipes)
        check_space(self.store, needed_bytes, self.options.store_budget_bytes)
        # What is derived from a cached set is cheap, and the section that does it does not leave this process.
        own = job.source.reads == "samples"
        owners = {self.sets[place][0] for place in places} if own else set()
        receipts = load_engine(self.options.engine if own else "local").run(job, tasks)
        # An engine ends here after an error, not in whatever thread Python happens to collect it.
        with closing(receipts) if isinstance(receipts, Generator) else nullcontext():
            for receipt in receipts:
                job.notes += [note for note in receipt.notes if note not in job.notes]
                for owner in owners:
                    self.timings[owner].add(receipt.timings)
                for place, shard in zip(places, receipt.shards, strict=True):
                    self.shards[place] += [] if shard is None else [shard]
                for place, size_bytes in zip(places, receipt.size_bytes, strict=True):
                    self.written[place] += size_bytes
                    self._note_steps(self.sets[place][1].recipe, size_bytes, receipt.computed)
                self._advance((receipt.computed + len(receipt.skipped)) * len(places))

    def _advance(self, rows: int) -> None:
        self.done = min(self.done + rows, self.total)
        self.options.progress(ProgressEvent("extract", self.done, self.total, "samples"))

    def _shard_rows(self, recipes: list[Recipe]) -> int:
        batch_size = self.options.batch_size
        largest = max(1, *(buffered_row_bytes(recipe) for recipe in recipes))
        return max(1, min(self.options.shard_bytes // largest, MAX_SHARD_ROWS) // batch_size) * batch_size

    def _needed_bytes(self, recipe: Recipe, rows: int) -> int:
        return shard_bytes(recipe, rows, self._shard_rows([recipe]), self.steps)

    def _note_steps(self, recipe: Recipe, size_bytes: int, rows: int) -> None:
        step_bytes = stored_row_bytes(recipe, 1) if any(spec.ragged for spec in recipe.frontier) else 0
        if step_bytes and rows:
            self.steps = max(self.steps, -(-size_bytes // (step_bytes * rows)))

    def _longest(self, inputs: Any) -> int:
        """Return the steps of the longest sample that was looked at: how long others are is known when they are computed."""
        values = inputs.values() if isinstance(inputs, dict) else inputs
        return max([TYPICAL_STEPS, *(int(value.shape[1]) for value in values if value.dim() > 1)])

    def _prepare(self, destinations: list[Destination]) -> None:
        example = self.request.example
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
                new = samples_among(self.request.snapshot, self.made[place], self.sets[place][1])
                derived = samples_among(self.request.snapshot, self.derived[place], self.sets[place][1])
                report.derived += derived
                report.computed += new - derived
                report.reused -= new
                report.size_bytes += self.written[place]
                report.shards += [f"{self.sets[place][1].path}/{shard}" for shard in self.shards[place]]
                if len(self.made[place]):
                    report.device = str(self.options.device)
            report.notes, report.timings = self.notes[number], self.timings[number]
            report.task = None if self.options.task is None else str(self.options.task)
            made.append(report)
        return made
