"""``torchvision:NAME``: the networks of torchvision.models, with their pretrained weights and transforms."""

from __future__ import annotations

import os
import urllib.error
from pathlib import Path
from typing import Any

from ..errors import DataNotFoundError, UnknownNameError, near_names
from ..fileset import is_weights_file, package_folder, states
from . import Backbone

__all__ = ["TorchvisionSource", "source"]

SEED = 0


class TorchvisionSource:
    """torchvision's registered models; ``weights`` is a name such as IMAGENET1K_V2, a file, or ``none``."""

    def load(self, name: str, weights: str | None) -> Backbone:
        """Return the network; weights that are not in torch's cache are downloaded."""
        import torch
        from torchvision import models

        from .weights import load_weights

        known = models.list_models()
        if name not in known:
            raise UnknownNameError(
                f"torchvision has no model {name!r}.{near_names(name, known)} "
                "`python -c 'import torchvision; print(torchvision.models.list_models())'` lists all."
            )
        kinds = models.get_model_weights(name)
        default = getattr(kinds, "DEFAULT", None)
        if weights is None or weights == "DEFAULT":
            chosen = default
        elif weights == "none" or is_weights_file(weights):
            chosen = None
        else:
            names = [each.name for each in kinds]
            if weights not in names:
                raise UnknownNameError(
                    f"torchvision:{name} has no weights {weights!r}.{near_names(weights, names)} "
                    f"Known: {', '.join(names)}, none, or a file."
                )
            chosen = kinds[weights]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            try:
                model = models.get_model(name, weights=chosen)
            except (urllib.error.URLError, OSError, RuntimeError) as error:
                if chosen is None:
                    raise
                raise DataNotFoundError(
                    f"the weights {chosen} of torchvision:{name} could not be downloaded from {chosen.url} ({error}). "
                    "Fetch that file where there is a network and give it as --weights FILE, or use --weights none."
                ) from error
        if weights is not None and is_weights_file(weights):
            load_weights(model, weights)
        described = chosen or default
        resolved = weights if chosen is None else chosen.name
        return Backbone(
            f"torchvision:{name}",
            resolved,
            model,
            None if described is None else lambda size: _transform(described, size),
        )

    def identity(self, name: str, weights: str | None) -> dict[str, Any] | None:
        """Return the states of torchvision's model code, and of the weights in torch's cache or the given file."""
        folder = package_folder("torchvision")
        if folder is None:
            return None
        files = [*folder.glob("models/**/*.py"), *folder.glob("ops/*.py"), *folder.glob("transforms/**/*.py")]
        if weights is not None and is_weights_file(weights):
            files.append(Path(weights).expanduser().resolve())
        elif weights != "none":
            home = os.environ.get("TORCH_HOME") or os.path.join(  # noqa: PTH118
                os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch"
            )
            cached = Path(home).expanduser() / "hub" / "checkpoints"
            files += cached.glob(f"{name}*") if cached.is_dir() else []
        return {"files": states(files)}


def _transform(weights: Any, image_size: int | None) -> Any:
    """Return the weights' own transform; another image size keeps their ratio of resize to crop."""
    made = weights.transforms()
    if image_size is None or not hasattr(made, "crop_size"):
        return made
    crop, resize = made.crop_size[0], made.resize_size[0]
    return weights.transforms(crop_size=image_size, resize_size=round(image_size * resize / crop))


source = TorchvisionSource()
