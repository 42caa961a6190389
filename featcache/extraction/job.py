"""Carrying out extraction tasks: run prefixes on batches, and write one shard a task and set."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import NonFiniteError, SplitError, UnreadableSampleError
from ..machine import DeviceClock, Flight, Timings, exact_numerics, is_out_of_memory, on_device
from ..samples import Changed, Snapshot, Unreadable, pieces
from ..store import FeatureSet
from .batches import Batch, Batches
from .buffer import ShardBuffer
from .checks import BatchChecks
from .provenance import surroundings

if TYPE_CHECKING:
    from ..splitting import Split

__all__ = ["Destination", "ExtractJob", "Receipt", "Task"]

Array = np.ndarray[Any, Any]
Inputs = Any
Frontier = dict[str, torch.Tensor]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Destination:
    """A set that is filled: the split whose frontier goes into it."""

    split: Split
    feature_set: FeatureSet


@dataclass(frozen=True)
class Task:
    """One shard of each of some destinations: the rows (position in the snapshot, view) that go into it, (k, 2)."""

    number: int
    rows: Array
    destinations: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Receipt:
    """What became of a task: for each destination the shard's name (None if no sample could be read), rows and bytes."""

    task: int
    destinations: tuple[int, ...]
    shards: tuple[str | None, ...]
    computed: int
    size_bytes: tuple[int, ...]
    skipped: tuple[Unreadable, ...] = ()
    changed: tuple[Changed, ...] = ()
    notes: tuple[str, ...] = ()
    timings: Timings = field(default_factory=Timings)
    turned: int = 0


@dataclass
class _LeftOut:
    """The samples of a task that get no row."""

    skipped: list[Unreadable] = field(default_factory=list)
    changed: list[Changed] = field(default_factory=list)
    turned: int = 0  # of those that get one


@dataclass
class ExtractJob:
    """The rows' source, the destinations and the snapshot of one extraction; ``run`` carries out its tasks."""

    source: Batches
    destinations: Sequence[Destination]
    snapshot: Snapshot
    device: torch.device
    batch_size: int = 64
    skip_unreadable: bool = False
    compression: str | None = None
    notes: list[str] = field(default_factory=list)
    _checks: BatchChecks | None = None
    _committed: list[tuple[FeatureSet, str]] = field(default_factory=list)
    _step: int = 0

    def __reduce__(self) -> tuple[Any, ...]:
        # One recording for all cuts, where the job is needed: what several splits share does not pickle by itself.
        first = self.destinations[0].split
        example = (first.model, first.example_inputs, first.other_length)
        sets = [FeatureSet(each.feature_set.storage, each.feature_set.recipe) for each in self.destinations]
        places = (self.device, self.batch_size, self.skip_unreadable, self.compression)
        return _job, (
            example,
            [each.split.cut for each in self.destinations],
            sets,
            self.source,
            self.snapshot,
            *places,
        )

    def moved(self, device: str) -> ExtractJob:
        """Return the same job, to be run on another device."""
        source = copy.copy(self.source)
        source.device = torch.device(device)
        return replace(self, source=source, device=torch.device(device))

    def run(self, tasks: Sequence[Task]) -> Iterator[Receipt]:
        """Yield a receipt for each task as soon as its shards are committed.

        Raises ``UnreadableSampleError`` and ``NonFiniteError`` by sample unless they are to be skipped, and
        ``SplitError`` where a check of a batch finds that caching is unsound; then what this job committed is removed.
        Whatever was computed before another error, or before an interruption, is committed first.
        """
        self._step = self._step or self.batch_size
        self._checks = self._checks or BatchChecks(self.source, notes=self.notes)
        model = self.destinations[0].split.model
        with on_device(model, self.device), exact_numerics(), ThreadPoolExecutor(1) as writer:
            waiting: Future[Receipt] | None = None
            batches = self.source.batches([task.rows for task in tasks])
            for task in tasks:
                buffers = [
                    ShardBuffer(self.destinations[each].feature_set.recipe, len(task.rows))
                    for each in task.destinations
                ]
                took = Timings()
                try:
                    left_out = self._fill(task, buffers, batches, took)
                except BaseException as error:
                    if waiting is not None:
                        waiting.result()
                    if isinstance(error, SplitError):  # what was computed by the same unsound way does not stay
                        self._withdraw()
                    else:
                        self._commit(task, buffers, _LeftOut(), took)
                    raise
                if waiting is not None:
                    yield _awaited(waiting)
                waiting = writer.submit(self._commit, task, buffers, left_out, took)
            if waiting is not None:
                yield _awaited(waiting)

    def _fill(self, task: Task, buffers: list[ShardBuffer], batches: Iterator[Batch], took: Timings) -> _LeftOut:
        splits = [self.destinations[each].split for each in task.destinations]
        left_out = _LeftOut()
        flight: Flight | None = None
        seen = 0
        while seen < len(task.rows):
            started_s = time.perf_counter()
            batch = next(batches)
            took.wait_s += time.perf_counter() - started_s
            took.decode_s += batch.decode_s
            seen += batch.seen
            self._report_unreadable(batch)
            left_out.skipped += batch.unreadable
            left_out.changed += batch.changed
            left_out.turned += batch.turned
            started = None
            if len(batch.rows):
                clock = DeviceClock(self.device)
                frontiers = self._computed(batch.inputs, splits)
                pooled = [buffer.pooled(each) for buffer, each in zip(buffers, frontiers, strict=True)]
                started = Flight(batch, pooled, clock)
                self._check(batch, splits, frontiers)
            # On a GPU the last batch is copied and stored while this one is computed.
            if flight is not None:
                left_out.skipped += self._keep(buffers, splits, flight, took)
            flight = started
        if flight is not None:
            left_out.skipped += self._keep(buffers, splits, flight, took)
        return left_out

    def _check(self, batch: Batch, splits: Sequence[Split], frontiers: Sequence[Frontier]) -> None:
        assert self._checks is not None
        self._checks.check(
            batch.inputs, splits, frontiers, lambda: [self.snapshot.names[row] for row in batch.rows[:, 0].tolist()]
        )

    def _computed(self, inputs: Inputs, splits: Sequence[Split]) -> list[Frontier]:
        while True:
            try:
                parts = [self.source.compute(part, splits) for part in pieces(inputs, self._step)]
                break
            except RuntimeError as error:
                if not is_out_of_memory(error) or self._step == 1:
                    raise
                self._step //= 2
                note = f"out of memory on {self.device}: computing {self._step} samples at a time from here on"
                log.warning(note)
                self.notes.append(note)
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
        if len(parts) == 1:
            return parts[0]
        return [
            {name: torch.cat([part[each][name] for part in parts]) for name in parts[0][each]}
            for each in range(len(splits))
        ]

    def _keep(
        self, buffers: list[ShardBuffer], splits: Sequence[Split], flight: Flight, took: Timings
    ) -> list[Unreadable]:
        """Store a batch's rows, and return those whose features some set cannot hold."""
        bad: dict[int, str] = {}
        batch, results = flight.batch, flight.land(took)
        for buffer, split, result in zip(buffers, splits, results, strict=True):
            for place in buffer.append(batch.rows, result):
                position = int(batch.rows[place, 0])
                bad.setdefault(position, buffer.unstorable)
                if not self.skip_unreadable:
                    raise NonFiniteError(
                        f"the features of {self.snapshot.names[position]} at {split.cut!r} are {buffer.unstorable}. Check "
                        "the image and the weights, or choose another --dtype."
                    )
        return [Unreadable(each, self.snapshot.names[each], f"its features are {why}") for each, why in bad.items()]

    def _report_unreadable(self, batch: Batch) -> None:
        if batch.unreadable and not self.skip_unreadable:
            first = batch.unreadable[0]
            raise UnreadableSampleError(
                f"{first.name} cannot be read: {first.reason.rstrip('.')}. Mend or remove it, or use --on-error skip."
            )

    def _commit(self, task: Task, buffers: list[ShardBuffer], left_out: _LeftOut, took: Timings) -> Receipt:
        started_s = time.perf_counter()
        shards: list[str | None] = []
        sizes = []
        noted = {self.snapshot.ids[bad.position].tobytes().hex(): (bad.name, bad.reason) for bad in left_out.skipped}
        for number, buffer in zip(task.destinations, buffers, strict=True):
            feature_set = self.destinations[number].feature_set
            shard, rows = None, buffer.rows
            arrays, scales = buffer.arrays()
            if len(rows):
                ids = self.snapshot.ids[rows[:, 0]]
                made_by = self.provenance(feature_set.recipe.cut)
                shard = feature_set.add(ids, rows[:, 1], arrays, made_by, scales, self.compression)
            if noted:
                feature_set.record_skipped(noted)
            shards.append(shard)
            if shard is not None:
                self._committed.append((feature_set, shard))
            size_bytes = sum(each.nbytes for each in (*arrays.values(), *scales.values()))
            if self.compression is not None and shard is not None:
                size_bytes = feature_set.storage.fetch(f"{feature_set.path}/{shard}").stat().st_size
            sizes.append(size_bytes)
        computed = len(task.rows) - len(left_out.skipped) - len(left_out.changed)
        took.write_s += time.perf_counter() - started_s
        words = tuple(self.notes)
        log.info("task %d: %d rows", task.number, computed, extra={"event": "task", "shards": shards, **asdict(took)})
        return Receipt(
            task.number,
            task.destinations,
            tuple(shards),
            computed,
            tuple(sizes),
            tuple(left_out.skipped),
            tuple(left_out.changed),
            words,
            took,
            left_out.turned,
        )

    def _withdraw(self) -> None:
        """Remove the shards that this job has committed."""
        for feature_set, shard in self._committed:
            feature_set.storage.remove(f"{feature_set.path}/{shard}")

    def provenance(self, cut: str) -> dict[str, Any]:
        """Return what is recorded with a shard but not keyed."""
        return {
            **surroundings(self.device),
            "batch_size": self.batch_size,
            "computed_at_once": self._step,
            "computed_from": self.source.reads,
            "suffix_check": None if self._checks is None else self._checks.largest_difference.get(cut),
        }


def _awaited(waiting: Future[Receipt]) -> Receipt:
    started_s = time.perf_counter()
    receipt = waiting.result()
    receipt.timings.write_wait_s += time.perf_counter() - started_s
    return receipt


def _job(
    example: tuple[Any, Any, Any],
    cuts: list[str],
    sets: list[FeatureSet],
    source: Batches,
    snapshot: Snapshot,
    *places: Any,
) -> ExtractJob:
    """Return the job that another process pickled, its model recorded again; raises ``SplitError`` if that differs."""
    from ..splitting import split_at

    model, inputs, other_length = example
    splits = {each.cut: each for each in split_at(model, list(dict.fromkeys(cuts)), inputs, other_length)}
    for cut, each in zip(cuts, sets, strict=True):
        if splits[cut].structure != each.recipe.structure:
            raise SplitError(
                f"the network before {cut!r} is another one in this process than in the one that sent the task. "
                "Use the same versions of Python, torch and the model's code everywhere."
            )
    destinations = [Destination(splits[cut], each) for cut, each in zip(cuts, sets, strict=True)]
    return ExtractJob(source, destinations, snapshot, *places)
