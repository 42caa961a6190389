"""At which scale an image may be decoded, found by trying what a transform makes of images of that size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import UsageError

__all__ = ["AskedScale"]

Size = tuple[int, int]
Array = np.ndarray[Any, Any]
SCALES = (8, 4, 2)
SPARE = 2  # times as many pixels as are asked for, so that the transform's own filter still has something to average
ROUNDING = 0.02  # a ramp has 256 steps
TRIAL = (640, 480)
BITS = 5  # of a size that are looked at: sizes that differ by less need no trial of their own


class AskedScale:
    """The largest scale that leaves an image at least twice the size that a transform asks for, by size.

    The transform is tried on images whose brightness rises from one side to the other: how steep the rise is in what it
    returns shows to how many pixels the whole side was brought, whatever was cropped, padded, turned or normalised.

    Parameters
    ----------
    transform : callable
        The transform of a PIL image to the network's input.

    Raises
    ------
    UsageError
        If the transform does not show what size it asks for.
    """

    def __init__(self, transform: Callable[[Any], Any]) -> None:
        self.transform = transform
        self._known: dict[Size, int] = {}
        # What black and white become, whatever the transform normalises by.
        self._black, self._range = 0.0, 1.0
        try:
            black, white = (_middle(self._seen(np.full(TRIAL[::-1], level, dtype=np.uint8))) for level in (0, 255))
            self._black, self._range = black, white - black
            self._asked(self._shown(TRIAL))
        except Exception as error:  # whatever a transform raises that takes no such image
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise UsageError(
                "decoding 'scaled' needs a transform that shows what size it asks for, and "
                f"{type(transform).__name__} does not: {why}. Use decoding 'exact'."
            ) from error

    def __call__(self, size: Size) -> int:
        """Return the scale, 1, 2, 4 or 8, at which an image of a size (width, height) may be decoded."""
        rounded = (_rounded(size[0]), _rounded(size[1]))
        if rounded not in self._known:
            self._known[rounded] = self._found(rounded)
        return self._known[rounded]

    def _found(self, size: Size) -> int:
        asked = (0.0, 0.0)
        for scale in SCALES:
            left = (-(-size[0] // scale), -(-size[1] // scale))
            if not _suffices(left, asked):  # by what a smaller trial asked for: a larger one would be in vain
                continue
            try:
                shown = self._shown(left)
                asked = self._asked(shown)
            except Exception:  # an image of that size is too small to tell, or for the transform
                continue
            if _suffices(left, asked):
                # A transform that counts in pixels of the image, as a crop does, sees another part of a smaller one.
                whole = self._shown(size)
                return scale if all(map(self._alike, shown, whole)) else 1
        return 1

    def _shown(self, size: Size) -> tuple[Array, Array]:
        """Return what the transform makes of images that get brighter from left to right, and from top to bottom."""
        widths, heights = (((np.arange(side) + 0.5) * (255 / side)).round().astype(np.uint8) for side in size)
        return (
            self._seen(np.broadcast_to(widths, size[::-1])),
            self._seen(np.broadcast_to(heights[:, None], size[::-1])),
        )

    def _asked(self, shown: tuple[Array, Array]) -> tuple[float, float]:
        """Return to how many pixels the transform brought the width and the height of an image."""
        across, down = map(self._side, shown)
        return across, down

    def _alike(self, one: Array, other: Array) -> bool:
        return one.shape == other.shape and bool(np.abs(one - other).max() <= 2 * ROUNDING * abs(self._range))

    def _side(self, seen: Array) -> float:
        """Return how many pixels lie between black and white where brightness rises from one side to the other."""
        level = (seen - self._black) / (self._range or np.nan)
        rise = float(np.hypot(_rise(level), _rise(level.T)))
        if not rise * max(level.shape) > ROUNDING:
            raise _UntellableError("what it returns does not show where in the image a pixel was")
        return 1 / rise

    def _seen(self, grey: Array) -> Array:
        """Return one channel of what the transform makes of a grey image."""
        from PIL import Image

        value = self.transform(Image.fromarray(np.ascontiguousarray(grey)).convert("RGB"))
        if isinstance(value, Mapping):
            value = next(iter(value.values()))
        seen = np.asarray(value, dtype=np.float64)
        if seen.ndim not in (2, 3):
            raise _UntellableError(f"it returns values of shape {list(seen.shape)}, not an image")
        if seen.ndim == 3:
            seen = seen[..., 0] if seen.shape[-1] in (1, 3) else seen[0]
        return seen


class _UntellableError(Exception):
    """What a transform returns does not show what size it asks for."""


def _rounded(side: int) -> int:
    spare = max(0, side.bit_length() - BITS)
    return side >> spare << spare


def _suffices(left: Size, asked: tuple[float, float]) -> bool:
    return all(side >= SPARE * (1 - ROUNDING) * wanted for side, wanted in zip(left, asked, strict=True))


def _middle(values: Array) -> float:
    return float(values[values.shape[0] // 2, values.shape[1] // 2])


def _rise(level: Array) -> float:
    """Return by how much neighbours differ along the middle line of an image, which must be a straight rise."""
    line = level[level.shape[0] // 2]
    start, end = len(line) // 4, len(line) - len(line) // 4 - 1
    if end - start < 2:
        raise _UntellableError("it returns too few pixels")
    half = (start + end) // 2
    rise = float(line[end] - line[start]) / (end - start)
    if not abs(line[half] - (line[start] + rise * (half - start))) <= ROUNDING:
        raise _UntellableError("a rise of brightness is not a straight line in what it returns")
    return rise
