"""``path/to/file.py:factory`` and ``package.module:factory``: a function that returns the network."""

from __future__ import annotations

from typing import Any

from ..errors import UsageError
from ..factories import call_factory, factory_takes
from ..identity import is_weights_file
from .presets import resized
from .source import Backbone

__all__ = ["FactorySource", "source"]


class FactorySource:
    """Networks that user code makes: the function returns a module, or (module, transform).

    The function gets ``weights`` if it takes that; a weights file that it does not take is loaded into its module. A
    transform that is one of torchvision's presets can be had for other image sizes.
    """

    def load(self, name: str, weights: str | None) -> Backbone:
        """Return what the function makes; it runs under a fixed seed, so that untrained layers are reproducible."""
        from torch import nn

        from ..machine import seeded
        from .weights import load_weights

        given: dict[str, Any] = {} if weights is None else {"weights": weights}
        taken = factory_takes(name, "backbone", "weights")
        if given and not taken and not is_weights_file(str(weights)):
            raise UsageError(
                f"{name} takes no weights, so --weights {weights} has no effect: give a file, or leave it out."
            )
        with seeded(0):
            made = call_factory(name, "backbone", **given)
        model, transform = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
        if not isinstance(model, nn.Module):
            raise UsageError(
                f"{name} returned {type(model).__name__}; a backbone factory returns an nn.Module, or (module, transform)."
            )
        if weights is not None and not taken:
            load_weights(model, weights)
        if transform is None:
            return Backbone(name, weights, model)
        return Backbone(name, weights, model, lambda size: resized(transform, size, name))

    def identity(self, name: str, weights: str | None) -> dict[str, Any] | None:
        """Return None: what user code loads cannot be known without running it."""
        return None


source = FactorySource()
