"""Filling sets: which rows are missing, where they come from, and the tasks that compute them."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engines import load_engine
from ..errors import UsageError
from ..hdf5 import check_compression
from ..progress import ProgressCallback, ProgressEvent, silent
from ..store import FeatureSet, StoreFiles, claim, claim_keys, hold
from ..tables import Records
from .example import save_example
from .missing import ExtractReport, among_skipped
from .request import Request
from .slices import MissingTask, TaskSlice, task_count, task_numbers
from .space import TYPICAL_STEPS, buffered_row_bytes, check_space, new_set_bytes, shard_bytes, stored_row_bytes
from .target import NO_ROWS, CutTargets, Target, targets_of

if TYPE_CHECKING:
    import torch

    from .batches import Batches
    from .job import ExtractJob

__all__ = ["DEFAULT_SHARD_BYTES", "FillOptions", "fill", "missing_tasks"]

DEFAULT_SHARD_BYTES = 128 << 20
MAX_SHARD_ROWS = 4096  # also bounds what a kill can lose where rows are small and slow to compute
WAIT_S = 0.5  # at most, between looks at whether others have computed what they claimed

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class FillOptions:
    """How missing rows are computed; see ``featcache.extract``.

    Raises ``UsageError`` or ``UnknownNameError`` for values that make no sense.
    """

    device: torch.device
    batch_size: int = 64
    shard_bytes: int = DEFAULT_SHARD_BYTES
    engine: str = "local"
    workers: int | None = None
    skip_unreadable: bool = False
    codec: str | None = None
    store_budget_bytes: int | None = None
    task: TaskSlice | None = None
    progress: ProgressCallback = silent

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("shard_bytes", 1), ("workers", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name} must be at least {least}, not {value}.")
        load_engine(self.engine)
        check_compression(self.codec)


def missing_tasks(request: Request, store: StoreFiles, options: FillOptions) -> list[MissingTask]:
    """Return the tasks of a request that are not done; nothing is written."""
    filling = _Filling(request, store, options)
    samples = len(request.snapshot)
    lacking: dict[int, list[tuple[str, int]]] = {}
    of = task_count(samples, request.views, filling.task_rows)
    for target in filling.targets:
        numbers, counts = np.unique(task_numbers(target.missing, samples, filling.task_rows), return_counts=True)
        for task, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            lacking.setdefault(task, []).append((filling.cut_of(target).split.cut, count))
    return Records(
        MissingTask(f"{task}/{of}", tuple(dict.fromkeys(cut for cut, _ in found)), sum(count for _, count in found))
        for task, found in sorted(lacking.items())
    )


def fill(request: Request, store: StoreFiles, options: FillOptions) -> list[tuple[ExtractReport, list[FeatureSet]]]:
    """Return for each cut of a request its report and sets, after having computed the rows that they lack.

    The first set is that of the plain samples, the second that of their views, if there are any.
    """
    filling = _Filling(request, store, options)
    filling.prepare()
    filling.derive()
    filling.compute()
    done = []
    for cut in filling.cuts:
        report = cut.report(request.samples, request.views, str(options.device))
        report.task = None if options.task is None else str(options.task)
        for each in cut.sets:
            each.keep_index()
        done.append((report, cut.sets))
    return done


class _Filling:
    def __init__(self, request: Request, store: StoreFiles, options: FillOptions) -> None:
        self.request, self.store, self.options = request, store, options
        self.cuts = targets_of(request, store, retry_skipped=not options.skip_unreadable)
        self.targets = [target for cut in self.cuts for target in cut.targets]
        self.task_rows = self._shard_rows(self.targets)
        if options.task is not None:
            for target in self.targets:
                target.missing = options.task.chosen(target.missing, len(request.snapshot), self.task_rows)
        self.total = sum(len(target.missing) for target in self.targets)
        self.done = 0
        self.steps = TYPICAL_STEPS

    def cut_of(self, target: Target) -> CutTargets:
        """Return the cut whose set a target is."""
        return self.cuts[target.cut_number]

    def prepare(self) -> None:
        """Note that the sets are in use, check that there is room, and clear away what dead writers left."""
        request, store, options = self.request, self.store, self.options
        for target in self.targets:
            hold(store.storage, target.feature_set.recipe.fingerprint, self)
        if self.total:
            needed_bytes = 0
            if options.store_budget_bytes is not None:
                inputs = request.example.inputs
                self.steps = self._longest(inputs)
                needed_bytes = sum(new_set_bytes(each.feature_set, request.snapshot, inputs) for each in self.targets)
            needed_bytes += sum(self._needed_bytes(target, len(target.missing)) for target in self.targets)
            check_space(store, needed_bytes, options.store_budget_bytes)
            store.sweep()

    def derive(self) -> None:
        """Compute what can be had from other cached sets; the shallowest cut first, so that deeper ones can follow."""
        from .derive import cached_source

        for target in self.targets:
            rows = target.missing
            if not len(rows):
                continue
            found = cached_source(
                self.request, target.cut_number, target.feature_set, rows, self.store, self.options.batch_size,
                self.options.device,
            )  # fmt: skip
            if found is None:
                continue
            source, present = found
            target.derived, target.missing = self._run(source, [target], rows[present]), rows[~present]
            self.cut_of(target).note(f"{len(target.derived):,} rows derived from {source.reads}")

    def compute(self) -> None:
        """Compute the rest from the samples: rows that several sets lack in one pass."""
        from .batches import SampleBatches
        from .decoding import check_scaling, default_workers

        groups, options, samples = self._groups(), self.options, self.request.samples
        check_scaling(samples)
        for target in self.targets:
            target.missing = NO_ROWS  # they are in the groups, each of which is let go when its turn comes
        while groups:
            targets, rows = groups[0][0], len(groups[0][1])
            workers = default_workers(samples, rows, options.device) if options.workers is None else options.workers
            source = SampleBatches(samples, options.batch_size, workers, options.device, self.request.stored.numerics)
            self._run(source, targets, groups.pop(0)[1])

    def _groups(self) -> list[tuple[list[Target], Array]]:
        """Return the missing rows by the sets that lack them, the plain samples before their views."""
        missing = [target.missing for target in self.targets]
        if all(np.array_equal(rows, missing[0]) for rows in missing[1:]):
            return [(self.targets, missing[0])] if len(missing[0]) else []
        numbers = [rows[:, 1] * len(self.request.snapshot) + rows[:, 0] for rows in missing]
        every = np.unique(np.concatenate(numbers))
        lacking = np.stack([np.isin(every, each) for each in numbers], axis=1)
        patterns, group = np.unique(lacking, axis=0, return_inverse=True)
        views, positions = np.divmod(every, max(1, len(self.request.snapshot)))
        rows = np.stack([positions, views], axis=1)
        return [
            (
                [target for target, lacks in zip(self.targets, pattern.tolist(), strict=True) if lacks],
                rows[group.reshape(-1) == number],
            )
            for number, pattern in enumerate(patterns)
        ]

    def _run(self, source: Batches, targets: list[Target], rows: Array) -> Array:
        """Return the rows that this process computed of those asked for; others may have computed the rest."""
        from .job import Destination, ExtractJob

        options, snapshot = self.options, self.request.snapshot
        for target in targets:
            target.feature_set.declare()
            save_example(target.feature_set, self.request.example)
        names = [target.feature_set.recipe.fingerprint for target in targets]
        unit = self._shard_rows(targets)
        job = ExtractJob(
            source,
            [Destination(self.cut_of(target).split, target.feature_set) for target in targets],
            snapshot,
            options.device,
            options.batch_size,
            options.skip_unreadable,
            options.codec,
        )
        options.progress(ProgressEvent("extract", self.done, self.total, "samples"))
        made, pause_s = [NO_ROWS], 0.01
        while len(rows):
            # Where the bytes of a shard are a guess and must not be too many, it is looked at after each.
            ragged = any(spec.ragged for target in targets for spec in target.feature_set.recipe.frontier)
            careful = options.store_budget_bytes is not None and ragged
            keys = claim_keys(snapshot.ids, rows)
            claimed = claim(self.store.storage, names, keys, unit, 1 if careful else None)
            del keys  # twenty bytes a row, for as long as it takes to compute them
            try:
                # Whoever held these rows before may have committed them since they were found missing.
                mine = self._lacking(targets, rows[claimed.rows])
                self._carry_out(job, targets, mine, unit)
            finally:
                claimed.release()
            made.append(mine.astype(np.int32))
            before, rows = len(rows), self._lacking(targets, np.delete(rows, claimed.rows, axis=0))
            self._advance((before - len(rows) - len(mine)) * len(targets))
            if len(rows) and not len(claimed.rows):
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, WAIT_S)
        joined: Array = np.concatenate(made)
        for target in targets:
            target.add_made(joined)
            self.cut_of(target).note(*job.notes)
        return joined

    def _lacking(self, targets: list[Target], rows: Array) -> Array:
        """Return those of the rows that some of the sets lack, not counting what turned out to be unreadable."""
        if not len(rows):
            return rows
        sets = [target.feature_set for target in targets]
        lacking = ~np.logical_and.reduce([each.holds(self.request.snapshot.ids, rows) for each in sets])
        if self.options.skip_unreadable:
            skipped = set.intersection(*(set(each.skipped()) for each in sets))
            lacking &= ~among_skipped(self.request.snapshot, rows, skipped)
        kept: Array = rows if lacking.all() else rows[lacking]
        return kept

    def _carry_out(self, job: ExtractJob, targets: list[Target], rows: Array, unit: int) -> None:
        from .job import Task

        everywhere = tuple(range(len(targets)))
        tasks = [
            Task(number, rows[start : start + unit], everywhere)
            for number, start in enumerate(range(0, len(rows), unit))
        ]
        if not tasks:
            return
        needed_bytes = sum(self._needed_bytes(target, len(rows)) for target in targets)
        check_space(self.store, needed_bytes, self.options.store_budget_bytes)
        # What is derived from a cached set is cheap, and the section that does it does not leave this process.
        own = job.source.reads == "samples"
        numbers = {target.cut_number for target in targets} if own else set()
        receipts = load_engine(self.options.engine if own else "local").run(job, tasks)
        # An engine ends here after an error, not in whatever thread Python happens to collect it.
        with closing(receipts) if isinstance(receipts, Generator) else nullcontext():
            for receipt in receipts:
                job.notes += [note for note in receipt.notes if note not in job.notes]
                changed = {self.request.snapshot.ids[each.position].tobytes(): each for each in receipt.changed}
                for number in numbers:
                    self.cuts[number].timings.add(receipt.timings)
                    self.cuts[number].changed |= changed
                    self.cuts[number].turned += receipt.turned
                for target, shard, size_bytes in zip(targets, receipt.shards, receipt.size_bytes, strict=True):
                    target.add_shard(shard, size_bytes)
                    self._note_steps(target, size_bytes, receipt.computed)
                self._advance((receipt.computed + len(receipt.skipped) + len(receipt.changed)) * len(targets))

    def _advance(self, rows: int) -> None:
        self.done = min(self.done + rows, self.total)
        self.options.progress(ProgressEvent("extract", self.done, self.total, "samples"))

    def _shard_rows(self, targets: list[Target]) -> int:
        batch_size = self.options.batch_size
        largest = max(1, *(buffered_row_bytes(target.feature_set.recipe) for target in targets))
        return max(1, min(self.options.shard_bytes // largest, MAX_SHARD_ROWS) // batch_size) * batch_size

    def _needed_bytes(self, target: Target, rows: int) -> int:
        return shard_bytes(target.feature_set.recipe, rows, self._shard_rows([target]), self.steps)

    def _note_steps(self, target: Target, size_bytes: int, rows: int) -> None:
        recipe = target.feature_set.recipe
        step_bytes = stored_row_bytes(recipe, 1) if any(spec.ragged for spec in recipe.frontier) else 0
        if step_bytes and rows:
            self.steps = max(self.steps, -(-size_bytes // (step_bytes * rows)))

    def _longest(self, inputs: Any) -> int:
        """Return the steps of the longest sample that was looked at: how long others are is known when they are computed."""
        values = inputs.values() if isinstance(inputs, dict) else inputs
        return max([TYPICAL_STEPS, *(int(value.shape[1]) for value in values if value.dim() > 1)])
