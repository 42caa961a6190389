"""An epoch from the cache against an epoch of the usual frozen loop, and the whole job against it.

    python benchmarks/epoch.py            (needs data/digits: python data/make_digits.py)

Both train the same network on the same rows in the same order. The digits are image files, of which the usual loop decodes
those that it trains on once into memory, unclocked, which flatters it; the samples of the last row are tensors in memory for
both. The job is split and extraction of all samples, those for the test too, and 20 epochs; the least that it could take is
one forward pass of them and the same epochs from memory. Freed memory is kept, as the `featcache` command does, for all of them.
Figures are ratios within one run, medians of the epochs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
import torchvision
from torch.utils.data import TensorDataset

import featcache
from featcache.heads import new_network
from featcache.machine import keep_freed_memory

EPOCHS, MEASURED, BATCH = 20, 3, 64


def frozen_loop(split: featcache.Split, inputs: torch.Tensor, targets: torch.Tensor, epochs: int) -> list[float]:
    """The usual loop: the whole network runs in every step, its frozen part in evaluation mode without gradients."""
    network = new_network(split, int(targets.max()) + 1)
    trained = {id(parameter) for parameter in network.suffix.parameters()}
    for parameter in network.model.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    optimizer = torch.optim.AdamW(network.suffix.parameters(), lr=1e-3)
    network.model.eval()
    network.suffix.train()
    elapsed = []
    for _ in range(epochs):
        started = time.perf_counter()
        for rows in torch.randperm(len(inputs)).split(BATCH):
            loss = torch.nn.functional.cross_entropy(network.model(inputs[rows]), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        elapsed.append(time.perf_counter() - started)
    return elapsed


def forward_s(split: featcache.Split, inputs: torch.Tensor) -> float:
    """Return the seconds that the frozen part takes for a sample, nothing kept."""
    started = time.perf_counter()
    for batch in inputs.split(BATCH):
        split.prefix(batch)
    return (time.perf_counter() - started) / len(inputs)


def report(
    name: str, extract: Callable[[], tuple[featcache.Split, featcache.Features]], samples: int, inputs: torch.Tensor
) -> None:
    """Print a row of the table: ``extract`` is the job up to the features, ``inputs`` are those of the rows trained on."""
    started = time.perf_counter()
    split, train = extract()
    extract_s = time.perf_counter() - started
    started = time.perf_counter()
    head = featcache.train_head(split, train, optimizer="adamw", epochs=EPOCHS, batch_size=BATCH, validation=0.0)
    train_s = time.perf_counter() - started
    cached_s = statistics.median(record.elapsed_s for record in head.history)
    loop_s = statistics.median(frozen_loop(split, inputs, torch.from_numpy(train.targets), MEASURED))
    least_s = samples * statistics.median(forward_s(split, inputs) for _ in range(MEASURED)) + EPOCHS * cached_s
    job_s = extract_s + train_s
    ratios = f"{loop_s / cached_s:.0f} × | {EPOCHS * loop_s / job_s:.1f} × | {job_s / least_s:.2f}"
    seconds = f"{loop_s:.2f} | {cached_s:.4f} | {extract_s:.1f}"
    print(f"| {name} | {split.cut} | {len(train)} of {samples} | {ratios} | {seconds} |", flush=True)


def digits(name: str, backbone: str, cut: str, data: str) -> None:
    """Race on images in files, of which a quarter are for the test."""
    with tempfile.TemporaryDirectory() as folder:
        project = featcache.Project(featcache.Settings(backbone, data, folder))
        assert project.backbone.model is not None  # loaded before the clock starts, as the loop's is
        rows = [position for position, name in enumerate(project.dataset.splits) if name == "train"]
        inputs = torch.stack([project.samples.input(position) for position in rows])

        def extract() -> tuple[featcache.Split, featcache.Features]:
            split = project.split(cut)
            project.extract(cut)
            return split, project.features(cut).where("train")

        report(name, extract, len(project.dataset), inputs)


def tensors(name: str, cut: str, count: int) -> None:
    """Race on samples in memory, all of which are trained on."""
    model = torchvision.models.resnet18(num_classes=10).eval()
    data = TensorDataset(torch.randn(count, 3, 224, 224), torch.arange(count) % 10)
    with tempfile.TemporaryDirectory() as folder:

        def extract() -> tuple[featcache.Split, featcache.Features]:
            split = featcache.split(model, cut, (data.tensors[0][:2],))
            return split, featcache.extract(split, data, folder)

        report(name, extract, count, data.tensors[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="folder:data/digits")
    parser.add_argument("--quick", action="store_true", help="only the small network")
    options = parser.parse_args()
    keep_freed_memory()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {EPOCHS} epochs, batches of {BATCH}")
    columns = [
        "network",
        "cut",
        "rows trained on",
        "epoch, loop : cache",
        "whole job, loop : cache",
        "job, of the least",
    ]
    columns += ["loop epoch (s)", "cached epoch (s)", "extract (s)"]
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")
    digits("resnet-mini, 32 px", "bundled:resnet-mini", "layer4", options.data)
    digits("resnet-mini, 32 px", "bundled:resnet-mini", "layer3", options.data)
    if not options.quick:
        for cut in ("_blocks.15", "_avg_pooling"):  # behind the latter, one linear layer is trained
            digits("EfficientNet-Lite0, 96 px", "data/efficientnet_lite0.py:factory", cut, options.data)
        tensors("ResNet-18, 224 px, in memory", "avgpool", 1024)


if __name__ == "__main__":
    main()
