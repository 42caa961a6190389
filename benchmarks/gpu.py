"""Extraction and training on a GPU, against bare loops on the same device.

    python benchmarks/gpu.py [--out docs/gpu.md] [--device cuda] [--small]

Random weights, no network; meant for nine minutes on one GPU. Extraction: the bare loop runs the same modules at the same
numerics on the same batches and keeps nothing; from memory both copy each batch to the device. The busy share is the time
that the prefix takes of batches that lie on the device already, of the whole time. Training: the bare loop has the same module,
optimizer, schedule and number of steps, on tensors that lie on the device. Ratios are taken within a round; figures are
their medians.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn
from training import EPOCHS, GRID, loop

import featcache
import featcache.features.loader

NUMERICS = ("exact", "fast", "bf16")


@dataclass(frozen=True)
class Sizes:
    """How much is measured, and with which networks."""

    convolutional: str
    transformer: dict[str, int]
    images: int
    files: int
    photographs: int
    vectors: int
    maps: int
    batch: int
    side: int
    rounds: int


FULL = Sizes(
    "resnet50", {"patch_size": 16, "num_layers": 12, "num_heads": 12, "hidden_dim": 768, "mlp_dim": 3072},
    images=4096, files=2048, photographs=256, vectors=200_000, maps=4096, batch=256, side=224, rounds=3
)  # fmt: skip
SMALL = Sizes(
    "resnet18", {"patch_size": 16, "num_layers": 3, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64},
    images=4, files=4, photographs=2, vectors=128, maps=8, batch=2, side=32, rounds=1
)  # fmt: skip


class Rows(torch.utils.data.Dataset):
    """Inputs in memory, with ids of their own, as files have that were hashed before."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.values[index], index % 10

    def sample_id(self, index: int) -> bytes:
        return index.to_bytes(16, "little")


class Race:
    """What is measured on one device."""

    def __init__(self, device: torch.device, sizes: Sizes) -> None:
        self.device, self.sizes = device, sizes

    def seconds(self, run: Callable[[], object]) -> float:
        self._wait()
        started_s = time.perf_counter()
        run()
        self._wait()
        return time.perf_counter() - started_s

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def ratio(self, base: Callable[[], object], mine: Callable[[], object]) -> tuple[float, float]:
        """Return the median ratio of two runs, the first to the second, and the median time of the second."""
        if self.sizes is not SMALL:
            base(), mine()  # warm
        pairs = [(self.seconds(base), self.seconds(mine)) for _ in range(self.sizes.rounds)]
        return statistics.median(one / other for one, other in pairs), statistics.median(other for _, other in pairs)

    def extraction(self, name: str, model: nn.Module, cut: str, values: torch.Tensor) -> Iterator[str]:
        """Yield a row for each way of computing, of samples in memory."""
        data, batch = Rows(values), self.sizes.batch
        there = values[:batch].to(self.device)
        for numerics in NUMERICS:
            split = featcache.split(model.eval(), cut, (values[:2],))
            running = _prefix(model, cut).to(self.device)
            if numerics != "exact":
                running = running.to(memory_format=torch.channels_last)
            mixed = torch.autocast(self.device.type, torch.bfloat16) if numerics == "bf16" else nullcontext()

            def bare(running: nn.Module = running, mixed: Any = mixed) -> None:
                with torch.no_grad(), mixed:
                    for part in values.split(batch):
                        running(part.to(self.device, non_blocking=True))

            def resident(running: nn.Module = running, mixed: Any = mixed) -> None:
                with torch.no_grad(), mixed:
                    for _ in range(-(-len(values) // batch)):
                        running(there)

            resident()
            busy_s = self.seconds(resident)
            share, elapsed_s = self.ratio(bare, lambda n=numerics, s=split: self._extract(s, data, numerics=n))
            yield f"| {name} | {numerics} | memory | {share:.2f} | {busy_s / elapsed_s:.2f} | {len(values) / elapsed_s:,.0f} |"

    def files(self, name: str, folder: Path, decoding: str) -> str:
        """Return the row of an extraction from JPEG files; its bare loop decodes and transforms in a DataLoader."""
        model = torchvision.models.get_model(self.sizes.convolutional).eval()
        side = self.sizes.side
        transform = torchvision.models.ResNet50_Weights.DEFAULT.transforms(crop_size=side, resize_size=side * 8 // 7)
        data = featcache.open_dataset(f"folder:{folder}", decoding=decoding)
        running = _prefix(model, "avgpool").to(self.device)
        count, batch = len(data), min(self.sizes.batch, 64)
        workers = 0 if self.sizes is SMALL else min(16, featcache.machine.usable_cores())

        class Transformed(torch.utils.data.Dataset):
            def __len__(self) -> int:
                return count

            def __getitem__(self, index: int) -> torch.Tensor:
                return transform(data[index][0])

        def bare() -> None:
            with torch.no_grad():
                for part in torch.utils.data.DataLoader(Transformed(), batch, num_workers=workers):
                    running(part.to(self.device, non_blocking=True))

        def mine() -> None:
            self._extract(model, data, cut="avgpool", transform=transform, workers=workers)

        share, elapsed_s = self.ratio(bare, mine)
        return f"| {self.sizes.convolutional} | exact | {name} | {share:.2f} | | {count / elapsed_s:,.0f} |"

    def _extract(self, what: Any, data: Any, **options: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            batch = min(self.sizes.batch, 64) if "transform" in options else self.sizes.batch
            featcache.extract(what, data, folder, batch_size=batch, device=str(self.device), **options)

    def training(self, name: str, suffix: nn.Module, values: torch.Tensor, streamed: bool = False) -> str:
        """Return the row of training a suffix from the cache, held in the device's memory or streamed."""
        model = nn.Sequential(nn.Identity(), suffix).eval()
        data, batch = Rows(values), self.sizes.batch
        split = featcache.split(model, "0", (values[:2],))
        held, targets = values.to(self.device), (torch.arange(len(values)) % 10).to(self.device)
        with tempfile.TemporaryDirectory() as folder, _streamed() if streamed else nullcontext():
            features = featcache.extract(split, data, folder, batch_size=batch)
            ratios, steps = [], -(-len(values) // batch)
            for _ in range(self.sizes.rounds + 1):
                base_s = loop(suffix, held, targets, batch)
                trained = featcache.train_head(
                    split,
                    features,
                    optimizer="adamw",
                    epochs=EPOCHS,
                    batch_size=batch,
                    validation=0.0,
                    device=str(self.device),
                )
                mine_s = statistics.median(record.elapsed_s for record in trained.history[1:])
                ratios.append((base_s / mine_s, (mine_s - base_s) / steps * 1e6))
        shares, beyond = zip(*ratios[1:], strict=True)
        return f"| {name} | {statistics.median(shares):.2f} | {statistics.median(beyond):.0f} |"

    def heads(self, values: torch.Tensor) -> str:
        """Return what 32 heads cost, of one."""
        data = Rows(values)
        split = featcache.split(nn.Sequential(nn.Identity(), nn.Linear(values.shape[1], 10)).eval(), "0", (values[:2],))
        shared = {"epochs": EPOCHS, "batch_size": self.sizes.batch, "device": str(self.device)}
        with tempfile.TemporaryDirectory() as folder:
            features = featcache.extract(split, data, folder, batch_size=self.sizes.batch)
            share, _ = self.ratio(
                lambda: featcache.train_head(split, features, head="linear", learning_rate=1e-3, **shared),
                lambda: featcache.train_heads(split, features, GRID, **shared),
            )
        return f"{len(GRID)} linear heads on {len(values):,} × {values.shape[1]}: {1 / share:.1f} × one."


def _prefix(model: nn.Module, cut: str) -> nn.Module:
    """Return what stands before a cut, as one would write it by hand."""

    class Prefix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            model.get_submodule(cut).register_forward_hook(self._stop)

        def _stop(self, module: nn.Module, args: Any, output: torch.Tensor) -> None:
            raise StopIteration(output)

        def forward(self, *inputs: torch.Tensor) -> Any:
            try:
                return self.model(*inputs)
            except StopIteration as stopped:
                return stopped.value

    model = copy.deepcopy(model)
    return Prefix().eval()


@contextmanager
def _streamed() -> Iterator[None]:
    """Have no set held in the device's memory."""
    known, featcache.features.loader.DEVICE_SHARE = featcache.features.loader.DEVICE_SHARE, 0.0
    try:
        yield
    finally:
        featcache.features.loader.DEVICE_SHARE = known


def photographs(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """Write JPEG files of a size, of soft shapes with some noise, as photographs have."""
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = random.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        picture = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = (picture + random.integers(-8, 9, picture.shape, dtype=np.int16)).clip(0, 255).astype(np.uint8)
        place = folder / str(number % 10) / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(place, quality=90)
    return folder


def report(device: torch.device, sizes: Sizes) -> Iterator[str]:
    """Yield the lines of the page."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU, in small"
    yield f"Machine: {name}. torch {torch.__version__}, torchvision {torchvision.__version__}.\n"
    race = Race(device, sizes)
    torch.manual_seed(0)
    yield "| network | numerics | samples | speed, of the bare loop's | busy share | samples/s |\n|---|---|---|---|---|---|"
    images = torch.randn(sizes.images, 3, sizes.side, sizes.side)
    network = torchvision.models.get_model(sizes.convolutional)
    yield from race.extraction(sizes.convolutional, network, "avgpool", images)
    vit = torchvision.models.VisionTransformer(sizes.side, **sizes.transformer)
    cut = f"encoder.layers.encoder_layer_{sizes.transformer['num_layers'] * 3 // 4 - 1}"
    yield from race.extraction("ViT-B/16", vit, cut, images[: sizes.images // 2])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        small = photographs(folder / "small", sizes.files, (320, 240))
        yield race.files("JPEG files, 320 × 240", small, "exact")
        large = photographs(folder / "large", sizes.photographs, (4000, 3000) if sizes is FULL else (400, 300))
        yield race.files("camera-size JPEG files", large, "exact")
        yield race.files("camera-size JPEG files, --decoding scaled", large, "scaled")
    yield "\n| trained | speed, of the bare loop's | beyond the loop, µs a step |\n|---|---|---|"
    vectors = torch.randn(sizes.vectors, 512)
    mlp = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    yield race.training("linear head", nn.Sequential(nn.Linear(512, 10)), vectors)
    yield race.training("MLP", mlp, vectors)
    yield race.training("MLP, streamed", mlp, vectors, streamed=True)
    resnet = torchvision.models.resnet18(num_classes=10)
    suffix = nn.Sequential(resnet.layer4, resnet.avgpool, nn.Flatten(), resnet.fc)
    maps = torch.randn(sizes.maps, 256, 14, 14)
    yield race.training("layer4 + fc of ResNet-18", suffix, maps)
    yield race.training("layer4 + fc of ResNet-18, streamed", suffix, maps, streamed=True)
    yield "\n" + race.heads(vectors[: max(64, sizes.vectors // 5)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a few samples, to see that it runs")
    parser.add_argument("--out", type=Path, help="write the page there, too")
    options = parser.parse_args()
    lines = []
    for line in report(torch.device(options.device), SMALL if options.small else FULL):
        print(line, flush=True)
        lines.append(line)
    if options.out is not None:
        words = (__doc__ or "").split("\n\n")
        options.out.write_text(
            "\n\n".join(["# On a GPU", words[0], words[-1].strip(), "\n".join(lines)]) + "\n", "utf-8"
        )


if __name__ == "__main__":
    main()
