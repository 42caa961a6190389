"""Small real networks, images and stores that the tests share."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import featcache

from .command_server import CommandServer

torch.set_num_threads(1)
collect_ignore = ["example_plugin"]  # a package of its own, which test_extending installs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a CUDA device where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="there is no CUDA device here"))


class SmallNet(nn.Module):
    """Convolutions with BatchNorm, dropout and a skip, small enough to run hundreds of times."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.block = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.tail = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.tail(self.block(self.stem(x)))
        return self.fc(torch.flatten(self.pool(x), 1))


class Items(torch.utils.data.Dataset):
    """Inputs with targets of any kind."""

    def __init__(self, inputs: torch.Tensor, targets: np.ndarray, classes: list[str] | None = None) -> None:
        self.inputs, self.all_targets = inputs, targets
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, np.ndarray]:
        return self.inputs[index], self.all_targets[index]


class TensorPairs(torch.utils.data.Dataset):
    """A map-style dataset of tensors in memory."""

    def __init__(self, inputs: torch.Tensor, targets: torch.Tensor, classes: list[str] | None = None) -> None:
        self.inputs, self.targets_of = inputs, targets
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.inputs[index], int(self.targets_of[index])


@pytest.fixture
def net() -> SmallNet:
    torch.manual_seed(0)
    model = SmallNet()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_()
    return model.eval()


@pytest.fixture
def pairs() -> TensorPairs:
    generator = torch.Generator().manual_seed(1)
    return TensorPairs(torch.randn(50, 3, 12, 12, generator=generator), torch.arange(50) % 4)


@pytest.fixture
def made(net, pairs) -> featcache.Split:
    return featcache.split(net, "block", (pairs.inputs[:2],))


@pytest.fixture
def features(made, pairs, tmp_path) -> featcache.Features:
    return featcache.extract(made, pairs, str(tmp_path / "store"))


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Three classes of six random images each."""
    root = tmp_path / "images"
    generator = np.random.default_rng(0)
    for label in ("ant", "bee", "cat"):
        (root / label).mkdir(parents=True)
        for number in range(6):
            pixels = generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{number}.png")
    return root


class CommandLine:
    """Runs the real command in a folder of its own, in a process of its own."""

    def __init__(self, folder: Path, server: CommandServer) -> None:
        self.folder, self._server = folder, server

    def __call__(self, *arguments: str | Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = self._server.run([*map(str, arguments)], self.folder, environment, timeout_s=300)
        assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done


@pytest.fixture(scope="session")
def command_server() -> Iterator[CommandServer]:
    server = CommandServer()
    yield server
    server.close()


@pytest.fixture
def featcache_command(tmp_path: Path, command_server: CommandServer) -> CommandLine:
    return CommandLine(tmp_path, command_server)
