"""An epoch by blocks of a set that is not in memory, against reading its file from end to end.

    python benchmarks/cold.py [--rows 500000]

Rows of 512 float32 values. Before each run the file's pages are dropped from memory (POSIX_FADV_DONTNEED). Reading the file
means preadv of 8 MiB at a time into one buffer, through the page cache and, for comparison, around it (O_DIRECT). Through it,
three readings in each round are compared with: single ones fall to a third when the system has to make room for the
pages. A set larger than memory is one whose loader is told so: it reads around the page cache. In a first epoch every block
is checked against its checksum. Rounds are interleaved; figures are medians of the ratios. How well blocks are mixed: the
mean over batches of 256 of the share of distinct blocks of 256 rows that a batch's rows come from.
"""

from __future__ import annotations

import argparse
import mmap
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from synthetic import feature_set, joined

import featcache.features

BATCH, ROUNDS, PIECE_BYTES = 256, 7, 8 << 20


def dropped(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_whole(path: Path, flags: int = 0) -> float:
    buffer, start = mmap.mmap(-1, PIECE_BYTES), 0
    file = os.open(path, os.O_RDONLY | flags)
    begun = time.perf_counter()
    while count := os.preadv(file, [buffer], start):
        start += count
        if start % 4096:  # the end of the file
            break
    taken = time.perf_counter() - begun
    os.close(file)
    return taken


def read_cold(path: Path) -> float:
    dropped(path)
    return read_whole(path)


def epoch(loader: featcache.FeatureLoader) -> float:
    begun = time.perf_counter()
    for frontier, _ in loader:
        float(frontier[0, 0])
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000)
    rows = parser.parse_args().rows
    torch.set_num_threads(1)
    known = featcache.features.features.available_memory_bytes
    taken: dict[str, list[tuple[float, float]]] = {}
    rates, arounds = [], []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        values = np.random.default_rng(0).standard_normal((rows, 512), dtype=np.float32)
        made, ids = feature_set(Path(folder), values)
        del values
        (path,) = Path(folder).glob("sets/*/*.h5")
        for _ in range(ROUNDS):
            dropped(path)
            around = read_whole(path, os.O_DIRECT)
            readings = [read_cold(path) for _ in range(3)]
            arounds.append(min(readings) / around)
            rates.append(path.stat().st_size / min(readings) / 1e9)
            for name, available in (("larger than memory", lambda: 0), ("that fits into the page cache", known)):
                featcache.features.features.available_memory_bytes = available
                loader = joined(made, ids).loader(BATCH, shuffle="blocks")
                for which in ("first", "a later"):
                    dropped(path)
                    took = epoch(loader)
                    speeds = (min(readings) / took, statistics.median(readings) / took)
                    taken.setdefault(f"{name} | {which}", []).append(speeds)
    order = loader.order(0)
    blocks = [len(np.unique(order[start : start + BATCH] // 256)) / BATCH for start in range(0, rows, BATCH)]
    print(f"{rows:,} × 512 float32, read from end to end at {statistics.median(rates):.1f} GB/s\n")
    print(f"The same around the page cache: {statistics.median(arounds):.2f} of that speed\n")
    print("| a set | epoch | speed, of the fastest of three readings | of the middle one |\n|---|---|---|---|")
    for name, speeds in taken.items():
        fastest, middle = (statistics.median(each) for each in zip(*speeds, strict=True))
        print(f"| {name} | {fastest:.2f} | {middle:.2f} |")
    print(f"\nDistinct blocks a batch: {statistics.mean(blocks):.2f}")


if __name__ == "__main__":
    main()
