"""Training from the cache against the same loop on tensors in memory, and many heads against one.

    python benchmarks/training.py [--rounds 5]

A linear head and an MLP (512 hidden) on 20,000 vectors of 512 (batches of 256), a Transformer block of 256 on 2,000
sequences of 16 tokens, and ResNet-18's layer4 + fc on 512 maps of 256×4×4 (both in batches of 64). The rows marked streamed
are read as a set larger than memory is, in windows of 4 MB, and decoded beside the training: 512 maps of 256×8×8. In the
rows marked new loaders, a loop of one's own asks `features.loader` again for every epoch. The loop in memory has the same
module, optimizer, schedule and number of steps, and gathers its batches by index. One thread; rounds are interleaved, ratios
are taken within each, the figure is their median. The time of a step beyond the loop's own is what featcache's Python costs.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext

import torch
import torchvision
from torch import nn

import featcache
import featcache.features.features
import featcache.features.loader

EPOCHS = 4
GRID = [{"learning_rate": 10**-rate, "weight_decay": decay} for rate in range(1, 5) for decay in range(8)]


class Rows(torch.utils.data.Dataset):
    def __init__(self, *shape: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.values = torch.randn(*shape, generator=generator)
        self.targets = torch.randint(10, (shape[0],), generator=generator)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.values[index], int(self.targets[index])


Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


def usual(suffix: nn.Module, epoch_of: Callable[[int], Batches], steps: int, device: torch.device) -> float:
    """Return the median seconds of an epoch of the usual loop, whose batches ``epoch_of`` gives."""
    module = copy.deepcopy(suffix).to(device).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * steps)
    taken = []
    for epoch in range(EPOCHS):
        started = time.perf_counter()
        total = torch.zeros((), device=device)
        for values, targets in epoch_of(epoch):
            loss = nn.functional.cross_entropy(module(values), targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach() * len(targets)
        float(total)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def loop(suffix: nn.Module, values: torch.Tensor, targets: torch.Tensor, batch: int) -> float:
    """Return the median seconds of an epoch of the usual loop on tensors in memory, on their device."""

    def epoch_of(epoch: int) -> Batches:
        order = torch.randperm(len(values), device=values.device)
        return ((values[rows], targets[rows]) for rows in order.split(batch))

    return usual(suffix, epoch_of, -(-len(values) // batch), values.device)


def fresh(suffix: nn.Module, features: featcache.Features, batch: int) -> float:
    """Return the same of a loop that asks for a new loader in every epoch."""

    def epoch_of(epoch: int) -> Batches:
        return features.loader(batch, seed=epoch)

    return usual(suffix, epoch_of, -(-len(features) // batch), torch.device("cpu"))


@contextmanager
def larger_than_memory() -> Iterator[None]:
    """Have sets streamed as if they exceeded the memory, in windows that are small beside them, as real ones are."""
    known = featcache.features.features.available_memory_bytes, featcache.features.loader.WINDOW_BLOCKS
    featcache.features.features.available_memory_bytes, featcache.features.loader.WINDOW_BLOCKS = lambda: 0, 8
    try:
        yield
    finally:
        featcache.features.features.available_memory_bytes, featcache.features.loader.WINDOW_BLOCKS = known


def race(
    name: str,
    model: nn.Module,
    cut: str,
    suffix: nn.Module,
    data: Rows,
    batch: int,
    rounds: int,
    streamed: bool = False,
    **stored: str,
) -> None:
    split = featcache.split(model.eval(), cut, (data.values[:2],))
    with tempfile.TemporaryDirectory() as folder, larger_than_memory() if streamed else nullcontext():
        features = featcache.extract(split, data, folder, batch_size=64, **stored)
        values, steps = torch.from_numpy(features.numpy()[0]), -(-len(data) // batch)

        def train_head() -> float:
            trained = featcache.train_head(
                split, features, optimizer="adamw", epochs=EPOCHS, batch_size=batch, validation=0.0
            )
            return statistics.median(record.elapsed_s for record in trained.history[1:])

        raced = {name: train_head, f"{name}, new loaders": lambda: fresh(suffix, features, batch)}
        base_s, taken_s = [], {each: [] for each in raced}
        for _ in range(rounds):
            base_s.append(loop(suffix, values, data.targets, batch))
            for each, run in raced.items():
                taken_s[each].append(run())
    for each, found in taken_s.items():
        pairs = list(zip(found, base_s, strict=True))
        ratio = statistics.median(mine / base for mine, base in pairs)
        beyond_us = statistics.median((mine - base) / steps * 1e6 for mine, base in pairs)
        print(f"| {each} | {ratio:.3f} | {beyond_us:.0f} |", flush=True)


class Sequences(nn.Module):
    """A frozen projection of 16 tokens, and a Transformer block with a classifier after it."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(64, 256)
        self.block = nn.TransformerEncoderLayer(256, 8, 1024, batch_first=True)
        self.classify = nn.Linear(256, 10)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.behind(self.project(tokens))

    def behind(self, projected: torch.Tensor) -> torch.Tensor:
        return self.classify(self.block(projected).mean(dim=1))


class Behind(nn.Module):
    """What comes after the projection, on its own."""

    def __init__(self, network: Sequences) -> None:
        super().__init__()
        self.network = network

    def forward(self, projected: torch.Tensor) -> torch.Tensor:
        return self.network.behind(projected)


def many(rounds: int) -> None:
    data = Rows(4000, 64)
    split = featcache.split(nn.Sequential(nn.Linear(64, 512), nn.Linear(512, 10)).eval(), "0", (data.values[:2],))
    with tempfile.TemporaryDirectory() as folder:
        features = featcache.extract(split, data, folder, batch_size=256)
        ratios = []
        for _ in range(rounds + 1):
            started = time.perf_counter()
            featcache.train_head(split, features, head="linear", epochs=10, batch_size=256, learning_rate=1e-3)
            one = time.perf_counter()
            featcache.train_heads(split, features, GRID, epochs=10, batch_size=256)
            ratios.append((time.perf_counter() - one) / (one - started))
    print(f"\n{len(GRID)} linear heads (4,000 × 512, 10 classes, 10 epochs): {statistics.median(ratios[1:]):.1f} × one")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| trained | cached epoch, of the loop's in memory | beyond the loop, µs a step |\n|---|---|---|")
    linear = nn.Sequential(nn.Linear(64, 512), nn.Linear(512, 10))
    race("linear head", linear, "0", linear[1], Rows(20_000, 64), 256, rounds)
    mlp = nn.Sequential(nn.Linear(64, 512), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    race("MLP", mlp, "0", mlp[1:], Rows(20_000, 64), 256, rounds)
    sequences = Sequences()
    race("Transformer block", sequences, "project", Behind(sequences), Rows(2000, 16, 64), 64, rounds)
    model = torchvision.models.resnet18(num_classes=10)
    suffix = nn.Sequential(model.layer4, model.avgpool, nn.Flatten(), model.fc)
    race("layer4 + fc", model, "layer3", suffix, Rows(512, 3, 64, 64), 64, rounds)
    kept = {"dtype": "float16", "codec": "zstd"}
    race(
        "layer4 + fc, streamed, float16 and zstd",
        model,
        "layer3",
        suffix,
        Rows(512, 3, 128, 128),
        64,
        rounds,
        True,
        **kept,
    )
    many(rounds)


if __name__ == "__main__":
    main()
