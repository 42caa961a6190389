"""A loaded backbone, and the protocol of what loads one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

__all__ = ["Backbone", "BackboneSource"]

Transform = Callable[[Any], Any]


@dataclass(frozen=True)
class Backbone:
    """A loaded network in evaluation mode, with the weights that it got and the transform that belongs to them.

    ``make_transform(image_size)`` returns a callable from a sample to what the network takes: from a PIL image to a float
    tensor (channels, height, width), from a text or from (waveform, sample rate) to a dict of tensors; None where the
    source knows of no transform. A callable may have ``collate(inputs)``, which makes a batch of its results, padded where
    they vary in length; those have an attribute ``ragged`` that is true.
    """

    spec: str
    weights: str | None
    model: torch.nn.Module
    make_transform: Callable[[int | None], Transform] | None = None


class BackboneSource(Protocol):
    """Loads the backbones of one kind; ``name`` is what stands behind the colon of a specification."""

    def load(self, name: str, weights: str | None) -> Backbone:
        """Return the backbone; raises :class:`UnknownNameError` for an unknown name."""

    def identity(self, name: str, weights: str | None) -> dict[str, Any] | None:
        """Return JSON-able values that change whenever loading would give something else.

        They must cost next to nothing and load no torch: names, and :func:`featcache.identity.states` of files. None
        says that this cannot be known without loading.
        """
