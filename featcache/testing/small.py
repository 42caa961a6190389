"""A network and samples small enough to be run many times, which go to other processes too."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..machine import seeded

__all__ = ["SAMPLES", "SmallNet", "SmallSamples", "small_network"]

SAMPLES = 24


class SmallNet(nn.Module):
    """Two convolutions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.Tanh())
        self.fc = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return class scores (batch, 3)."""
        scores: torch.Tensor = self.fc(self.block(self.stem(x)).mean((2, 3)))
        return scores


def small_network() -> SmallNet:
    """Return the network with seeded weights, the same each time."""
    with seeded(0):
        return SmallNet().eval()


class SmallSamples(torch.utils.data.Dataset[Any]):
    """Random images of three classes, each with a colour of its own; the sample ``bad`` holds NaN."""

    classes = ("red", "green", "blue")

    def __init__(self, bad: int | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(SAMPLES, 3, 6, 6, generator=generator)
        for number in range(SAMPLES):
            self.inputs[number, number % 3] += 3
        if bad is not None:
            self.inputs[bad] = float("nan")

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.inputs[index], index % 3
