"""A small residual network with the module names of torchvision's ResNets."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock
from torchvision.transforms import v2

__all__ = ["ResNetMini", "resnet_mini", "transform"]

IMAGE_SIZE = 32
MEAN, DEVIATION = 0.1307, 0.3081  # of MNIST's training digits, on the scale of 0 to 1


class ResNetMini(nn.Module):
    """One basic block a stage, 16 to 96 channels: a grey image (1, 32, 32) in, ``classes`` logits out.

    The design is ResNet's (He et al., 2015, https://arxiv.org/abs/1512.03385), with its blocks as torchvision has them.
    """

    def __init__(self, classes: int = 10, widths: tuple[int, int, int, int] = (16, 32, 64, 96)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(widths[0], widths[0], 1)
        self.layer2 = _stage(widths[0], widths[1], 2)
        self.layer3 = _stage(widths[1], widths[2], 2)
        self.layer4 = _stage(widths[2], widths[3], 2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(widths[3], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: torch.Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
    return nn.Sequential(BasicBlock(inputs, outputs, stride, shortcut))


def resnet_mini(classes: int = 10) -> ResNetMini:
    """Return the network with random weights."""
    return ResNetMini(classes)


def transform(image_size: int | None = None) -> Any:
    """Return the transform of a PIL image to a normalised grey tensor (1, size, size); the size is 32 by default."""
    size = image_size or IMAGE_SIZE
    return v2.Compose(
        [
            v2.Grayscale(),
            v2.ToImage(),
            v2.Resize((size, size), antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([MEAN], [DEVIATION]),
        ]
    )
