"""``--backbone example:WIDTH``: a network of one convolution, with WIDTH channels."""

from __future__ import annotations

from typing import Any

from featcache.backbones import Backbone
from featcache.errors import UnknownNameError


class ExampleSource:
    def load(self, name: str, weights: str | None) -> Backbone:
        # torch is imported here, so that `featcache --help` need not wait for it.
        import torch
        from torch import nn

        if not name.isdecimal() or weights not in (None, "none"):
            raise UnknownNameError(
                f"example:{name} with weights {weights!r} is none: use example:WIDTH, such as example:8."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            body = nn.Sequential(nn.Conv2d(3, int(name), 3, stride=2), nn.ReLU())
            model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(int(name), 10))
        return Backbone(f"example:{name}", weights, model, make_transform)

    def identity(self, name: str, weights: str | None) -> dict[str, Any] | None:
        return {"version": 1}  # another one when the network above changes


def make_transform(image_size: int | None) -> Any:
    from torchvision import transforms

    size = image_size or 32
    return transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size), transforms.ToTensor()])


source = ExampleSource()
