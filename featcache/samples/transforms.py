"""The transform of a configuration: the backbone's own, or one that user code makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import DataError, FeatCacheError, UsageError
from ..factories import call_factory, factory_takes, looks_like_factory

if TYPE_CHECKING:
    from ..backbones import Backbone

__all__ = ["apply", "load_transform"]


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
        raise UsageError(f"{spec!r} is not a transform: use default, FILE.py:factory or MODULE:factory.")
    given = {} if image_size is None else {"image_size": image_size}
    if given and not factory_takes(spec, "transform", "image_size"):
        raise UsageError(
            f"{spec} takes no image_size, so --image-size {image_size} has no effect: add that argument, or leave it out."
        )
    made = call_factory(spec, "transform", **given)
    if not callable(made):
        raise UsageError(f"{spec} returned {type(made).__name__}; a transform factory returns a callable.")
    return made  # type: ignore[no-any-return]


def apply(transform: Callable[[Any], Any], value: Any) -> Any:
    """Return what a transform makes of an item; raises ``DataError`` for a text or sound that it does not take."""
    if not isinstance(value, (str, tuple)):
        return transform(value)
    problem: Exception | None = None
    try:
        made = transform(value)
        if not isinstance(made, str):
            return made
    except (FeatCacheError, OSError):
        raise
    except Exception as error:  # transforms of images raise whatever a text leads to, or hand it on as it is
        problem = error
    kind = "a text" if isinstance(value, str) else f"({', '.join(type(part).__name__ for part in value)})"
    said = "it stays a text" if problem is None else (str(problem).splitlines() or [type(problem).__name__])[0]
    raise DataError(
        f"the transform does not take a sample that is {kind}: {said}. Is the backbone one for such data? Use another, or "
        "give --transform."
    ) from problem
