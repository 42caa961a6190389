"""Profiles of what misses its aim: where the time goes, function by function, one text file a job.

    python benchmarks/profiles.py [NAME ...]        (needs data/digits: python data/make_digits.py)

Each job runs once to warm up and once in cProfile, on one thread. The profiler's own cost is part of the figures, and grows
with the number of calls; built-in functions of torch are what computes.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import pstats
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from extraction import BATCH, Images
from torch.utils.data import TensorDataset
from torchvision.models import resnet18

import featcache
from featcache.machine import keep_freed_memory

KEPT = Path(__file__).parent / "profiles"
LINES = 25


def many_heads(folder: str) -> Callable[[], object]:
    """32 linear heads in one pass: 4,000 rows of 512 values, 10 classes, 10 epochs."""
    data = TensorDataset(torch.randn(4000, 64), torch.arange(4000) % 10)
    model = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.Linear(512, 10)).eval()
    split = featcache.split(model, "0", (data.tensors[0][:2],))
    features = featcache.extract(split, data, folder, batch_size=256)
    grid = [{"learning_rate": 10**-rate, "weight_decay": decay} for rate in range(1, 5) for decay in range(8)]
    return lambda: featcache.train_heads(split, features, grid, epochs=10, batch_size=256)


def deriving(folder: str) -> Callable[[], object]:
    """layer4 of ResNet-18 derived from the cached layer3: 512 images of 224 px."""
    model, images = resnet18().eval(), Images(512)
    split = featcache.split(model, "layer4", (images.values[:2],))
    featcache.extract(model, images, folder, cut="layer3", batch_size=BATCH)

    def derive() -> None:
        features = featcache.extract(split, images, folder, batch_size=BATCH)
        for shard in Path(folder, "sets", features.recipe.fingerprint).glob("*.h5"):
            shard.unlink()

    return derive


def whole_job(folder: str) -> Callable[[], object]:
    """Split, extraction and 20 epochs: EfficientNet-Lite0 at 96 px, 1,797 digits, a linear head."""
    number = 0

    def job() -> None:
        nonlocal number
        number += 1
        settings = featcache.Settings("data/efficientnet_lite0.py:factory", "folder:data/digits", f"{folder}/{number}")
        project = featcache.Project(settings)
        project.extract("_avg_pooling")
        features = project.features("_avg_pooling").where("train")
        featcache.train_head(
            project.split("_avg_pooling"), features, optimizer="adamw", epochs=20, batch_size=64, validation=0.0
        )

    return job


def bf16(folder: str) -> Callable[[], object]:
    """layer4 of ResNet-18 in bfloat16: 256 images of 224 px."""
    model, images = resnet18().eval(), Images(256)
    split = featcache.split(model, "layer4", (images.values[:2],))
    number = 0

    def extract() -> None:
        nonlocal number
        number += 1
        featcache.extract(split, images, f"{folder}/{number}", batch_size=BATCH, numerics="bf16")

    return extract


def one_edited(folder: str) -> str:
    """The command where one of 1,797 files was edited: what that costs whatever the number of files."""
    data = Path("data/digits").resolve()
    command = ["featcache", "extract", "--backbone", "bundled:resnet-mini", "--data", f"folder:{folder}/images"]
    command += ["--cut", "layer4"]
    images = Path(folder, "images")
    images.mkdir()
    for path in sorted(data.rglob("*.png")):
        place = images / path.relative_to(data)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    subprocess.run([sys.executable, "-m", *command], cwd=folder, check=True, capture_output=True)
    place.write_bytes(place.read_bytes() + b"\0")
    profile = Path(folder, "profile")
    subprocess.run(
        [sys.executable, "-m", "cProfile", "-o", str(profile), "-m", *command],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return shown(pstats.Stats(str(profile)), "cumulative")


def shown(stats: pstats.Stats, order: str = "tottime") -> str:
    words = io.StringIO()
    stats.stream = words  # type: ignore[attr-defined]
    stats.strip_dirs().sort_stats(order).print_stats(LINES)
    return words.getvalue().strip()


def profiled(prepare: Callable[[str], Callable[[], object]], folder: str) -> str:
    job = prepare(folder)
    job()
    profiler = cProfile.Profile()
    profiler.runcall(job)
    return shown(pstats.Stats(profiler))


JOBS = {each.__name__: each for each in (many_heads, deriving, whole_job, bf16, one_edited)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *JOBS], help="all by default")
    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    KEPT.mkdir(exist_ok=True)
    for name in parser.parse_args().names or JOBS:
        with tempfile.TemporaryDirectory() as folder:
            made = one_edited(folder) if name == "one_edited" else profiled(JOBS[name], folder)
        lines = [line.rstrip() for line in made.splitlines() if folder not in line]
        (KEPT / f"{name}.txt").write_text("\n".join([JOBS[name].__doc__ or "", "", *lines]) + "\n")


if __name__ == "__main__":
    main()
