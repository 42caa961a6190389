"""What the checks of real batches cost, as a share of the extraction that they are part of.

    python benchmarks/checks.py [--images 2048]

ResNet-18 at 224 pixels, cut at layer4, from tensors in memory, so that nothing is decoded; and a small network that runs a
thousand images per second. Checked are the whole first batch and a few rows of the 2nd, 4th, 8th and so on: a cost that hardly
grows with the number of images. The recording of the network is not counted, for it is part of every run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import Any

import torch
import torchvision

import featcache
from featcache.extraction.checks import BatchChecks


class Clock:
    """Adds up how long the checks take."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0
        self.check = BatchChecks.check

    def __enter__(self) -> Clock:
        def timed(checks: BatchChecks, *args: Any) -> None:
            started_s = time.perf_counter()
            self.check(checks, *args)
            self.elapsed_s += time.perf_counter() - started_s

        BatchChecks.check = timed  # type: ignore[method-assign]
        return self

    def __exit__(self, *error: Any) -> None:
        BatchChecks.check = self.check  # type: ignore[method-assign]


def share(model: torch.nn.Module, cut: str, size: int, count: int) -> tuple[float, float]:
    """Return the share of the checks in an extraction, and how long the rest takes in batches of 64."""
    images = torch.randn(64, 3, size, size, generator=torch.Generator().manual_seed(0))
    samples = [(images[number % 64] + number, 0) for number in range(count)]
    split = featcache.split(model, cut, (images[:2],))
    with tempfile.TemporaryDirectory() as folder, Clock() as clock:
        started_s = time.perf_counter()
        featcache.extract(split, samples, folder, batch_size=64, workers=0)
        elapsed_s = time.perf_counter() - started_s
    return clock.elapsed_s / elapsed_s, clock.elapsed_s / ((elapsed_s - clock.elapsed_s) / (count / 64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2048)
    count = parser.parse_args().images
    networks = {
        "ResNet-18, 224 pixels, layer4": (torchvision.models.resnet18(weights=None).eval(), "layer4", 224),
        "SqueezeNet 1.1, 64 pixels, features.7": (
            torchvision.models.squeezenet1_1(weights=None).eval(),
            "features.7",
            64,
        ),
    }
    print("| network | images | share of the checks | that is, in batches of 64 |\n|---|---|---|---|")
    for name, (model, cut, size) in networks.items():
        found = [share(model, cut, size, count) for _ in range(3)]
        shares, batches = (statistics.median(each) for each in zip(*found, strict=True))
        print(f"| {name} | {count:,} | {100 * shares:.1f} % | {batches:.1f} |")


if __name__ == "__main__":
    main()
