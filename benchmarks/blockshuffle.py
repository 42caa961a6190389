"""Accuracy of heads that are trained in an order shuffled by blocks, against one that is shuffled whole.

    python benchmarks/blockshuffle.py [--seeds 10]            (needs data/digits: python data/make_digits.py)

UCI digits through the bundled network, stored sorted by class, which is the worst case: a block then holds one class. There
are 1,347 rows to train on, so blocks and windows are made small for the set to exceed them as large sets exceed the real
ones (384 blocks of 512 KB). Test accuracy after 20 epochs in batches of 64, mean over the seeds, and the difference from the
whole shuffle with its standard error, in points. Class imbalance is the mean over batches of the share of rows that would
have to be of another class for the batch to have the classes' shares in the whole set.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile

import numpy as np
import torch

import featcache
import featcache.features.features
import featcache.features.loader

EPOCHS, BATCH = 20, 64
# Rows of a block and blocks of a window; None is the whole shuffle.
ORDERS = (None, (2, 256), (4, 64), (16, 16), (32, 8), (64, 4), (128, 1))


def imbalance(features: featcache.Features) -> float:
    """Return how far the classes' shares in the batches of an epoch are from those in the set."""
    classes, targets = int(features.targets.max()) + 1, features.targets[features.loader(BATCH).order(0)]
    whole = np.bincount(targets, minlength=classes) / len(targets)
    parts = np.split(targets, range(BATCH, len(targets), BATCH))
    shares = [np.bincount(part, minlength=classes) / len(part) for part in parts]
    return statistics.mean(float(np.abs(share - whole).sum()) / 2 for share in shares)


def arrange(features: featcache.Features, order: tuple[int, int] | None) -> None:
    """Have loaders of such features shuffle in this way."""
    rows, blocks = order or (1, 1)
    featcache.features.loader.BLOCK_BYTES = rows * sum(spec.size_bytes for spec in features.frontier)
    featcache.features.loader.WINDOW_BLOCKS = blocks
    available = 1 << 40 if order is None else 0
    featcache.features.features.available_memory_bytes = lambda: available


def race(name: str, cut: str, head: str, project: featcache.Project, seeds: int) -> None:
    project.extract(cut)
    features = project.features(cut)
    features = features.subset(np.argsort(features.targets, kind="stable"))
    train, split = features.where("train"), project.split(cut)
    whole: list[float] = []
    for order in ORDERS:
        arrange(features, order)
        found = []
        for seed in range(seeds):
            options = {"head": head, "epochs": EPOCHS, "batch_size": BATCH, "validation": 0.0, "seed": seed}
            found.append(100 * featcache.train_head(split, features, **options).metrics.accuracy)
        whole = whole or found
        differences = [mine - theirs for mine, theirs in zip(found, whole, strict=True)]
        error = statistics.stdev(differences) / seeds**0.5
        told = "whole" if order is None else f"{order[0]} × {order[1]}"
        against = "" if order is None else f"{statistics.mean(differences):+.2f} ± {error:.2f}"
        print(f"| {name} | {told} | {imbalance(train):.2f} | {statistics.mean(found):.2f} | {against} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    print("| trained | rows a block × blocks a window | class imbalance | accuracy, % | against the whole shuffle |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        project = featcache.Project(featcache.Settings("bundled:resnet-mini", "folder:data/digits", folder))
        race("linear head after avgpool", "avgpool", "linear", project, seeds)
        race("layer4 + fc", "layer3", "suffix", project, seeds)


if __name__ == "__main__":
    main()
