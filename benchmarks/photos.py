"""Photographs: decoded whole, decoded scaled, and by other decoders; and how many processes decode them.

    python benchmarks/photos.py [--counts 200 2000 20000] [--rounds 5]

The first table takes JPEG files (quality 90, with detail of every size) to the input of a network at 224 pixels
(torchvision's usual transform), one thread: milliseconds per image, and the difference of the input from the whole image's,
where black and white are 0 and 1. `simplejpeg` is libjpeg-turbo without Pillow, and decodes scaled, too (measured where it is
installed). The second table trains a linear head on scikit-learn's digits, each blown up to a noisy photograph of 1200 × 1200
pixels. The third extracts the first layers of ResNet-18 for 500 × 375 pixels with each number of decoding processes, and with
the number that featcache chooses: its time is divided by that of the fastest.
"""

from __future__ import annotations

import argparse
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.transforms import v2

import featcache
from featcache.datasets import Pixels
from featcache.samples import AskedScale

SIZES = ((4000, 3000), (1600, 1200), (500, 375))
NORMALISE = [v2.ToDtype(torch.float32, scale=True)]
TRANSFORM = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.ToImage(), *NORMALISE])
DIGITS = 600


def photo(width: int, height: int, seed: int) -> bytes:
    """Return a JPEG file of noise of every size, from a few pixels on."""
    generator = np.random.default_rng(seed)
    sides = [side for side in (4, 16, 64, 256, 1024) if side < min(width, height)]
    layers = [
        np.asarray(
            Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)).resize((width, height)),
            dtype=np.float32,
        )
        for side in sides
    ]
    file = io.BytesIO()
    Image.fromarray((sum(layers) / len(layers)).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def ways() -> dict[str, Callable[[bytes], torch.Tensor]]:
    whole, scaled = Pixels(), Pixels("scaled", scale_of=AskedScale(TRANSFORM))
    found: dict[str, Callable[[bytes], torch.Tensor]] = {
        "exact": lambda content: TRANSFORM(whole.image(content, "photo")),
        "scaled": lambda content: TRANSFORM(scaled.image(content, "photo")),
        "torchvision.io": lambda content: TRANSFORM(
            torchvision.io.decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        ),
    }
    try:
        import simplejpeg
    except ImportError:
        return found
    found["simplejpeg"] = lambda content: TRANSFORM(Image.fromarray(simplejpeg.decode_jpeg(content)))
    found["simplejpeg, scaled"] = lambda content: TRANSFORM(
        Image.fromarray(simplejpeg.decode_jpeg(content, min_height=512, min_width=512, min_factor=1))
    )
    return found


def decoders(rounds: int) -> None:
    print("| photograph | decoder | ms per image | of exact | largest difference | mean |")
    print("|---|---|---|---|---|---|")
    for size in SIZES:
        content = photo(*size, seed=0)
        expected = TRANSFORM(Pixels().image(content, "photo"))
        elapsed: dict[str, list[float]] = {}
        seen = {name: decode(content) for name, decode in ways().items()}
        for _, (name, decode) in itertools.product(range(rounds), ways().items()):
            decode(content)
            started_s = time.perf_counter()
            for _ in range(3):
                decode(content)
            elapsed.setdefault(name, []).append((time.perf_counter() - started_s) / 3)
        for name, each in elapsed.items():
            difference = (seen[name] - expected).abs()
            ratio = statistics.median(one / other for one, other in zip(each, elapsed["exact"], strict=True))
            print(
                f"| {size[0]} × {size[1]} | {name} | {1000 * statistics.median(each):.1f} | {ratio:.2f} | "
                f"{difference.max():.3f} | {difference.mean():.4f} |"
            )


def accuracy() -> None:
    print("\n| digits of 1200 × 1200 | accuracy of a linear head | extraction, s |\n|---|---|---|")
    digits, generator = load_digits(), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(DIGITS):
            place = Path(folder, "data", "test" if number % 3 == 0 else "train", str(digits.target[number]))
            place.mkdir(parents=True, exist_ok=True)
            large = Image.fromarray((digits.images[number] * 15).astype(np.uint8)).resize((1200, 1200))
            noisy = np.asarray(large, dtype=np.float32)[..., None] + generator.normal(0, 8, (1200, 1200, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(place / f"{number}.jpg", quality=90)
        for decoding in ("exact", "scaled"):
            settings = featcache.Settings(
                "bundled:resnet-mini", f"folder:{folder}/data", store=f"{folder}/{decoding}", decoding=decoding
            )
            project = featcache.Project(settings)
            report = project.extract("layer4")
            head = featcache.train_head(project.split("layer4"), project.features("layer4"), head="linear", epochs=40)
            print(f"| {decoding} | {100 * head.metrics.accuracy:.1f} % | {report.elapsed_s:.1f} |")


def workers(counts: list[int]) -> None:
    print("\n| photographs | processes | s | of the fastest |\n|---|---|---|---|")
    torch.manual_seed(0)
    network = torchvision.models.resnet18().eval()
    content = photo(500, 375, seed=1)
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            for number in range(count):
                place = Path(folder, "data", str(number % 10))
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{number}.jpg").write_bytes(content + number.to_bytes(4, "big"))
            dataset = featcache.open_dataset(f"folder:{folder}/data")
            took = {}
            for chosen in (0, 1, 2, None):
                options: dict[str, Any] = {"cut": "conv1", "transform": TRANSFORM, "workers": chosen, "pool": "auto"}
                started_s = time.perf_counter()
                featcache.extract(network, dataset, f"{folder}/{chosen}", **options)
                took["chosen" if chosen is None else str(chosen)] = time.perf_counter() - started_s
            best = min(took.values())
            for name, elapsed_s in took.items():
                print(f"| {count:,} | {name} | {elapsed_s:.1f} | {elapsed_s / best:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="*", default=[200, 2000, 20000])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    decoders(options.rounds)
    accuracy()
    workers(options.counts)


if __name__ == "__main__":
    main()
