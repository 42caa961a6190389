"""Whole jobs as people have them, in minutes: the usual loop, and featcache.

    python benchmarks/jobs.py [--samples 600]

Photographs are JPEG files of 500 × 375 pixels, which the usual loop decodes in every epoch with two worker processes and
featcache once; texts are 64 tokens in memory. The networks have random weights. Both train the same layers for 20 epochs
in batches of 64, the frozen ones in evaluation mode without gradients. The loop's minutes are 20 times the shorter of two
epochs; featcache's are those from the first look at the files to the last row in the cache, and 20 times the middle one of
three epochs. The next night, 1 % of the files are others.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
import transformers
from photos import TRANSFORM, photo
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import ImageFolder

import featcache
from featcache.machine import keep_freed_memory

EPOCHS, MEASURED, BATCH = 20, 2, 64


class Texts(nn.Module):
    """An encoder of MiniLM's size, and a classifier of its first token."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = transformers.BertModel(
            transformers.BertConfig(
                hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
            ),
            add_pooling_layer=False,
        )
        self.classify = nn.Linear(384, 10)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.classify(self.encoder(ids).last_hidden_state[:, 0])


@dataclass(frozen=True)
class Job:
    """A network with the layers that are trained, and its data for both."""

    name: str
    network: nn.Module
    cut: str
    trained: Sequence[str]
    example: torch.Tensor
    batches: DataLoader  # of the usual loop
    data: Any
    transform: Callable[[Any], Any] | None = None

    def loop_s(self) -> float:
        """Return the seconds of all epochs of the usual loop, by the shorter of two."""
        network = copy.deepcopy(self.network).eval().requires_grad_(False)
        parts = [network.get_submodule(name) for name in self.trained]
        parameters = [each for part in parts for each in part.train().requires_grad_(True).parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=1e-3)
        taken_s = []
        for _ in range(MEASURED):
            started_s = time.perf_counter()
            for inputs, targets in self.batches:
                loss = nn.functional.cross_entropy(network(inputs), targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            taken_s.append(time.perf_counter() - started_s)
        return EPOCHS * min(taken_s)

    def cached_s(self, store: str) -> float:
        """Return the seconds of the whole job from the cache."""
        started_s = time.perf_counter()
        split = featcache.split(self.network, self.cut, (self.example,))
        features = featcache.extract(split, self.data, store, transform=self.transform)
        extracted_s = time.perf_counter() - started_s
        options: dict[str, Any] = {"optimizer": "adamw", "epochs": 3, "batch_size": BATCH, "validation": 0.0}
        trained = featcache.train_head(split, features, **options)
        return extracted_s + EPOCHS * statistics.median(record.elapsed_s for record in trained.history)


def report(name: str, before_s: float, after_s: float) -> None:
    print(f"| {name} | {before_s / 60:.1f} | {after_s / 60:.2f} | {before_s / after_s:.0f} × |", flush=True)


def jobs(folder: Path, count: int) -> Iterator[Job]:
    """Yield the jobs; those of photographs share their files, which lie in ``folder``."""
    write(folder, range(count))
    images = DataLoader(ImageFolder(folder, TRANSFORM), BATCH, shuffle=True, num_workers=2)
    data, example = f"folder:{folder}", torch.zeros(1, 3, 224, 224)
    network = torchvision.models.resnet18(num_classes=10).eval()
    named = f"{count:,} photographs, "
    yield Job(f"{named}ResNet-18, its last layer", network, "avgpool", ["fc"], example, images, data, TRANSFORM)
    yield Job(f"{named}ResNet-18, layer4 and fc", network, "layer3", ["layer4", "fc"], example, images, data, TRANSFORM)
    ids = torch.randint(1000, 30_000, (count, 64))
    texts = TensorDataset(ids, torch.arange(count) % 10)
    trained = ["encoder.encoder.layer.5", "classify"]
    batches = DataLoader(texts, BATCH, shuffle=True)
    name = f"{count:,} texts, MiniLM, its last block and a classifier"
    yield Job(name, Texts().eval(), "encoder.encoder.layer.4", trained, ids[:1], batches, texts)


def write(folder: Path, numbers: Iterable[int], seed: int = 1) -> None:
    """Write photographs of ten classes."""
    content = photo(500, 375, seed)
    for number in numbers:
        place = folder / str(number % 10)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.jpg").write_bytes(content + number.to_bytes(4, "big"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=600)
    count = parser.parse_args().samples
    keep_freed_memory()
    torch.manual_seed(0)
    print(f"{EPOCHS} epochs on 2 cores\n" if torch.get_num_threads() == 2 else f"{EPOCHS} epochs\n")
    print("| job | usual loop, minutes | featcache, minutes | times as fast |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        photographs = Path(folder, "data")
        for number, job in enumerate(jobs(photographs, count)):
            before_s = job.loop_s()
            report(job.name, before_s, job.cached_s(f"{folder}/{number}"))
            if not number:
                write(photographs, range(0, count, 100), seed=2)
                report("the same the next night, 1 % of the files edited", before_s, job.cached_s(f"{folder}/{number}"))


if __name__ == "__main__":
    main()
