"""From samples to batches of model inputs on the device."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from .devices import transferred
from .request import as_inputs, collate
from .samples import Samples, Unreadable

__all__ = ["Batch", "Collate", "InputDataset", "default_workers", "pieces", "transferred_batches"]

Array = np.ndarray[Any, Any]
Inputs = Any
WORTH_WORKERS_S = 4.0  # decoding that takes less in all is done before worker processes would have started


@dataclass
class Batch:
    """A padded batch on its way: which of its rows are real, and which samples could not be read."""

    positions: list[int]
    inputs: Inputs
    unreadable: list[Unreadable]


class InputDataset(Dataset[Any]):
    """The model inputs of a snapshot's samples; a sample that cannot be read comes back as what went wrong."""

    def __init__(self, samples: Samples, positions: Array) -> None:
        self.samples = samples
        self.positions = positions

    def __getitem__(self, row: int) -> tuple[int, Any]:
        position = int(self.positions[row])
        try:
            return row, self.samples.input(position)
        except OSError as error:  # UnreadableSampleError is one
            return row, Unreadable(row, self.samples.label(position), str(error))


@dataclass
class Collate:
    """Stacks the readable samples of a batch and fills it up to its full size.

    A row's value can depend on the size of the batch it is computed in, at rounding level; so all batches have the same.
    """

    batch_size: int

    def __call__(self, items: list[tuple[int, Any]]) -> Batch:
        """Return the batch of items of :class:`InputDataset`."""
        readable = [(row, value) for row, value in items if not isinstance(value, Unreadable)]
        unreadable = [value for _, value in items if isinstance(value, Unreadable)]
        if not readable:
            return Batch([], None, unreadable)
        values = [value for _, value in readable]
        values += [values[-1]] * (self.batch_size - len(values))
        return Batch([row for row, _ in readable], as_inputs(collate(values, default_collate)), unreadable)


def transferred_batches(batches: DataLoader[Any], device: torch.device) -> Iterator[Batch]:
    """Yield batches with their inputs on the device."""

    def pinned() -> Iterator[Any]:
        for batch in batches:
            yield (
                batch.positions,
                _pin(batch.inputs) if device.type == "cuda" else batch.inputs,
                batch.unreadable,
            )

    for positions, inputs, unreadable in transferred(pinned(), device):
        yield Batch(positions, inputs, unreadable)


def default_workers(samples: Samples, count: int, device: torch.device) -> int:
    """Return how many processes should decode ``count`` samples: none where decoding is quick in all."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    tried = list(range(min(4, len(samples.dataset))))
    start = time.perf_counter()
    for position in tried:
        try:
            samples.input(position)
        except OSError:
            continue
    elapsed_s = (time.perf_counter() - start) / max(1, len(tried)) * count
    if elapsed_s < WORTH_WORKERS_S:
        return 0
    return cores if device.type != "cpu" else max(1, cores // 2)


def pieces(inputs: Inputs, step: int) -> list[Inputs]:
    """Return the inputs in runs of at most ``step`` samples."""
    first = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs[0]
    count = len(first)
    if step >= count:
        return [inputs]
    slices = [slice(start, start + step) for start in range(0, count, step)]
    if isinstance(inputs, dict):
        return [{name: value[part] for name, value in inputs.items()} for part in slices]
    return [tuple(value[part] for value in inputs) for part in slices]


def _pin(inputs: Inputs) -> Inputs:
    if isinstance(inputs, dict):
        return {name: value.pin_memory() for name, value in inputs.items()}
    return tuple(value.pin_memory() for value in inputs) if inputs is not None else None
