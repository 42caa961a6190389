"""Large stores: how long it takes to open one, and how memory grows with the number of rows.

    python benchmarks/scale.py [--shards 10000] [--rows 10000 100000 1000000]

A store of many shards of 1000 rows each, made of random bytes; what is timed runs in a new process. Memory is the peak of a
process that extracts, of one that trains a linear head on what is there, and of one that asks for the status and verifies, less
that of one which does so for 1,000 rows: resident memory, with what is mapped of files. Training holds the features, 512 bytes a
row, as long as they take a moderate share of the free memory; that share is a column of its own.
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
from featcache.features.features import Features
from featcache.samples.snapshot import Snapshot
from featcache.store.shard_writer import write_shard

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


def job(stage: str, rows: int, folder: str) -> None:
    """Do one thing to so many rows and print the peak of the memory in KiB, and that of features that are held on purpose."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 128), torch.nn.Linear(128, 10)).eval()
    split = featcache.split(model, "0", (torch.zeros(2, 16),))
    held_bytes = 0
    if stage == "status":
        store = FeatureStore(folder)
        assert store.status(split, Numbers(rows)).fresh
        assert not store.verify().damaged
    else:
        features = featcache.extract(split, Numbers(rows), folder, batch_size=1024)
    if stage == "train":
        featcache.train_head(split, features, epochs=1, batch_size=1024, learning_rate=1e-6)
        held_bytes = features.size_bytes if features.fits_in_memory else 0
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, held_bytes >> 10)


def grown(rows: int, least: dict[str, int]) -> list[str]:
    """Return how the peak of each stage grew from the least, and put it there where there is none yet."""
    words = []
    with tempfile.TemporaryDirectory() as folder:
        for stage in ("extract", "train", "status"):
            peak, held = map(int, answer("--job", stage, rows, folder))
            more = peak - least.setdefault(stage, peak - held) - held
            words.append(f"{more / 1024:.0f} ({1024 * more / rows:,.0f})")
            if stage == "train":
                words.append(f"{held / 1024:.0f} ({1024 * held / rows:,.0f})")
    return words


def answer(*arguments: object) -> list[str]:
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--opened", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--job", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.opened:
        opened(options.opened[0], int(options.opened[1]))
    elif options.job:
        job(options.job[0], int(options.job[1]), options.job[2])
    else:
        head = ["shards", "rows", "open and list (s)", "the same again", "status of every row (s)", "random batch (µs)"]
        print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)
        for shards in (10, options.shards) if options.shards else ():
            with tempfile.TemporaryDirectory() as folder:
                simulate(Path(folder), shards)
                first, again = answer("--opened", folder, shards), answer("--opened", folder, shards)
            print(f"| {shards:,} | {shards * SHARD_ROWS:,} | {first[0]} | {' | '.join(again)} |", flush=True)
        print("\nMiB more than for 1,000 rows (bytes a row):\n")
        print(
            "| rows | extract | train, beside the features | the features | status and verify |\n|---|---|---|---|---|"
        )
        least: dict[str, int] = {}
        grown(1000, least)
        for rows in options.rows:
            print(f"| {rows:,} | {' | '.join(grown(rows, least))} |", flush=True)


if __name__ == "__main__":
    main()
