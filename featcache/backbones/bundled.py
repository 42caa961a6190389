"""``bundled:NAME``: small trained networks that come with featcache and need no download."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import UnknownNameError, near_names
from ..identity import is_weights_file, states, versions
from .source import Backbone

__all__ = ["BundledSource", "source"]

NAMES = ("resnet-mini",)
FOLDER = Path(str(files("featcache.backbones")))
CODE = ("resnet_mini.py", "bundled.py", "resnet_mini.safetensors")


class BundledSource:
    """resnet-mini: a residual network of 0.3 M parameters at 32 pixels, trained on 5000 digits of MNIST."""

    def load(self, name: str, weights: str | None) -> Backbone:
        """Return the network with its trained weights, those of a file, or (``none``) seeded random ones."""
        from ..machine import seeded
        from .resnet_mini import resnet_mini, transform
        from .weights import load_weights

        if name not in NAMES:
            raise UnknownNameError(f"no bundled backbone {name!r}.{near_names(name, NAMES)} Known: {', '.join(NAMES)}.")
        if weights not in (None, "DEFAULT", "none") and not is_weights_file(str(weights)):
            raise UnknownNameError(f"bundled:{name} has no weights {weights!r}. Known: DEFAULT, none, or a file.")
        with seeded(0):
            model = resnet_mini()
        if weights != "none":
            default = weights in (None, "DEFAULT")
            load_weights(model, str(FOLDER / "resnet_mini.safetensors") if default else str(weights))
        return Backbone(f"bundled:{name}", weights or "DEFAULT", model, transform)

    def identity(self, name: str, weights: str | None) -> dict[str, Any] | None:
        """Return the states of the network's code and weights."""
        paths = [FOLDER / each for each in CODE]
        if weights is not None and is_weights_file(weights):
            paths.append(Path(weights).expanduser().resolve())
        return {"versions": versions("torch", "torchvision"), "files": states(paths)}


def card(name: str = "resnet-mini") -> dict[str, Any]:
    """Return what is known of a bundled network: its training data, seed, accuracy and versions."""
    if name not in NAMES:
        raise UnknownNameError(f"no bundled backbone {name!r}.{near_names(name, NAMES)} Known: {', '.join(NAMES)}.")
    read: dict[str, Any] = json.loads((FOLDER / "resnet_mini.json").read_text(encoding="utf-8"))
    return read


source = BundledSource()
