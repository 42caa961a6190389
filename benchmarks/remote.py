"""Epochs of a store on S3 against the same store on the disk.

    python benchmarks/remote.py [--rows 100000] [--rounds 3]

Rows of 512 float32 values in ten shards, whole permutations in batches of 256, one thread. The server is moto's, in a
process of its own on this machine; it holds objects in memory, so the figures show what featcache costs, not what a
network does. A first epoch is that of a process that has not read the set; it includes downloading and checking, and it
is given with local copies and without. Two ranks start together, each with half of the rows; the figure is of the slower
one. Times are divided by those of the disk in the same round; figures are medians.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import pickle
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.pool import Pool
from pathlib import Path

import numpy as np
import torch
from synthetic import features

import featcache

BATCH, SHARDS = 256, 10
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def server() -> Iterator[None]:
    """Run an S3-protocol server, which the environment names while the block runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], **quiet)
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/moto-api/").read()
                break
            except OSError:
                time.sleep(0.1)
        os.environ.update(ENVIRONMENT, AWS_ENDPOINT_URL=url)
        yield
    finally:
        process.kill()
        process.wait()


def epoch_s(loader: featcache.FeatureLoader) -> float:
    """Return how long an epoch takes; a value of each batch is looked at."""
    started_s, total = time.perf_counter(), 0.0
    for frontier, _ in loader:
        total += float(frontier.view(-1)[0])
    return time.perf_counter() - started_s


def of_rank(rank: int, content: bytes, start_s: float) -> float:
    """Return how long the first epoch of one of two ranks takes, begun at the same time."""
    loader = pickle.loads(content).loader(BATCH, rank=rank, world_size=2)
    time.sleep(max(0.0, start_s - time.time()))
    return epoch_s(loader)


def together_s(pool: Pool, content: bytes) -> float:
    """Return how long the first epoch of two ranks takes."""
    return max(pool.starmap(of_rank, [(rank, content, time.time() + 0.5) for rank in range(2)], chunksize=1))


def race(rows: int, rounds: int, folder: Path) -> None:
    import s3fs

    s3fs.S3FileSystem().mkdir("bucket")
    values = np.random.default_rng(0).standard_normal((rows, 512), dtype=np.float32)
    disk = pickle.dumps(features(folder / "disk", values, shards=SHARDS))
    remote = pickle.dumps(features("s3://bucket/features", values, shards=SHARDS))
    copies = Path(os.environ["FEATCACHE_COPIES"])
    took: dict[str, list[float]] = {}
    with multiprocessing.get_context("spawn").Pool(2, torch.set_num_threads, (1,)) as pool:
        together_s(pool, disk)
        for _ in range(rounds):
            base, there = pickle.loads(disk).loader(BATCH), pickle.loads(remote).loader(BATCH)
            first_s, ranks_s = epoch_s(base), together_s(pool, disk)
            later_s = epoch_s(base)
            took.setdefault("first epoch, local copies", []).append(epoch_s(there) / first_s)
            took.setdefault("later epoch", []).append(epoch_s(there) / later_s)
            shutil.rmtree(copies)
            took.setdefault("first epoch, nothing copied", []).append(
                epoch_s(pickle.loads(remote).loader(BATCH)) / first_s
            )
            shutil.rmtree(copies)
            took.setdefault("first epoch of two ranks, nothing copied", []).append(together_s(pool, remote) / ranks_s)
    print(f"{rows:,} × 512 float32 in {SHARDS} shards\n\n| epoch from S3 | of the same from the disk |\n|---|---|")
    for name, ratios in took.items():
        print(f"| {name} | {statistics.median(ratios):.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FEATCACHE_COPIES"] = str(Path(folder, "copies"))
        with server():
            race(options.rows, options.rounds, Path(folder))


if __name__ == "__main__":
    main()
