"""Kills extractions at random moments and checks after each kill that nothing was lost and nothing torn is visible.

python -m tests.kill_harness --kills 200
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import torch

import featcache
from featcache import FeatureStore

from ..conftest import SmallNet, TensorPairs


def rows_of(store: FeatureStore) -> dict[bytes, bytes]:
    """Return what every row of a store's one set holds, by id."""
    found: dict[bytes, bytes] = {}
    for recipe in store.recipes():
        feature_set = store.set(recipe)
        for name in feature_set.shard_names():
            shard = feature_set.open_shard(name)
            shard.check()
            found.update(zip(map(bytes, shard.ids), map(bytes, shard.features["block"]), strict=True))
    return found


class Harness:
    """A network, its samples, and what an undisturbed extraction makes of them."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.random = folder, random.Random(seed)
        torch.manual_seed(seed)
        self.pairs = TensorPairs(torch.randn(96, 3, 12, 12), torch.arange(96) % 4)
        self.split = featcache.split(SmallNet().eval(), "block", (self.pairs.inputs[:2],))
        self.whole = rows_of(self.extract("undisturbed"))
        self.elapsed_s = min(self._timed(number) for number in range(3))

    def extract(self, name: str) -> FeatureStore:
        store = FeatureStore(str(self.folder / name))
        featcache.extract(self.split, self.pairs, store, batch_size=8, shard_bytes=1, name="pairs")
        return store

    def _timed(self, number: int) -> float:
        started_s = time.perf_counter()
        self.extract(f"timed{number}")
        return time.perf_counter() - started_s

    def kill(self, name: str) -> bool:
        """Extract in another process, kill it at a random moment, and return whether it was still at work."""
        process = os.fork()
        if not process:
            try:
                self.extract(name)
            finally:
                os._exit(0)
        time.sleep(self.random.uniform(0, self.elapsed_s))
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        return os.WIFSIGNALED(status)

    def run(self, kills: int) -> int:
        """Return how many stores were completed while so many extractions were killed."""
        completed = done = 0
        while done < kills:
            name = f"killed{completed}"
            before: dict[bytes, bytes] = {}
            while done < kills and len(before) < len(self.whole):
                done += self.kill(name)
                store = FeatureStore(str(self.folder / name))
                assert store.verify().damaged == [], "a torn file is visible"
                after = rows_of(store)
                assert before.items() <= after.items(), "a committed row was lost"
                assert after.items() <= self.whole.items(), "a row differs from that of an undisturbed extraction"
                before = after
            store = self.extract(name)
            assert rows_of(store) == self.whole, "the resumed store differs from an undisturbed one"
            assert sum(info.rows for info in store.sets()) == len(self.whole)
            report = featcache.extract(self.split, self.pairs, store, batch_size=8, name="pairs").report
            assert (report.computed, report.reused) == (0, 96)
            left = [path.name for path in (self.folder / name).rglob(".tmp~*")]
            store.gc(delete=False)
            assert not left or store.gc([each.fingerprint for each in store.recipes()], delete=True).temporary_files
            assert not list((self.folder / name).rglob(".tmp~*")), "temporary files are left"
            shutil.rmtree(self.folder / name)
            completed += 1
        return completed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        harness = Harness(Path(folder), options.seed)
        print(f"an undisturbed extraction takes {harness.elapsed_s:.2f} s")
        started_s = time.perf_counter()
        stores = harness.run(options.kills)
        print(
            f"{options.kills} kills, {stores} stores completed, {time.perf_counter() - started_s:.0f} s: nothing lost or torn"
        )


if __name__ == "__main__":
    main()
