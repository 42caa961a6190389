"""An epoch by blocks of a set that is not in memory, against reading its file from end to end.

    python benchmarks/cold.py [--rows 500000]

Rows of 512 float32 values. Before each run the file's pages are dropped from memory (POSIX_FADV_DONTNEED). Reading the file
means preadv of 8 MiB at a time into one buffer. Rounds are interleaved; the figure is the median of the ratios. How well blocks
are mixed: the mean over batches of 256 of the share of distinct blocks of 256 rows that a batch's rows come from.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from synthetic import features

BATCH, ROUNDS, PIECE_BYTES = 256, 5, 8 << 20


def dropped(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_whole(path: Path) -> float:
    buffer, start = bytearray(PIECE_BYTES), 0
    begun = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while count := os.preadv(file.fileno(), [buffer], start):
            start += count
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000)
    rows = parser.parse_args().rows
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        values = np.random.default_rng(0).standard_normal((rows, 512), dtype=np.float32)
        given = features(Path(folder), values)
        del values
        (path,) = Path(folder).glob("sets/*/*.h5")
        ratios, rates = [], []
        for _ in range(ROUNDS):
            dropped(path)
            whole = read_whole(path)
            given._rows[0]._opened.clear()  # whose map would keep the pages
            dropped(path)
            begun = time.perf_counter()
            for frontier, _ in given.loader(BATCH, shuffle="blocks"):
                float(frontier[0, 0])
            ratios.append(whole / (time.perf_counter() - begun))
            rates.append(path.stat().st_size / whole / 1e9)
        order = given.loader(BATCH, shuffle="blocks").order(0)
        blocks = [len(np.unique(order[start : start + BATCH] // 256)) / BATCH for start in range(0, rows, BATCH)]
    print(f"{rows:,} × 512 float32, read from end to end at {statistics.median(rates):.1f} GB/s")
    print(
        f"\nepoch by blocks: {statistics.median(ratios):.2f} of that; distinct blocks a batch: {statistics.mean(blocks):.2f}"
    )


if __name__ == "__main__":
    main()
