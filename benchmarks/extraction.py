"""Extraction against the bare forward loop at the same numerics, and the ways of computing against the eager loop.

    python benchmarks/extraction.py [--images 256] [--rounds 5]

ResNet-18 (torchvision, random weights) up to layer4 at 224 px, batches of 16, samples as tensors in memory. The bare loop
runs the same modules on the same batches and keeps nothing. Extraction hashes the samples, checks the split on the first
batch, and writes and syncs its shards. Rounds are interleaved; figures are medians of the ratios within each.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
import torchvision

import featcache

BATCH = 16


class Images(torch.utils.data.Dataset):
    def __init__(self, count: int) -> None:
        self.values = torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.values[index], index % 10


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def derived(model: torch.nn.Module, images: Images, rounds: int) -> None:
    """Print how long deriving layer4 from a cached layer3 takes, of the bare loop over layer4 on maps in memory."""
    split = featcache.split(model, "layer4", (images.values[:2],))
    with tempfile.TemporaryDirectory() as folder:
        values, _ = featcache.extract(model, images, folder, cut="layer3", batch_size=BATCH).numpy()
        maps, ratios = torch.from_numpy(values), []

        def bare() -> None:
            with torch.no_grad():
                for batch in maps.split(BATCH):
                    model.layer4(batch)

        for _ in range(rounds + 1):
            base = seconds(bare)
            started = time.perf_counter()
            features = featcache.extract(split, images, folder, batch_size=BATCH)
            ratios.append((time.perf_counter() - started) / base)
            assert features.report.derived == len(images)
            shutil.rmtree(f"{folder}/sets/{features.recipe.fingerprint}")
    print(f"\nlayer4 derived from the cached layer3: {statistics.median(ratios[1:]):.2f} × layer4 on maps in memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, images = torchvision.models.resnet18().eval(), Images(options.images)
    split = featcache.split(model, "layer4", (images.values[:2],))
    prefix = torch.nn.Sequential(*list(model.children())[:8])

    def bare() -> None:
        with torch.no_grad():
            for batch in images.values.split(BATCH):
                prefix(batch)

    def extract(numerics: str) -> Callable[[], None]:
        def run() -> None:
            with tempfile.TemporaryDirectory() as folder:
                report = featcache.extract(split, images, folder, batch_size=BATCH, numerics=numerics).report
                assert report.computed == len(images)

        return run

    runs = {"bare loop": bare, **{each: extract(each) for each in ("exact", "fast", "bf16")}}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(options.rounds + 1):
        for name, run in runs.items():
            elapsed = seconds(run)
            if round_number:  # the first warms up
                taken[name].append(elapsed)
    print(f"{options.images} images, {torch.get_num_threads()} threads")
    print("| extraction | time, of the bare loop's | times as fast |\n|---|---|---|")
    for name in ("exact", "fast", "bf16"):
        ratio = statistics.median(mine / base for mine, base in zip(taken[name], taken["bare loop"], strict=True))
        print(f"| {name} | {ratio:.3f} | {1 / ratio:.2f} |")
    derived(model, images, options.rounds)


if __name__ == "__main__":
    main()
