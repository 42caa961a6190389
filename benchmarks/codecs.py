"""Stored precision and compression: bytes, speed of reading, accuracy of a linear head, on activations of photographs.

    python data/make_digits.py && python benchmarks/codecs.py

EfficientNet-Lite0 at 96 px, dense maps (a linear bottleneck, few zeros) and the last maps (of ReLU6, many zeros), of
overlapping crops of scikit-learn's two photographs; and accuracies on the digits. Bytes are relative to raw float32, speed is
decoded float32 bytes a second for random batches of 64 rows, accuracy is that of a linear head on pooled features over three
seeds, where samples have a test split.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

import featcache

PRECISIONS = ("float32", "float16", "bfloat16", "float8_e4m3", "float8_e5m2", "int8", "int4")
SIDE, STEP = 96, 24


def crops() -> list[tuple[Image.Image, int]]:
    """Return crops of the photographs, and which photograph each is from."""
    found = []
    for number, pixels in enumerate(load_sample_images().images):
        height, width, _ = pixels.shape
        for top in range(0, height - SIDE + 1, STEP):
            for left in range(0, width - SIDE + 1, STEP):
                found.append((Image.fromarray(pixels[top : top + SIDE, left : left + SIDE]), number))
    return found


def accuracy(split: featcache.Split, features: featcache.Features) -> float:
    found = [
        featcache.train_head(split, features, head="linear", epochs=30, seed=seed).metrics.accuracy for seed in range(3)
    ]
    return 100 * statistics.mean(found)


def speed(features: featcache.Features) -> float:
    order = np.random.default_rng(0).permutation(len(features))
    rates = []
    for _ in range(3):
        started = time.perf_counter()
        done = sum(features.batch(order[start : start + 64])[0].nbytes for start in range(0, len(order), 64))
        rates.append(done / (time.perf_counter() - started) / 1e9)
    return statistics.median(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="benchmarks/codecs.py:crops")
    parser.add_argument("--backbone", default="data/efficientnet_lite0.py:factory")
    parser.add_argument("--cuts", nargs="+", default=["_blocks.10", "_swish"])
    parser.add_argument("--image-size", type=int, default=None)
    options = parser.parse_args()
    print("| cut | precision | bytes | with zstd | read, GB/s | with zstd | accuracy |\n|---|---|---|---|---|---|---|")
    for cut in options.cuts:
        with tempfile.TemporaryDirectory() as folder:
            # The rounded sets are derived from the float32 one in the same store.
            stores = {None: f"{folder}/plain", "zstd": f"{folder}/packed"}
            raw = 0
            for dtype in PRECISIONS:
                sizes, rates = [], []
                for codec, store in stores.items():
                    settings = featcache.Settings(
                        options.backbone, options.data, store, dtype=dtype, codec=codec, image_size=options.image_size
                    )
                    project = featcache.Project(settings)
                    project.extract(cut)
                    features = project.features(cut)
                    shards = Path(store).glob(f"sets/{features.recipe.fingerprint}/*.h5")
                    sizes.append(sum(path.stat().st_size for path in shards))
                    rates.append(speed(features))
                raw = raw or sizes[0]
                scored = f"{accuracy(project.split(cut), features):.1f}" if "test" in features.splits else ""
                print(
                    f"| {cut} | {dtype} | {sizes[0] / raw:.3f} | {sizes[1] / raw:.3f} | {rates[0]:.2f} | {rates[1]:.2f} | "
                    f"{scored} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
