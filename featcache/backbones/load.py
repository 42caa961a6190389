"""From a specification to the backbone that it names: the registry of sources, ``load_backbone`` and ``backbone_identity``."""

from __future__ import annotations

from typing import Any

from ..errors import UnknownNameError, UsageError, near_names
from ..factories import can_be_loaded, looks_like_factory
from ..registry import Registry
from .factory import source as factory
from .source import Backbone, BackboneSource

__all__ = ["backbone_identity", "backbone_sources", "load_backbone"]

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
    """Load the backbone that a specification names, in evaluation mode.

    Parameters
    ----------
    spec : str
        ``torchvision:NAME``, ``timm:NAME``, ``hf:NAME``, ``bundled:NAME``, ``path/to/file.py:factory`` or
        ``package.module:factory``.
    weights : str, optional
        A name that the source knows, ``"none"`` for seeded random weights, or a file. By default the source's own
        choice.

    Returns
    -------
    Backbone
        The network with its weights and its transform.

    Raises
    ------
    UsageError
        If ``spec`` is not a backbone specification, or a factory fails.
    UnknownNameError
        If the source, the network or the weights are unknown.
    DataNotFoundError
        If the weights are not there and cannot be downloaded.
    MissingDependencyError
        If the source needs a package that is not installed.

    Examples
    --------
    >>> import torch
    >>> import featcache
    >>> backbone = featcache.load_backbone("bundled:resnet-mini")
    >>> backbone.weights
    'DEFAULT'
    >>> backbone.model(torch.zeros(2, 1, 32, 32)).shape
    torch.Size([2, 10])
    >>> transform = backbone.make_transform(None)
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
            f"{spec!r} is not a backbone specification: use torchvision:NAME, timm:NAME, hf:NAME, bundled:NAME, "
            "FILE.py:factory or MODULE:factory."
        )
    if kind in backbone_sources:
        return backbone_sources.get(kind), name
    if looks_like_factory(spec) and (kind.endswith(".py") or can_be_loaded(spec)):
        return factory, spec
    known = backbone_sources.names()
    raise UnknownNameError(
        f"unknown backbone source or module {kind!r}.{near_names(kind, known)} Known: {', '.join(known)}, FILE.py:factory, "
        "MODULE:factory."
    )
