"""Is the advice good: recommended cut against the best one, its cost, and how well each probe score ranks the cuts.

    python benchmarks/guidance.py [--quick] [--pair NAME]

The truth is what one would do without featcache: training end to end behind every candidate cut, on all training rows with
the full budget and several seeds, judged by test rows that no advice saw. It is computed from the cache, from which the same
steps are taken, and timed as the usual frozen loop: an epoch a cut before the sweep and one after it, times epochs and seeds.
The sweep decides by itself, as it is by default, in an empty store; its cost is all that it does, extraction included.
Linear heads are scikit-learn's logistic regression, converged, its strength chosen by cross-validation. Seconds are of the
processor, which other processes disturb less. Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
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
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import featcache
from featcache.advise.probe import SCORES
from featcache.backbones import load_backbone
from featcache.machine import keep_freed_memory

EPOCHS, SEEDS = 20, 3  # of the truth: the budget of train-head
LITE0 = f"{Path(__file__).parent.parent / 'data' / 'efficientnet_lite0.py'}:factory"
PLANNED_CUTS = ["_blocks.7", "_blocks.12", "_blocks.15", "_avg_pooling"]
LITE0_CUTS = ["_blocks.4", "_blocks.7", "_blocks.10", "_blocks.12", "_blocks.13", "_blocks.15"]


class Images:
    """Images in memory, a share for training and the rest for the test, in an order drawn once."""

    def __init__(self, name: str, images: Sequence[Image.Image], targets: Sequence[int], share: float = 0.6) -> None:
        order = np.random.default_rng(0).permutation(len(images))
        self.name = name
        self.images = [images[row].convert("RGB") for row in order]
        self.targets = [int(targets[row]) for row in order]
        self.splits = ["train" if place < share * len(order) else "test" for place in range(len(order))]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        return self.images[row], self.targets[row]


def digits(
    count: int, change: Callable[[Image.Image], Image.Image] = lambda image: image, share: float = 0.6
) -> Images:
    found = load_digits()
    chosen = np.random.default_rng(1).permutation(len(found.images))[:count]
    pixels = np.round(found.images[chosen] * (255 / 16)).astype(np.uint8)
    return Images("digits", [change(Image.fromarray(each)) for each in pixels], found.target[chosen], share)


def noisy(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image).astype(float)
    noise = np.random.default_rng(int(pixels.sum())).normal(0, 60, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def patches(side: int = 24, share: float = 0.6) -> Images:
    """Tiles of scikit-learn's two photographs; the class is the photograph and its upper or lower half."""
    images, targets = [], []
    for number, pixels in enumerate(load_sample_images().images):
        for top in range(0, pixels.shape[0] - side + 1, side):
            for left in range(0, pixels.shape[1] - side + 1, side):
                images.append(Image.fromarray(pixels[top : top + side, left : left + side]))
                targets.append(2 * number + int(top > pixels.shape[0] / 2))
    return Images("patches", images, targets, share)


@dataclass(frozen=True)
class Pair:
    name: str
    backbone: str
    data: Callable[[int], Images]
    cuts: list[str] | None = None


MINI = "bundled:resnet-mini"
PAIRS = [
    Pair("MNIST → digits", MINI, digits),
    Pair("MNIST → digits, a quarter turned", MINI, lambda most: digits(min(most, 1000), lambda i: i.rotate(90))),
    Pair("MNIST → digits, inverted", MINI, lambda most: digits(min(most, 1000), ImageOps.invert)),
    Pair("MNIST → photograph patches", MINI, lambda most: patches()),
    Pair("ImageNet → digits", LITE0, lambda most: digits(min(most, 600), share=0.4), LITE0_CUTS),
    # Looked at after the sweep's rule and budgets had been chosen by the pairs above.
    Pair("MNIST → digits, noisy (held out)", MINI, lambda most: digits(min(most, 700), noisy)),
    Pair("ImageNet → photograph patches (held out)", LITE0, lambda most: patches(32, 0.4), LITE0_CUTS),
]


def run(pair: Pair, samples: int, epochs: int, seeds: int) -> dict[str, Any]:
    backbone = load_backbone(pair.backbone)
    model, transform = backbone.model, backbone.make_transform(None)
    data = pair.data(samples)
    with tempfile.TemporaryDirectory() as folder:
        found = featcache.probe(model, data, f"{folder}/s", pair.cuts, transform=transform)
        cuts = [row.cut for row in found.rows]
        pooled = featcache.extract(model, data, f"{folder}/s", cut=cuts, transform=transform, pool="auto")
        linear = {cut: linear_accuracy(features) for cut, features in pooled.items()}
        loop_s = dict.fromkeys(cuts, 0.0)
        time_loops(loop_s, model, transform, data)
        started_s = time.process_time()
        advised = featcache.sweep(model, data, f"{folder}/empty", cuts, transform=transform)
        advised_s = time.process_time() - started_s
        time_loops(loop_s, model, transform, data)
        features = featcache.extract(model, data, f"{folder}/s", cut=cuts, transform=transform)
        accuracy = {cut: full_accuracy(model, features[cut], transform, data, epochs, seeds) for cut in cuts}
    best = max(accuracy, key=lambda cut: accuracy[cut])
    once_s = sum(loop_s.values()) / 2 * epochs  # each cut was timed twice
    scores = {score: [getattr(row, score) for row in found.rows] for score in SCORES}
    return {
        "pair": pair.name,
        "rows": data.splits.count("train"),
        "shift": found.source_shift,
        "cuts": cuts,
        "accuracy": accuracy,
        "linear": linear,
        "swept": {row.cut: row.score for row in advised.rows},
        "recommended": advised.recommended,
        "reason": advised.reason,
        "best": best,
        "behind": accuracy[best] - accuracy[advised.recommended],
        "advised_s": advised_s,
        "once_s": once_s,
        "loop_s": once_s * seeds,
        "tau": {
            score: tuple(kendalltau(values, [truth[cut] for cut in cuts]).statistic for truth in (linear, accuracy))
            for score, values in scores.items()
        },
    }


def time_loops(loop_s: dict[str, float], model: torch.nn.Module, transform: Any, data: Images) -> None:
    """Add the seconds of an epoch of the usual loop after each cut."""
    rows = [row for row in range(len(data)) if data.splits[row] == "train"]
    inputs = torch.stack([transform(data[row][0]) for row in rows])
    targets = torch.tensor([data.targets[row] for row in rows])
    for cut in loop_s:
        split = featcache.split(model, cut, (inputs[:2],))
        started_s = time.process_time()
        frozen_loop(split, inputs, targets, epochs=1)
        loop_s[cut] += time.process_time() - started_s


def full_accuracy(
    model: torch.nn.Module, features: featcache.Features, transform: Any, data: Images, epochs: int, seeds: int
) -> float:
    """Return the mean test accuracy of training after a cut, on all training rows with the full budget."""
    split = featcache.split(model, features.recipe.cut, (torch.stack([transform(data[row][0]) for row in range(2)]),))
    heads = [
        featcache.train_head(split, features, epochs=epochs, validation=0.0, seed=100 + seed) for seed in range(seeds)
    ]
    return float(np.mean([head.metrics.accuracy for head in heads if head.metrics is not None]))


def linear_accuracy(features: featcache.Features) -> float:
    """Return the test accuracy of a converged linear head on pooled features."""
    (values, targets), (judged, right) = features.where("train").numpy(), features.where("test").numpy()
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    strengths = {"logisticregression__C": np.logspace(-3, 2, 6)}
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        return float(GridSearchCV(model, strengths, cv=3).fit(values, targets).score(judged, right))


def plan_errors(
    spec: str, cuts: list[str] | None, samples: int, epochs: int
) -> list[tuple[str, float, float, float, float]]:
    """What the plan says of each cut, and what then happens: seconds of extract and of an epoch from the cache.

    Freed memory is kept, as the command does: without that, what a layer costs depends on what the process did before.
    """
    keep_freed_memory()
    backbone = load_backbone(spec)
    model, transform = backbone.model, backbone.make_transform(None)
    data = digits(samples)
    data.splits = ["train"] * len(data)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in featcache.plan(model, data, folder, cuts, transform=transform, epochs=epochs).rows:
            if cuts is not None and row.cut not in cuts:
                continue
            features = featcache.extract(model, data, f"{folder}/{row.cut}", cut=row.cut, transform=transform)
            split = featcache.split(model, row.cut, (torch.stack([transform(data[n][0]) for n in range(2)]),))
            head = featcache.train_head(split, features, optimizer="adamw", epochs=epochs, validation=0.0)
            epoch_s = float(np.median([record.elapsed_s for record in head.history]))
            rows.append((row.cut, row.extract_s, features.report.elapsed_s, row.cached_epoch_s, epoch_s))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer samples, epochs and seeds, and the first pair only")
    parser.add_argument("--pair", help="only pairs whose name holds this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    samples, epochs, seeds = (200, 2, 2) if options.quick else (1797, EPOCHS, SEEDS)
    pairs = PAIRS[:1] if options.quick else [pair for pair in PAIRS if (options.pair or "") in pair.name]
    results = []
    for pair in pairs:
        result = run(pair, samples, epochs, seeds)
        results.append(result)
        print(f"\n### {pair.name}\n\nshift {result['shift']:.2f}; {result['reason']}\n", flush=True)
        print("| frozen up to | suffix trained, test | in the sweep | linear head, test |\n|---|---|---|---|")
        for cut in result["cuts"]:
            mark = " (recommended)" if cut == result["recommended"] else ""
            swept = f"{100 * result['swept'][cut]:.1f} %" if cut in result["swept"] else "not tried"
            truth = f"{100 * result['accuracy'][cut]:.1f} %"
            print(f"| {cut}{mark} | {truth} | {swept} | {100 * result['linear'][cut]:.1f} % |")
        print(f"\n{result['advised_s']:.1f} s, and {result['loop_s']:.0f} s by the loop; τ {result['tau']}", flush=True)
    print(
        "\n| pair | rows | shift | recommended | best | points behind | sweep | loop, all cuts | cost share | of one seed |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for each in results:
        shares = [100 * each["advised_s"] / each[name] for name in ("loop_s", "once_s")]
        print(
            f"| {each['pair']} | {each['rows']} | {each['shift']:.2f} | {each['recommended']} | {each['best']} | "
            f"{100 * each['behind']:.1f} | {each['advised_s']:.1f} s | {each['loop_s']:.0f} s | {shares[0]:.1f} % | "
            f"{shares[1]:.0f} % |"
        )
    print("\nKendall τ of each score with the accuracy of a linear head / of the trained suffix:\n")
    print("| pair | " + " | ".join(SCORES) + " |\n|---|" + "---|" * len(SCORES))
    for each in results:
        cells = [f"{linear:.2f} / {suffix:.2f}" for linear, suffix in each["tau"].values()]
        print(f"| {each['pair']} | " + " | ".join(cells) + " |")
    if options.pair is None:
        spec, cuts = ("bundled:resnet-mini", None) if options.quick else (LITE0, PLANNED_CUTS)
        print("\n| cut | extract, planned | extract, taken | epoch, planned | epoch, taken |\n|---|---|---|---|---|")
        for cut, *seconds in plan_errors(spec, cuts, 200 if options.quick else 1797, 2):
            print(f"| {cut} | " + " | ".join(f"{each:.2f} s" for each in seconds) + " |")


if __name__ == "__main__":
    main()
