"""``torchvision:NAME``: the networks of torchvision.models, with their pretrained weights and transforms."""

from __future__ import annotations

import contextlib
import copy
import inspect
import os
import urllib.error
from pathlib import Path
from typing import Any

from ..errors import DataNotFoundError, UnknownNameError, near_names
from ..identity import is_weights_file, package_folder, states, versions
from .presets import resized
from .source import Backbone

__all__ = ["TorchvisionSource", "source"]

SEED = 0


class TorchvisionSource:
    """torchvision's registered models; ``weights`` is a name such as IMAGENET1K_V2, a file, or ``none``."""

    def load(self, name: str, weights: str | None) -> Backbone:
        """Return the network; weights that are not in torch's cache are downloaded.

        The weights of a file are loaded the way torchvision loads its own, so that its own files give its own networks.
        """
        from torchvision import models

        known = models.list_models()
        if name not in known:
            raise UnknownNameError(
                f"torchvision has no model {name!r}.{near_names(name, known)} "
                "`python -c 'import torchvision; print(torchvision.models.list_models())'` lists all."
            )
        kinds = models.get_model_weights(name)
        default = getattr(kinds, "DEFAULT", None)
        if weights == "none":
            model, used = _build(name, None), "none"
        elif weights is not None and is_weights_file(weights):
            model, used = _from_file(name, default, weights), weights
        else:
            chosen = _chosen(name, kinds, default, weights)
            model, used = _downloaded(name, chosen), "none" if chosen is None else chosen.name
            default = chosen
        spec = f"torchvision:{name}"
        if default is None:
            return Backbone(spec, used, model)
        return Backbone(spec, used, model, lambda size: resized(default.transforms(), size, spec))

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
        return {"versions": versions("torch", "torchvision"), "files": states(files)}


def _chosen(name: str, kinds: Any, default: Any, weights: str | None) -> Any:
    if weights in (None, "DEFAULT"):
        return default
    names = [each.name for each in kinds]
    if weights not in names:
        raise UnknownNameError(
            f"torchvision:{name} has no weights {weights!r}.{near_names(str(weights), names)} "
            f"Known: {', '.join(names)}, none, or a file."
        )
    return kinds[weights]


def _build(name: str, weights: Any) -> Any:
    from torchvision import models

    from ..machine import seeded

    parameters = inspect.signature(models.get_model_builder(name)).parameters
    options: dict[str, Any] = {}
    if weights is None and "weights_backbone" in parameters:
        options["weights_backbone"] = None  # detection and segmentation networks would fetch some otherwise
    if weights is not None and "quantize" in parameters:
        options["quantize"] = "backend" in weights.meta
    with seeded(SEED):
        return models.get_model(name, weights=weights, **options)


def _downloaded(name: str, chosen: Any) -> Any:
    try:
        return _build(name, chosen)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        if chosen is None:
            raise
        raise DataNotFoundError(
            f"the weights {chosen} of torchvision:{name} could not be downloaded from {chosen.url} "
            f"({str(error).splitlines()[0]}). Fetch that file where there is a network and give it as --weights FILE, or "
            "use --weights none."
        ) from error


def _from_file(name: str, default: Any, path: str) -> Any:
    """Return the network that torchvision would make, had it downloaded this file.

    That counts: GoogLeNet's input is scaled otherwise when it is pretrained, DenseNet's files have older names, …
    """
    from .weights import fit, read_weights

    loaded = read_weights(path)
    if default is not None:
        given = object.__new__(type(default))  # a member like the default one, but with its weights at hand
        given._name_, given._value_ = default.name, default.value
        given.get_state_dict = lambda *_, **__: copy.copy(loaded)
        with contextlib.suppress(RuntimeError):
            return _build(name, given)
    model = _build(name, None)
    fit(model, loaded, path)
    return model


source = TorchvisionSource()
