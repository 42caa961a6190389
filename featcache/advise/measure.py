"""Measuring what a plan is computed from: a few batches decoded, run, trained on, written and read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import torch
import xxhash
from torch import nn

from ..errors import DataError, HeadError
from ..extraction import PrefixRunner, default_workers
from ..heads import new_network, train_mode
from ..machine import exact_numerics, on_device, to_device
from ..splitting import Split, check_all, fold
from ..store import StoreFiles
from .subject import Subject

__all__ = ["CutCost", "DataCost", "measure_cut", "measure_data"]

REPEATS = 3
DISK_TRIAL_BYTES = 16 << 20
LEAST_TRIAL_S = 0.2  # a timing is repeated until it took so long, so that a slow clock or a busy core weighs little


@dataclass(frozen=True)
class DataCost:
    """Seconds that a sample or a byte costs whatever the cut: decoding, hashing, writing to the store, reading it back."""

    decode_s: float
    hash_s: float
    write_s_a_byte: float
    read_s_a_byte: float
    workers: int = 0
    overlaps: bool = False  # whether writing runs beside computing: only where that is not done by the CPU
    rows_a_sample: int = 1  # the plain one and each random view

    def input_s(self) -> float:
        """Return the seconds a sample until it is a model's input, decoding processes counted."""
        return self.decode_s / max(1, self.workers)


@dataclass(frozen=True)
class CutCost:
    """What a cut costs: seconds a sample of the prefix, of the part of the suffix that training runs once, and of a step.

    ``frozen_s`` is the once-run part (pooling in front of the last layer, say), which the loop without a cache runs in
    every epoch; ``step_s`` is forward, backward and optimizer of what is trained.
    """

    cut: str
    prefix_s: float
    frozen_s: float
    step_s: float
    flops_share: float = 0.0
    setup_s: float = 0.0
    cached_rows: int = 0
    folded_bytes: int | None = None


def timed(action: Callable[[], Any], least_s: float = LEAST_TRIAL_S) -> float:
    """Return the median seconds of a call, after one call that is not counted."""
    action()
    times: list[float] = []
    while len(times) < REPEATS or (sum(times) < least_s and len(times) < 50):
        started_s = time.perf_counter()
        action()
        times.append(time.perf_counter() - started_s)
    return median(times)


def measure_data(subject: Subject, store: StoreFiles, batch_size: int, device: torch.device) -> tuple[DataCost, Any]:
    """Return what the samples and the store's disk cost, and one batch of inputs on the device."""
    samples = subject.samples
    count = len(samples.dataset)
    inputs, raw_s, started_s = [], 0.0, time.perf_counter()
    for position in np.unique(np.linspace(0, count - 1, min(batch_size, count)).astype(int)).tolist():
        with suppress(OSError):
            inputs.append(samples.input(position))
    if not inputs:
        raise DataError(f"no sample of {samples.name!r} can be read: there is nothing to plan for.")
    batch = samples.batch(inputs)
    decode_s = (time.perf_counter() - started_s) / len(inputs)
    if not hasattr(samples.dataset, "sample_ids"):
        # Such a dataset is gone through once more to hash its items.
        tried = samples.spread()
        raw_s = timed(lambda: [samples.raw(position) for position in tried], 0.0) / len(tried)
    write, read = _disk(store)
    workers = default_workers(samples, count, device)
    return DataCost(decode_s, raw_s, write, read, workers, device.type != "cpu"), to_device(batch, device)


def measure_cut(
    subject: Subject, split: Split, batch: Any, classes: int | None, device: torch.device, numerics: str = "exact"
) -> CutCost:
    """Return what a cut costs; with ``classes`` None, what is stored is pooled and nothing after the cut is run."""
    share = next(cut.flops_share for cut in subject.candidates if cut.name == split.cut)
    rows = _rows(batch)
    with on_device(subject.model, device), exact_numerics():
        runner = PrefixRunner(numerics)
        prefix_s = timed(lambda: _run(runner, split, batch, device)) / rows
        setup_s = timed(lambda: _check(split, batch, device), 0.0)
        cost = CutCost(split.cut, prefix_s, 0.0, 0.0, share, setup_s)
        if classes is None:
            return cost
        frontier = _run(PrefixRunner(), split, batch, device)
        value = frontier if len(frontier) > 1 else next(iter(frontier.values()))
        return _with_step(cost, split, value, rows, classes, device)


def _with_step(cost: CutCost, split: Split, frontier: Any, rows: int, classes: int, device: torch.device) -> CutCost:
    """Return the cost with what training after the cut takes, as ``train_head`` does it."""
    try:
        network = new_network(split, classes, 0, device)
    except HeadError:  # no last layer after the cut: a linear head on the vectors costs next to nothing
        return cost
    suffix = network.suffix
    trainable = {name for name, parameter in suffix.named_parameters() if parameter.requires_grad}
    train_mode(suffix, trainable, True)
    frozen, rest = fold(suffix, trainable)
    given = frontier
    folded_bytes = None
    if frozen is not None:
        frozen.eval()
        with torch.no_grad():
            given = frozen(frontier)

            def run_frozen() -> None:
                frozen(frontier)
                _wait(device)

            cost = replace(cost, frozen_s=timed(run_frozen) / rows)
        folded_bytes = given[0].numel() * given.element_size()
    optimizer = torch.optim.AdamW([each for each in rest.parameters() if each.requires_grad], lr=1e-6)
    targets = torch.arange(rows, device=device) % classes

    def step() -> None:
        loss = nn.functional.cross_entropy(rest(_again(given)), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        _wait(device)

    with torch.inference_mode(False), torch.enable_grad():
        return replace(cost, step_s=timed(step) / rows, folded_bytes=folded_bytes)


def _again(given: Any) -> Any:
    """Return the same values in memory of their own: a suffix may write in place into what it is given."""
    if isinstance(given, dict):
        return {name: value.clone() for name, value in given.items()}
    return given.clone()


def _run(runner: PrefixRunner, split: Split, batch: Any, device: torch.device) -> dict[str, torch.Tensor]:
    found = runner.run(batch, [split])
    _wait(device)
    return found[0]


def _check(split: Split, batch: Any, device: torch.device) -> None:
    check_all([split], batch)
    _wait(device)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _rows(batch: Any) -> int:
    first = next(iter(batch.values())) if isinstance(batch, dict) else batch[0]
    return len(first)


def _disk(store: StoreFiles) -> tuple[float, float]:
    """Return seconds a byte of writing to the store's disk, waited for, and of gathering rows that are in memory.

    Rows are read through a memory map: what was just written is still in memory, as it is when training follows.
    """
    folder = Path(getattr(store.storage, "root", ".")).absolute()
    while not folder.is_dir():
        folder = folder.parent
    values = np.random.default_rng(0).random(DISK_TRIAL_BYTES // 8).reshape(-1, 256)

    def write() -> None:
        # What happens to rows on their way: gathered in a buffer, looked through for NaN, hashed, and a new file written.
        gathered = values.copy()
        np.isfinite(gathered).all()
        xxhash.xxh3_128(gathered.data).digest()
        with NamedTemporaryFile(dir=folder) as file:
            file.write(gathered.data)
            file.flush()
            os.fsync(file.fileno())

    try:
        write_s = timed(write, 0.0)
    except OSError:  # a store that cannot be written to yet is planned for as a fast disk
        write_s = timed(lambda: values.copy(), 0.0)
    order = np.random.default_rng(1).permutation(len(values))
    read_s = timed(lambda: values[order], 0.0)
    return write_s / values.nbytes, read_s / values.nbytes
