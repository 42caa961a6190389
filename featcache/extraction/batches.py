"""From samples to batches of model inputs on the device."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import DataError
from ..machine import to_device, transferred
from ..samples import Changed, Samples, Unreadable, is_turned, length_of
from .numerics import PrefixRunner

if TYPE_CHECKING:
    from ..splitting import Split

__all__ = ["Batch", "Batches", "SampleBatches", "any_finite"]

Array = np.ndarray[Any, Any]
Inputs = Any
Frontier = dict[str, torch.Tensor]
RAGGED_WINDOW = 16  # batches in which samples of equal length are looked for


@dataclass
class Batch:
    """A batch on its way: which rows (position in the snapshot, view) it holds, and which could not be read or changed.

    ``inputs`` may hold more rows than are named: it is filled up to the size that all batches have.
    """

    rows: Array
    inputs: Inputs
    unreadable: list[Unreadable] = field(default_factory=list)
    changed: list[Changed] = field(default_factory=list)
    decode_s: float = 0.0
    turned: int = 0  # images that lie otherwise than their EXIF orientation says

    @property
    def seen(self) -> int:
        """Return how many rows have had their turn, computed or not."""
        return len(self.rows) + len(self.unreadable) + len(self.changed)


class Batches(Protocol):
    """Where the rows of a job come from: the samples, or a set that is cached already."""

    reads: str
    device: torch.device
    numerics: str

    def batches(self, runs: Sequence[Array]) -> Iterator[Batch]:
        """Yield the batches of each run of rows, run by run."""
        ...

    def compute(self, inputs: Inputs, splits: Sequence[Split]) -> list[Frontier]:
        """Return what crosses the cut of each split."""
        ...

    def check(self, inputs: Inputs, splits: Sequence[Split], frontiers: Sequence[Frontier]) -> list[float]:
        """Return for each split the largest relative difference from the whole model on inputs with these features."""
        ...


class SampleBatches:
    """Batches of the samples' inputs, and the prefixes that are run on them."""

    reads = "samples"

    def __init__(self, samples: Samples, batch_size: int, workers: int, device: torch.device, numerics: str) -> None:
        self.samples, self.batch_size, self.workers, self.device = samples, batch_size, workers, device
        self.numerics, self._prefixes = numerics, PrefixRunner(numerics)
        self._followed = set[tuple[tuple[int, ...], ...]]()

    def batches(self, runs: Sequence[Array]) -> Iterator[Batch]:
        """Yield the batches of each run of rows (k, 2), run by run."""
        ragged = self.samples.ragged
        size = self.batch_size * (RAGGED_WINDOW if ragged else 1)
        windows = [rows[start : start + size] for rows in runs for start in range(0, len(rows), size)]
        loader = DataLoader(
            _InputDataset(self.samples),
            batch_sampler=_Windows(windows),
            num_workers=min(self.workers, len(windows)),
            collate_fn=_Collate(self.samples, self.batch_size, ragged),
            generator=torch.Generator(),  # it would draw its workers' seed from the caller's
        )
        pin = self.device.type == "cuda"

        def pinned() -> Iterator[Any]:
            for batches in loader:
                for batch in batches:
                    told = (batch.unreadable, batch.changed, batch.decode_s, batch.turned)
                    yield batch.rows, _pin(batch.inputs) if pin else batch.inputs, told

        for rows, inputs, told in transferred(pinned(), self.device):
            yield Batch(rows, inputs, *told)

    def compute(self, inputs: Inputs, splits: Sequence[Split]) -> list[dict[str, torch.Tensor]]:
        """Return what crosses the cut of each split."""
        return self._prefixes.run(inputs, splits, self._is_to_be_followed(inputs, splits))

    def _is_to_be_followed(self, inputs: Inputs, splits: Sequence[Split]) -> bool:
        """Return whether the path may be another one than that of the batches before."""
        tensors = inputs.values() if isinstance(inputs, dict) else inputs
        sizes = tuple(tuple(each.shape[1:]) for each in tensors)
        new = self.samples.ragged and sizes not in self._followed
        self._followed.add(sizes)
        return new or any(split.guards for split in splits)

    def check(
        self, inputs: Inputs, splits: Sequence[Split], frontiers: Sequence[dict[str, torch.Tensor]]
    ) -> list[float]:
        """Return for each split the largest relative difference of suffix(prefix(x)) from the whole model."""
        from ..splitting import check_all

        found = check_all(splits, inputs, frontiers if self.numerics == "exact" else None)
        mixed = self._of_many_lengths()
        return found if mixed is None else list(map(max, found, check_all(splits, mixed)))

    def _of_many_lengths(self) -> Inputs | None:
        """Return a batch of samples of many lengths, as a training step has it; None where there is none."""
        if not self.samples.ragged:
            return None
        try:
            inputs = self.samples.batch(self.samples.some_inputs())
        except DataError:  # nothing says how to pad them
            return None
        return to_device(inputs, self.device)


@dataclass
class _Windows:
    """Rows as a DataLoader takes them, made when they are asked for: as Python objects they take ten times the memory."""

    windows: list[Array]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for window in self.windows:
            yield list(map(tuple, window.tolist()))

    def __len__(self) -> int:
        return len(self.windows)


@dataclass(slots=True)
class _Made:
    """What became of a row: its model input, or what went wrong."""

    row: tuple[int, int]
    value: Any
    decode_s: float = 0.0
    turned: bool = False


class _InputDataset(Dataset[Any]):
    """The model inputs of a snapshot's rows; one that cannot be read, or is another by now, comes back as what went wrong."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.positions = samples.positions()
        self.ids = samples.snapshot().ids
        self.unread = samples.unread

    def __getitem__(self, row: tuple[int, int]) -> _Made:
        started_s = time.perf_counter()
        made = _Made(row, None)
        made.value = self._input(*row, made)
        made.decode_s = time.perf_counter() - started_s
        return made

    def _input(self, number: int, view: int, made: _Made) -> Any:
        position, listed = int(self.positions[number]), self.ids[number].tobytes()
        name = self.samples.label(position)
        try:
            found, item = self.samples.read(position)
        except OSError as error:  # UnreadableSampleError is one
            kind = Unreadable if listed in self.unread else Changed
            return kind(number, name, str(error))
        if found != listed:
            return Changed(number, name, "its content is another one than when it was listed")
        try:
            value = item()
            made.turned = not view and is_turned(value)
            return self.samples.seen(value, view, listed)
        except OSError as error:
            return Unreadable(number, name, str(error))


@dataclass
class _Collate:
    """Stacks the readable rows of a window into batches.

    A row's value can depend on the size of the batch it is computed in, at rounding level; so batches are filled up to
    one size. Rows that vary in length are batched with their equals, without padding, and not filled up.
    """

    samples: Samples
    batch_size: int
    ragged: bool

    def __call__(self, items: list[_Made]) -> list[Batch]:
        """Return the batches of items of ``_InputDataset``; the first carries what is not in them."""
        readable = [(each.row, each.value) for each in items if not isinstance(each.value, (Unreadable, Changed))]
        batches = []
        if self.ragged:
            groups: dict[Any, list[Any]] = {}
            for row, value in readable:
                groups.setdefault(length_of(value), []).append((row, value))
            for group in groups.values():
                for start in range(0, len(group), self.batch_size):
                    batches.append(self._batch(group[start : start + self.batch_size]))
        elif readable:
            self.samples.check_alike([value for _, value in readable])
            batches.append(self._batch(readable + [readable[-1]] * (self.batch_size - len(readable)), len(readable)))
        if not batches:
            batches.append(Batch(np.empty((0, 2), dtype=np.int64), None))
        batches[0].unreadable = [each.value for each in items if isinstance(each.value, Unreadable)]
        batches[0].changed = [each.value for each in items if isinstance(each.value, Changed)]
        batches[0].decode_s = sum(each.decode_s for each in items)
        batches[0].turned = sum(each.turned for each in items)
        return batches

    def _batch(self, items: list[tuple[tuple[int, int], Any]], count: int | None = None) -> Batch:
        rows = np.array([row for row, _ in items[:count]], dtype=np.int64).reshape(-1, 2)
        return Batch(rows, self.samples.batch([value for _, value in items]))


def any_finite(inputs: Inputs) -> bool:
    """Return whether there is a value in each of the inputs that is neither NaN nor infinite."""
    return all(bool(torch.isfinite(each).any()) for each in (inputs.values() if isinstance(inputs, dict) else inputs))


def _pin(inputs: Inputs) -> Inputs:
    if isinstance(inputs, dict):
        return {name: value.pin_memory() for name, value in inputs.items()}
    return tuple(value.pin_memory() for value in inputs) if inputs is not None else None
