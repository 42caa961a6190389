"""Carrying out extraction tasks: read and decode samples, run the prefix, write one shard a task."""

from __future__ import annotations

import logging
import platform
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from .batches import Batch, Collate, InputDataset, pieces, transferred_batches
from .codecs import load_codec
from .devices import HostCopy, exact_numerics, is_out_of_memory, on_device
from .errors import NonFiniteError, UnreadableSampleError
from .samples import Samples, Unreadable
from .snapshot import Snapshot
from .store import FeatureSet

if TYPE_CHECKING:
    from .split import Split

__all__ = ["ExtractJob", "Receipt", "Task"]

Array = np.ndarray[Any, Any]
Inputs = Any
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """One shard to be made: the positions in the snapshot of the samples that go into it."""

    number: int
    positions: Array


@dataclass(frozen=True)
class Receipt:
    """What became of a task: the shard's file name (None if no sample could be read), rows and bytes."""

    task: int
    shard: str | None
    computed: int
    size_bytes: int
    skipped: tuple[Unreadable, ...] = ()


@dataclass
class ExtractJob:
    """The prefix, the samples and the set of one extraction; :meth:`run` carries out its tasks."""

    split: Split
    samples: Samples
    snapshot: Snapshot
    feature_set: FeatureSet
    device: torch.device
    batch_size: int = 64
    workers: int = 0
    skip_unreadable: bool = False
    notes: list[str] = field(default_factory=list)
    largest_difference: float | None = None
    _step: int = 0

    def run(self, tasks: Sequence[Task]) -> Iterator[Receipt]:
        """Yield a receipt for each task as soon as its shard is committed.

        Raises :class:`UnreadableSampleError` and :class:`NonFiniteError` by sample unless they are to be skipped, and
        :class:`SplitError` where suffix(prefix(x)) differs from the whole model. Whatever was computed before an
        error, or before an interruption, is committed first.
        """
        self._step = self._step or self.batch_size
        with on_device(self.split.model, self.device), exact_numerics(), ThreadPoolExecutor(1) as writer:
            waiting: Future[Receipt] | None = None
            batches = transferred_batches(self._loader(tasks), self.device)
            for task in tasks:
                buffer = _Buffer(task, self.feature_set)
                try:
                    self._fill(buffer, batches)
                except BaseException:
                    if waiting is not None:
                        waiting.result()
                    self._commit(buffer)
                    raise
                if waiting is not None:
                    yield waiting.result()
                waiting = writer.submit(self._commit, buffer)
            if waiting is not None:
                yield waiting.result()

    def _fill(self, buffer: _Buffer, batches: Iterator[Batch]) -> None:
        flight: tuple[Batch, HostCopy] | None = None
        for _ in range(-(-len(buffer.task.positions) // self.batch_size)):
            batch = next(batches)
            self._report_unreadable(batch, buffer)
            started = (batch, HostCopy(self._forward(batch.inputs))) if batch.positions else None
            # On a GPU the last batch is copied and stored while this one is computed.
            if flight is not None:
                self._keep(buffer, *flight)
            flight = started
        if flight is not None:
            self._keep(buffer, *flight)

    def _forward(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        self._check_once(inputs)
        while True:
            try:
                parts = [self._prefix(part) for part in pieces(inputs, self._step)]
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
        return parts[0] if len(parts) == 1 else {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _prefix(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        frontier = self.split.prefix(**inputs) if isinstance(inputs, dict) else self.split.prefix(*inputs)
        if isinstance(frontier, torch.Tensor):
            return {self.split.frontier[0].name: frontier}
        return dict(frontier)

    def _check_once(self, inputs: Inputs) -> None:
        if self.largest_difference is not None:
            return
        check = self.split.check
        self.largest_difference = check(**inputs) if isinstance(inputs, dict) else check(*inputs)
        if self.largest_difference:
            self.notes.append(
                f"suffix(prefix(x)) equals the whole model within rounding (largest relative difference "
                f"{self.largest_difference:.1e}), not bit for bit"
            )

    def _keep(self, buffer: _Buffer, batch: Batch, copy: HostCopy) -> None:
        arrays = {}
        for name, tensor in copy.result().items():
            values = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
            arrays[name] = buffer.codec.encode(values[: len(batch.positions)].numpy())
        rows = np.array(batch.positions)
        bad = _non_finite_rows(arrays)
        if bad.any():
            found = [
                Unreadable(int(row), self.snapshot.names[row], "its features are NaN or infinite") for row in rows[bad]
            ]
            if not self.skip_unreadable:
                buffer.append(rows[~bad], {name: values[~bad] for name, values in arrays.items()})
                raise NonFiniteError(
                    f"the features of {found[0].name} at {self.split.cut!r} are NaN or infinite "
                    f"(stored as {self.feature_set.recipe.dtype}). Check the image and the weights"
                    + (
                        "; float16 holds values up to 65504 only."
                        if self.feature_set.recipe.dtype == "float16"
                        else "."
                    )
                )
            buffer.skipped.extend(found)
            rows, arrays = rows[~bad], {name: values[~bad] for name, values in arrays.items()}
        buffer.append(rows, arrays)

    def _report_unreadable(self, batch: Batch, buffer: _Buffer) -> None:
        if batch.unreadable and not self.skip_unreadable:
            first = batch.unreadable[0]
            raise UnreadableSampleError(
                f"{first.name} cannot be read: {first.reason.rstrip('.')}. Mend or remove it, or use --on-error skip."
            )
        buffer.skipped.extend(batch.unreadable)

    def _commit(self, buffer: _Buffer) -> Receipt:
        shard, size_bytes = None, 0
        if buffer.rows:
            values = buffer.arrays()
            ids = self.snapshot.ids[np.array(buffer.rows)]
            shard = self.feature_set.add(ids, values, self.provenance())
            size_bytes = sum(array.nbytes for array in values.values())
        if buffer.skipped:
            self.feature_set.record_skipped(
                {self.snapshot.ids[bad.position].tobytes().hex(): (bad.name, bad.reason) for bad in buffer.skipped}
            )
        return Receipt(buffer.task.number, shard, len(buffer.rows), size_bytes, tuple(buffer.skipped))

    def provenance(self) -> dict[str, Any]:
        """Return what is recorded with a shard but not keyed."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else platform.processor()
        return {
            "featcache": version("featcache"),
            "torch": torch.__version__,
            "torchvision": version("torchvision"),
            "python": platform.python_version(),
            "device": str(self.device),
            "device_name": name or platform.machine(),
            "threads": torch.get_num_threads(),
            "batch_size": self.batch_size,
            "computed_at_once": self._step,
            "suffix_check": self.largest_difference,
            "host": socket.gethostname(),
            "written_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }

    def _loader(self, tasks: Sequence[Task]) -> DataLoader[Any]:
        batches = [
            task.positions[start : start + self.batch_size].tolist()
            for task in tasks
            for start in range(0, len(task.positions), self.batch_size)
        ]
        return DataLoader(
            InputDataset(self.samples, self.samples.positions()),
            batch_sampler=batches,
            num_workers=min(self.workers, len(batches)),
            collate_fn=Collate(self.batch_size),
            generator=torch.Generator(),  # it would draw its workers' seed from the caller's
        )


class _Buffer:
    """The rows of one shard while they are computed."""

    def __init__(self, task: Task, feature_set: FeatureSet) -> None:
        self.task = task
        self.codec = load_codec(feature_set.recipe.dtype)
        self.rows: list[int] = []
        self.skipped: list[Unreadable] = []
        self._arrays: dict[str, Array] = {}

    def append(self, rows: Array, arrays: dict[str, Array]) -> None:
        """Copy rows in behind those that are there."""
        start, stop = len(self.rows), len(self.rows) + len(rows)
        for name, values in arrays.items():
            if name not in self._arrays:
                self._arrays[name] = np.empty((len(self.task.positions), *values.shape[1:]), values.dtype)
            self._arrays[name][start:stop] = values
        self.rows.extend(rows.tolist())

    def arrays(self) -> dict[str, Array]:
        """Return the filled part of each array."""
        return {name: values[: len(self.rows)] for name, values in self._arrays.items()}


def _non_finite_rows(arrays: dict[str, Array]) -> Array:
    count = len(next(iter(arrays.values())))
    bad = np.zeros(count, dtype=bool)
    for values in arrays.values():
        if values.dtype.kind != "f":
            continue
        with np.errstate(all="ignore"):
            # A sum is finite only if all of its terms are; it costs one pass and no memory.
            if np.isfinite(values.sum(dtype=np.float64)):
                continue
        bad |= ~np.isfinite(values).reshape(count, -1).all(axis=1)
    return bad
