"""torchvision's preset transforms for another image size."""

from __future__ import annotations

import copy
from typing import Any

from ..errors import UsageError

__all__ = ["resized"]


def resized(transform: Any, image_size: int | None, owner: str) -> Any:
    """Return a preset transform for another image size, which keeps its ratio of resize to crop; None changes nothing.

    Raises ``UsageError`` for a transform that has no image size to change.
    """
    if image_size is None:
        return transform
    is_preset = type(transform).__module__ == "torchvision.transforms._presets"
    crop, resize = getattr(transform, "crop_size", None) or [], getattr(transform, "resize_size", None) or []
    if not is_preset or not (crop or resize):
        raise UsageError(
            f"the transform of {owner} has no image size that --image-size {image_size} could set: give --transform, "
            "or leave it out."
        )
    made = copy.copy(transform)
    made.resize_size = [round(image_size * each / min(crop or resize)) for each in resize or crop]
    if crop:
        made.crop_size = [image_size] * len(crop)
    return made
