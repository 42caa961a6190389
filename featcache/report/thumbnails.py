"""Samples as small pictures that a page holds within itself."""

from __future__ import annotations

import base64
import io
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FeatCacheError

if TYPE_CHECKING:
    from ..project import Project

__all__ = ["SIDE", "Thumbnails", "thumbnail"]

SIDE = 96  # pixels of a thumbnail
QUALITY = 85  # of JPEG


class Thumbnails:
    """Gives the pictures of a project's samples by their ids, each read once; None where there is none to show."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._made: dict[bytes, str | None] = {}

    def __call__(self, sample_id: Any) -> str | None:
        """Return the picture of a sample as a data URL; None where the sample is not at hand, or is no image."""
        key = bytes(sample_id)
        if key not in self._made:
            self._made[key] = self._picture(key)
        return self._made[key]

    def _picture(self, key: bytes) -> str | None:
        place = self._places.get(key)
        if place is None:
            return None
        with suppress(FeatCacheError, OSError):  # gone or damaged since the snapshot: the page goes without
            return thumbnail(self._project.raw_samples.raw(place)[0])
        return None

    @cached_property
    def _places(self) -> dict[bytes, int]:
        with suppress(FeatCacheError):  # the data are not here
            samples = self._project.raw_samples
            ids = samples.snapshot().ids
            return {bytes(each): int(place) for each, place in zip(ids, samples.positions(), strict=True)}
        return {}


def thumbnail(value: Any) -> str | None:
    """Return an image (PIL, or an array or tensor of one or three channels) as a data URL, None for others.

    Few pixels are enlarged as such, in PNG; many are averaged, in JPEG.
    """
    from PIL import Image

    image = value if isinstance(value, Image.Image) else _as_image(value)
    if image is None:
        return None
    image = image.convert("RGB")
    scale = SIDE / max(image.size)
    enlarged = scale > 1
    method = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), method)
    out, kind = io.BytesIO(), "png" if enlarged else "jpeg"
    image.save(out, kind, optimize=True, **({} if enlarged else {"quality": QUALITY}))
    return f"data:image/{kind};base64," + base64.b64encode(out.getvalue()).decode()


def _as_image(value: Any) -> Any:
    from PIL import Image

    if not hasattr(value, "shape") or len(value.shape) not in (2, 3):
        return None
    array = np.nan_to_num(np.asarray(value, dtype=np.float32))
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[-1] not in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if (array.ndim == 3 and array.shape[-1] != 3) or 0 in array.shape:
        return None
    low, high = float(array.min()), float(array.max())
    pixels = (array - low) / max(high - low, 1e-12) * 255
    return Image.fromarray(pixels.astype(np.uint8))
