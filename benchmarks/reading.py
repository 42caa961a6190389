"""An epoch of random batches from a cache, against the same rows gathered from an array in memory, and against peers.

    python benchmarks/reading.py [--quick]

Whole permutations in batches of 256 with targets, warm, one thread, sets larger than the processor's caches. Each figure is
the median over rounds of the time of the in-memory loop (torch.index_select into one buffer, which is the fastest there is)
over the time of the reader in the same round, so it says what share of the in-memory speed is reached. A first epoch is that of
a process that has not read the set, whose files are in the page cache: every block is checked. The peers have a new loader in
every epoch.
"""

from __future__ import annotations

import argparse
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from synthetic import features

BATCH, ROUNDS = 256, 11


class H5Rows(torch.utils.data.Dataset):
    """The usual hand-written Dataset: one row an item."""

    def __init__(self, path: Path, targets: np.ndarray) -> None:
        self.rows, self.targets = h5py.File(path)["features/cut"], targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(self.rows[index]), int(self.targets[index])


class NpyRows(H5Rows):
    """The same over a memory-mapped .npy file."""

    def __init__(self, path: Path, targets: np.ndarray) -> None:
        self.rows, self.targets = np.load(path, mmap_mode="r"), targets

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(self.rows[index].copy()), int(self.targets[index])


def seconds(batches: Iterable[Any]) -> float:
    """Return how long an epoch takes; a value of each batch is looked at."""
    started, total = time.perf_counter(), 0.0
    for frontier, _ in batches:
        total += float(frontier.view(-1)[0])
    return time.perf_counter() - started


def race(name: str, rows: int, shape: tuple[int, ...], folder: Path) -> None:
    generator = np.random.default_rng(0)
    values = generator.standard_normal((rows, *shape), dtype=np.float32)
    made = {
        "float32": features(folder / "one", values),
        "float32, 20 shards": features(folder / "twenty", values, shards=20),
        "float16": features(folder / "half", values, "float16"),
        "int8": features(folder / "int8", values, "int8"),
    }
    np.save(folder / "rows.npy", values)
    memory, targets = torch.from_numpy(values), torch.from_numpy(made["float32"].targets)

    out = torch.from_numpy(np.empty((BATCH, *shape), np.float32))

    def in_memory() -> Iterable[Any]:
        for chosen in torch.randperm(rows).split(BATCH):
            yield torch.index_select(memory, 0, chosen, out=out[: len(chosen)]), targets[chosen]

    def anew() -> Iterable[Any]:
        for chosen in torch.randperm(rows).split(BATCH):
            yield memory.index_select(0, chosen), targets[chosen]

    def usual(dataset: Any) -> Callable[[], Iterable[Any]]:
        return lambda: torch.utils.data.DataLoader(dataset, BATCH, shuffle=True)

    (shard,) = (folder / "one").glob("sets/*/*.h5")
    runs: dict[str, Callable[[], Iterable[Any]]] = {"in memory": in_memory, "in memory, a new tensor each": anew}
    for each, given in made.items():
        loader = given.loader(BATCH)
        runs[f"featcache, {each}"] = lambda loader=loader: loader
        runs[f"featcache, {each}, a new loader"] = lambda given=given: given.loader(BATCH)
        runs[f"featcache, {each}, first epoch"] = lambda given=given: pickle.loads(pickle.dumps(given)).loader(BATCH)
    blocks = made["float32"].loader(BATCH, shuffle="blocks")
    runs["featcache, float32, by blocks"] = lambda: blocks
    runs["h5py Dataset + DataLoader"] = usual(H5Rows(shard, made["float32"].targets))
    runs[".npy memory map + DataLoader"] = usual(NpyRows(folder / "rows.npy", made["float32"].targets))
    taken: dict[str, list[float]] = {each: [] for each in runs}
    for round_number in range(ROUNDS + 1):
        for each, run in runs.items():
            elapsed = seconds(run())
            if round_number:  # the first warms up
                taken[each].append(elapsed)
    for each, times in taken.items():
        ratio = statistics.median(base / mine for base, mine in zip(taken["in memory"], times, strict=True))
        print(f"| {name} | {each} | {ratio:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of the narrow rows")
    torch.set_num_threads(1)
    share = 4 if parser.parse_args().quick else 1
    print("| rows | reader | share of the in-memory speed |\n|---|---|---|")
    for name, rows, shape in (("512", 200_000, (512,)), ("512×7×7", 4_000, (512, 7, 7))):
        count = rows if len(shape) > 1 else rows // share  # fewer maps would be four batches
        with tempfile.TemporaryDirectory() as folder:
            race(f"{count:,} × {name}", count, shape, Path(folder))


if __name__ == "__main__":
    main()
