"""A loaded backbone, and the protocol of what loads one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

__all__ = ["Backbone", "BackboneSource"]

Transform = Callable[[Any], Any]


@dataclass(frozen=True)
class Backbone:
    """A loaded network in evaluation mode, with its weights and the transform that belongs to them.

    Attributes
    ----------
    spec : str
        The specification of the network.
    weights : str or None
        The weights that the network has. None if a factory was given none.
    model : torch.nn.Module
        The network.
    make_transform : callable, optional
        ``make_transform(image_size)`` returns a callable from a sample to the network's input: from a PIL image to a
        float tensor (channels, height, width), from a text or from (waveform, sample rate) to a dict of tensors. The
        image size is in pixels; None is the usual one. None if the source knows no transform.

    Notes
    -----
    A transform may have a method ``collate(inputs)``, which makes a batch of its results, padded where they vary in
    length. Such a transform has an attribute ``ragged`` that is true.
    """

    spec: str
    weights: str | None
    model: torch.nn.Module = field(repr=False)
    make_transform: Callable[[int | None], Transform] | None = None


class BackboneSource(Protocol):
    """Loads the backbones of one kind.

    Register an instance in ``featcache.backbones.backbone_sources``, and the specification ``KIND:NAME`` finds it.
    """

    def load(self, name: str, weights: str | None) -> Backbone:
        """Load a backbone.

        Parameters
        ----------
        name : str
            The part of the specification after the colon.
        weights : str or None
            The name of the weights, ``"none"`` for seeded random ones, or a file. None is the source's own choice.

        Returns
        -------
        Backbone
            The network with its weights and its transform.

        Raises
        ------
        UnknownNameError
            If the name is unknown.
        """

    def identity(self, name: str, weights: str | None) -> dict[str, Any] | None:
        """Return JSON-able values that change whenever loading would give something else.

        They must cost next to nothing and load no torch: names, and ``featcache.identity.fileset.states`` of files.

        Parameters
        ----------
        name : str
            The part of the specification after the colon.
        weights : str or None
            The weights, as for ``load``.

        Returns
        -------
        dict of str to Any, or None
            The values. None if they cannot be known without loading.
        """
