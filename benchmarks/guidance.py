"""Is the advice good: recommended cut against the best one, its cost, and how well each probe score ranks the cuts.

    python benchmarks/guidance.py [--quick] [--pair NAME]

For each pair of source and target, every candidate cut is trained (the truth), then the sweep decides by itself in an
empty store. Its cost share is its whole time, extraction included, over that of training behind every cut without a
cache: the usual frozen loop, timed for one epoch a cut, times epochs and seeds. Accuracies are on a test split that
neither saw. Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from epoch import frozen_loop
from PIL import Image, ImageOps
from scipy.stats import kendalltau
from sklearn.datasets import load_digits, load_sample_images

import featcache
from featcache.advise.probe import SCORES
from featcache.backbones import load_backbone

EPOCHS, SEEDS = 10, 3
LITE0 = f"{Path(__file__).parent.parent / 'data' / 'efficientnet_lite0.py'}:factory"
LITE0_CUTS = ["_blocks.2", "_blocks.4", "_blocks.10", "_blocks.15"]


class Images:
    """Images in memory, 60 % for training and 40 % for the test, in an order drawn once."""

    def __init__(self, name: str, images: Sequence[Image.Image], targets: Sequence[int]) -> None:
        order = np.random.default_rng(0).permutation(len(images))
        self.name = name
        self.images = [images[row].convert("RGB") for row in order]
        self.targets = [int(targets[row]) for row in order]
        self.splits = ["train" if place < 0.6 * len(order) else "test" for place in range(len(order))]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        return self.images[row], self.targets[row]


def digits(count: int, change: Callable[[Image.Image], Image.Image] = lambda image: image) -> Images:
    found = load_digits()
    chosen = np.random.default_rng(1).permutation(len(found.images))[:count]
    pixels = np.round(found.images[chosen] * (255 / 16)).astype(np.uint8)
    return Images("digits", [change(Image.fromarray(each)) for each in pixels], found.target[chosen])


def patches(side: int = 32) -> Images:
    """Tiles of scikit-learn's two photographs; the class is the photograph and its upper or lower half."""
    images, targets = [], []
    for number, pixels in enumerate(load_sample_images().images):
        for top in range(0, pixels.shape[0] - side + 1, side):
            for left in range(0, pixels.shape[1] - side + 1, side):
                images.append(Image.fromarray(pixels[top : top + side, left : left + side]))
                targets.append(2 * number + int(top > pixels.shape[0] / 2))
    return Images("patches", images, targets)


@dataclass(frozen=True)
class Pair:
    name: str
    backbone: str
    data: Callable[[int], Images]
    cuts: list[str] | None = None
    share: float = 1.0


PAIRS = [
    Pair("MNIST → digits", "bundled:resnet-mini", digits),
    Pair("MNIST → digits, a quarter turned", "bundled:resnet-mini", lambda n: digits(n, lambda i: i.rotate(90))),
    Pair("MNIST → digits, inverted", "bundled:resnet-mini", lambda n: digits(n, ImageOps.invert)),
    Pair("MNIST → photograph patches", "bundled:resnet-mini", lambda n: patches()),
    Pair("ImageNet → digits", LITE0, digits, LITE0_CUTS, 0.5),
]


def run(pair: Pair, samples: int, epochs: int, seeds: int) -> dict[str, Any]:
    backbone = load_backbone(pair.backbone)
    model, transform = backbone.model, backbone.make_transform(None)
    data = pair.data(round(samples * pair.share))
    inputs = torch.stack([transform(data[row][0]) for row in range(len(data)) if data.splits[row] == "train"])
    targets = torch.tensor([data.targets[row] for row in range(len(data)) if data.splits[row] == "train"])
    shared: dict[str, Any] = {"transform": transform, "epochs": epochs, "seeds": seeds}
    with tempfile.TemporaryDirectory() as folder:
        found = featcache.probe(model, data, f"{folder}/s", pair.cuts, transform=transform)
        cuts = [row.cut for row in found.rows]
        truth = featcache.sweep(model, data, f"{folder}/s", cuts, patience=None, **shared)
        linear = featcache.sweep(model, data, f"{folder}/s", cuts, patience=None, head="linear", **shared)
        advised = featcache.sweep(model, data, f"{folder}/empty", cuts, **shared)
    splits = {cut: featcache.split(model, cut, (inputs[:2],)) for cut in cuts}
    loop_s = {cut: frozen_loop(split, inputs, targets, epochs=1)[0] for cut, split in splits.items()}
    accuracy = {row.cut: row.test_accuracy for row in truth.rows}
    of_linear = {row.cut: row.test_accuracy for row in linear.rows}
    best = max(accuracy, key=lambda cut: accuracy[cut])
    shallowest_s = max(loop_s.values()) * epochs * seeds
    return {
        "pair": pair.name,
        "shift": found.source_shift,
        "cuts": cuts,
        "accuracy": accuracy,
        "linear": of_linear,
        "recommended": advised.recommended,
        "reason": advised.reason,
        "best": best,
        "behind": accuracy[best] - accuracy[advised.recommended],
        "advised_s": advised.elapsed_s,
        "loop_s": sum(loop_s.values()) * epochs * seeds,
        "loop_shallowest_s": shallowest_s,
        "probe_s": found.elapsed_s,
        "tau": {
            score: (
                kendalltau([getattr(row, score) for row in found.rows], [of_linear[cut] for cut in cuts]).statistic,
                kendalltau([getattr(row, score) for row in found.rows], [accuracy[cut] for cut in cuts]).statistic,
            )
            for score in SCORES
        },
    }


def plan_errors(samples: int, epochs: int) -> list[tuple[str, float, float, float, float]]:
    """What the plan says of each cut, and what then happens: seconds of extract and of an epoch from the cache."""
    backbone = load_backbone("bundled:resnet-mini")
    model, transform = backbone.model, backbone.make_transform(None)
    data = digits(samples)
    data.splits = ["train"] * len(data)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in featcache.plan(model, data, folder, transform=transform, epochs=epochs).rows:
            features = featcache.extract(model, data, f"{folder}/{row.cut}", cut=row.cut, transform=transform)
            split = featcache.split(model, row.cut, (torch.stack([transform(data[n][0]) for n in range(2)]),))
            head = featcache.train_head(split, features, epochs=epochs, validation=0.0)
            epoch_s = float(np.median([record.elapsed_s for record in head.history]))
            rows.append((row.cut, row.extract_s, features.report.elapsed_s, row.cached_epoch_s, epoch_s))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer samples, epochs and seeds, and the first pair only")
    parser.add_argument("--pair", help="only pairs whose name holds this")
    options = parser.parse_args()
    samples, epochs, seeds = (200, 2, 2) if options.quick else (1000, EPOCHS, SEEDS)
    pairs = PAIRS[:1] if options.quick else [pair for pair in PAIRS if (options.pair or "") in pair.name]
    results = []
    for pair in pairs:
        result = run(pair, samples, epochs, seeds)
        results.append(result)
        print(f"\n### {pair.name}\n\nshift {result['shift']:.2f}; {result['reason']}\n", flush=True)
        print("| frozen up to | suffix trained, test | linear head, test |\n|---|---|---|")
        for cut in result["cuts"]:
            mark = " (recommended)" if cut == result["recommended"] else ""
            print(f"| {cut}{mark} | {100 * result['accuracy'][cut]:.1f} % | {100 * result['linear'][cut]:.1f} % |")
    print("\n| pair | shift | recommended | best | points behind | sweep | loop over all cuts | cost share |")
    print("|---|---|---|---|---|---|---|---|")
    for each in results:
        share = each["advised_s"] / each["loop_s"]
        print(
            f"| {each['pair']} | {each['shift']:.2f} | {each['recommended']} | {each['best']} | {100 * each['behind']:.1f} | "
            f"{each['advised_s']:.1f} s | {each['loop_s']:.1f} s | {100 * share:.0f} % |"
        )
    print("\nKendall τ of each score with the accuracy of a linear head / of the trained suffix:\n")
    print("| pair | " + " | ".join(SCORES) + " |\n|---|" + "---|" * len(SCORES))
    for each in results:
        cells = [f"{linear:.2f} / {suffix:.2f}" for linear, suffix in each["tau"].values()]
        print(f"| {each['pair']} | " + " | ".join(cells) + " |")
    if options.pair is None:
        print("\n| cut | extract, planned | extract, taken | epoch, planned | epoch, taken |\n|---|---|---|---|---|")
        for cut, *seconds in plan_errors(samples, min(epochs, 4)):
            print(f"| {cut} | " + " | ".join(f"{each:.2f} s" for each in seconds) + " |")


if __name__ == "__main__":
    main()
