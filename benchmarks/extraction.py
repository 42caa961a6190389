"""Extraction against the bare forward loop at the same numerics, and the ways of computing against the eager loop.

    python benchmarks/extraction.py [--images 256] [--rounds 5]

ResNet-18 (torchvision, random weights) up to layer4 at 224 px, batches of 16, samples as tensors in memory, one thread. The
bare loop runs the same modules on the same batches and keeps nothing. Extraction hashes the samples, checks the split on the
first batch, and writes and syncs its shards. Each runs in two processes: one as any script, and one in which freed memory is
kept (`featcache.machine.keep_freed_memory`), as the `featcache` command does. Rounds are interleaved; figures are medians of
the ratios within each. The samples that layer4 is derived for have ids already, as files have that were hashed before.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import Any

import torch
import torchvision

import featcache
from featcache.machine import keep_freed_memory

BATCH = 16
NUMERICS = ("exact", "fast", "bf16")


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


def begin(keep: bool) -> None:
    torch.set_num_threads(1)
    if keep:
        keep_freed_memory()


@cache
def prepared(count: int) -> Any:
    torch.manual_seed(0)
    model, images = torchvision.models.resnet18().eval(), Images(count)
    return model, images, featcache.split(model, "layer4", (images.values[:2],))


def measured(name: str, count: int) -> float:
    """Return the seconds of one run of the bare loop, or of an extraction."""
    model, images, split = prepared(count)
    prefix = torch.nn.Sequential(*list(model.children())[:8])

    def bare() -> None:
        with torch.no_grad():
            for batch in images.values.split(BATCH):
                prefix(batch)

    def extract() -> None:
        with tempfile.TemporaryDirectory() as folder:
            report = featcache.extract(split, images, folder, batch_size=BATCH, numerics=name).report
            assert report.computed == len(images)

    return seconds(bare if name == "bare loop" else extract)


class NamedImages(Images):
    """The same images with ids of their own, as files have that were hashed before."""

    def sample_id(self, index: int) -> bytes:
        return index.to_bytes(16, "little")


def derived(count: int, rounds: int) -> tuple[float, float]:
    """Return the seconds of the bare loop over layer4 on maps in memory, and of deriving layer4 from a cached layer3."""
    model, _, split = prepared(count)
    images = NamedImages(count)
    with tempfile.TemporaryDirectory() as folder:
        values, _ = featcache.extract(model, images, folder, cut="layer3", batch_size=BATCH).numpy()
        maps, bases, mine = torch.from_numpy(values), [], []

        def bare() -> None:
            with torch.no_grad():
                for batch in maps.split(BATCH):
                    model.layer4(batch)

        for _ in range(rounds + 1):
            bases.append(seconds(bare))
            started = time.perf_counter()
            features = featcache.extract(split, images, folder, batch_size=BATCH)
            mine.append(time.perf_counter() - started)
            assert features.report.derived == len(images)
            shutil.rmtree(f"{folder}/sets/{features.recipe.fingerprint}")
    return statistics.median(bases[1:]), statistics.median(mine[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    script, command = (ProcessPoolExecutor(1, context, begin, (keep,)) for keep in (False, True))
    runs = [(kind, name) for name in ("bare loop", *NUMERICS) for kind in (script, command)]
    taken: dict[Any, list[float]] = {run: [] for run in runs}
    for round_number in range(options.rounds + 1):
        for kind, name in runs:
            elapsed = kind.submit(measured, name, options.images).result()
            if round_number:  # the first warms up
                taken[kind, name].append(elapsed)

    def ratio(mine: Any, base: Any) -> float:
        return statistics.median(one / other for one, other in zip(taken[mine], taken[base], strict=True))

    print(f"{options.images} images\n")
    print(
        "| extraction | in a script | freed memory kept, too | the command, of a script's bare loop | times as fast |"
    )
    print("|---|---|---|---|---|")
    for name in ("bare loop", *NUMERICS):
        figures = [
            ratio((script, name), (script, "bare loop")),
            ratio((command, name), (command, "bare loop")),
            ratio((command, name), (script, "bare loop")),
        ]
        print(f"| {name} | " + " | ".join(f"{each:.3f}" for each in (*figures, 1 / figures[-1])) + " |")
    few, few_derived = command.submit(derived, options.images // 4, options.rounds).result()
    base, mine = command.submit(derived, options.images, options.rounds).result()
    print(
        f"\nlayer4 derived from the cached layer3, of layer4 on maps in memory: {mine / base:.2f} ×; each image beyond the "
        f"first {options.images // 4}: {(mine - few_derived) / (base - few):.2f} ×"
    )


if __name__ == "__main__":
    main()
