"""Large stores: how long it takes to open one, and how memory grows with the number of rows.

    python benchmarks/scale.py [--shards 10000] [--rows 10000 100000 1000000]

A store of many shards of 1000 rows each, made of random bytes; what is timed runs in a new process. Memory is the peak of a
process that extracts, trains a linear head, asks for the status and verifies, less that of one which does so for 1,000 rows.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import featcache
from featcache import FeatureStore, Recipe, TensorSpec
from featcache.features import Features
from featcache.shardwriter import write_shard
from featcache.snapshot import Snapshot

SHARD_ROWS = 1000
RECIPE = Recipe("cut", "structure", {}, (TensorSpec("cut", (16,), "float32"),), None, {})


def ids_of(shard: int) -> np.ndarray:
    return np.random.default_rng(shard).integers(0, 256, (SHARD_ROWS, 16), dtype=np.uint8)


def simulate(folder: Path, shards: int) -> None:
    """Write the shards as they would lie there; without waiting for the disk, which would take hours."""
    store = FeatureStore(str(folder))
    store.create()
    store.set(RECIPE).declare()
    place = folder / "sets" / RECIPE.fingerprint
    values, views = np.zeros((SHARD_ROWS, 16), np.float32), np.zeros(SHARD_ROWS, "<u4")
    for shard in range(shards):
        digest = write_shard(place / "new", RECIPE, ids_of(shard), views, {"cut": values}, {})
        (place / "new").rename(place / f"{digest}.h5")


def opened(folder: str, shards: int) -> None:
    started = time.perf_counter()
    info = FeatureStore(folder).sets()[0]
    listed = time.perf_counter()
    assert info.rows == shards * SHARD_ROWS
    print(f"{listed - started:.2f}", end=" ")
    ids = np.concatenate([ids_of(shard) for shard in range(shards)])
    ids = ids[np.random.default_rng(0).permutation(len(ids))]
    started = time.perf_counter()
    assert FeatureStore(folder).set(RECIPE).present(ids).all()
    print(f"{time.perf_counter() - started:.2f}", end=" ")
    chosen = ids[:: max(1, len(ids) // 200_000)] if shards > 200 else ids
    targets, names = np.arange(len(chosen)) % 10, [""] * len(chosen)
    snapshot = Snapshot("d", chosen, names, targets, names, [str(number) for number in range(10)])
    loader = Features.join(FeatureStore(folder).set(RECIPE), snapshot).loader(256)
    for _ in range(2):
        started = time.perf_counter()
        for _ in loader:
            pass
    print(f"{(time.perf_counter() - started) / len(loader) * 1e6:.0f}")


class Numbers(torch.utils.data.Dataset):
    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((16,), float(index)), index % 10


def job(rows: int) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 128), torch.nn.Linear(128, 10)).eval()
    split = featcache.split(model, "0", (torch.zeros(2, 16),))
    with tempfile.TemporaryDirectory() as folder:
        peaks = []

        def note() -> None:
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)

        features = featcache.extract(split, Numbers(rows), folder, batch_size=1024)
        note()
        featcache.train_head(split, features, epochs=1, batch_size=1024, learning_rate=1e-6)
        note()
        store = FeatureStore(folder)
        store.status(split, Numbers(rows))
        store.verify()
        note()
    print(*peaks)


def answer(*arguments: object) -> list[str]:
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--opened", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--job", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.opened:
        opened(options.opened[0], int(options.opened[1]))
    elif options.job:
        job(options.job)
    else:
        head = ["shards", "rows", "open and list (s)", "the same again", "status of every row (s)", "random batch (µs)"]
        print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)
        for shards in (10, options.shards):
            with tempfile.TemporaryDirectory() as folder:
                simulate(Path(folder), shards)
                first, again = answer("--opened", folder, shards), answer("--opened", folder, shards)
            print(f"| {shards:,} | {shards * SHARD_ROWS:,} | {first[0]} | {' | '.join(again)} |", flush=True)
        print("\n| rows | extract: MiB more than for 1,000 rows | train | status and verify |\n|---|---|---|---|")
        least = [int(each) for each in answer("--job", 1000)]
        for rows in options.rows:
            more = [int(each) - base for each, base in zip(answer("--job", rows), least, strict=True)]
            print(f"| {rows:,} | {' | '.join(map(str, more))} |", flush=True)


if __name__ == "__main__":
    main()
