"""The transform of a configuration: the backbone's own, or one that user code makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .errors import UsageError
from .factories import call_factory, factory_takes, looks_like_factory

if TYPE_CHECKING:
    from .backbones import Backbone

__all__ = ["load_transform"]


def load_transform(spec: str | None, image_size: int | None, backbone: Backbone) -> Callable[[Any], Any] | None:
    """Return the transform that a specification names; None or ``default`` is the backbone's own, None if it has none.

    ``FILE.py:factory`` and ``MODULE:factory`` name a function that returns the transform and may take ``image_size``.
    """
    if spec in (None, "default"):
        if backbone.make_transform is None:
            if image_size is not None:
                raise UsageError(f"{backbone.spec} knows no transform for --image-size {image_size}: give --transform.")
            return None
        return backbone.make_transform(image_size)
    assert spec is not None
    if not looks_like_factory(spec):
        raise UsageError(f"{spec!r} is no transform: use default, FILE.py:factory or MODULE:factory.")
    given = {} if image_size is None else {"image_size": image_size}
    if given and not factory_takes(spec, "transform", "image_size"):
        raise UsageError(
            f"{spec} takes no image_size, so --image-size {image_size} has no effect: add that argument, or leave it out."
        )
    made = call_factory(spec, "transform", **given)
    if not callable(made):
        raise UsageError(f"{spec} returned {type(made).__name__}; a transform factory returns a callable.")
    return made  # type: ignore[no-any-return]
