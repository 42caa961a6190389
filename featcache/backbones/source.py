"""Where backbones come from: a small protocol, its registry, ``load_backbone`` and ``backbone_identity``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import UnknownNameError, UsageError, near_names
from ..registry import Registry

if TYPE_CHECKING:
    import torch

__all__ = ["Backbone", "BackboneSource", "backbone_identity", "backbone_sources", "load_backbone"]

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

        They must cost next to nothing and load no torch: names, and :func:`featcache.identity.fileset.states` of files. None
        says that this cannot be known without loading.
        """


backbone_sources: Registry[BackboneSource] = Registry(
    "featcache.backbones",
    "backbone source",
    {
        "bundled": "featcache.backbones.bundled:source",
        "hf": "featcache.backbones.hf:source",
        "timm": "featcache.backbones.timm:source",
        "torchvision": "featcache.backbones.torchvision:source",
    },
)


def load_backbone(spec: str, weights: str | None = None) -> Backbone:
    """Return the backbone that a specification names, in evaluation mode.

    Specifications are ``torchvision:NAME``, ``timm:NAME``, ``hf:NAME``, ``bundled:NAME``, ``path/to/file.py:factory`` and
    ``package.module:factory``; ``weights`` is a name that the source knows, ``"none"`` for seeded random ones, or a file.
    """
    source, name = _source(spec)
    backbone = source.load(name, weights)
    backbone.model.eval()
    return backbone


def backbone_identity(spec: str, weights: str | None = None) -> dict[str, Any] | None:
    """Return cheap JSON-able values that change whenever loading would give something else, None if that is unknown."""
    source, name = _source(spec)
    found = source.identity(name, weights)
    return None if found is None else {"spec": spec, "weights": weights, **found}


def _source(spec: str) -> tuple[BackboneSource, str]:
    kind, separator, name = spec.partition(":")
    if not separator or not name:
        raise UsageError(
            f"{spec!r} is no backbone specification: use torchvision:NAME, timm:NAME, hf:NAME, bundled:NAME, "
            "FILE.py:factory or MODULE:factory."
        )
    if kind in backbone_sources:
        return backbone_sources.get(kind), name
    from ..factories import can_be_loaded, looks_like_factory
    from .factory import source

    if looks_like_factory(spec) and (kind.endswith(".py") or can_be_loaded(spec)):
        return source, spec
    known = backbone_sources.names()
    raise UnknownNameError(
        f"unknown backbone source or module {kind!r}.{near_names(kind, known)} Known: {', '.join(known)}, FILE.py:factory, "
        "MODULE:factory."
    )
