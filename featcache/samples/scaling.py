"""At which scale an image may be decoded, found by trying what a transform makes of images of a few sizes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..errors import UsageError

__all__ = ["AskedScale"]

Size = tuple[int, int]
Array = np.ndarray[Any, Any]
SCALES = (8, 4, 2)
SPARE = 2  # times as many pixels as are asked for, so that the transform's own filter still has something to average
ROUNDING = 0.02  # a ramp has 256 steps
TRIALS = ((1600, 1200), (1200, 1600), (1500, 1500), (1600, 900))
DETAILED = ((1600, 1200), (3200, 2400))  # the first that is decoded smaller
MOST_MEAN, MOST = 0.006, 0.08  # of the range from black to white, by which a detailed image may differ
MOST_MEAN_REAL, MOST_REAL = 0.01, 0.25  # the same of a real image, which may have harder edges


class AskedScale:
    """The largest scale that leaves an image at least twice the size that a transform asks for, by size.

    The transform is tried on images whose brightness rises from one side to the other: how steep the rise is in what it
    returns shows to how many pixels the side was brought, whatever was cropped, padded, turned or normalised. Then it is
    tried on a detailed image, decoded whole and scaled, to see that it makes nearly the same of both.

    Parameters
    ----------
    transform : callable
        The transform of a PIL image to the network's input.

    Raises
    ------
    UsageError
        If the transform does not show what size it asks for, or makes something else of an image that is decoded scaled.
    """

    def __init__(self, transform: Callable[[Any], Any]) -> None:
        self.transform = transform
        # What black and white become, whatever the transform normalises by.
        self._black, self._range = 0.0, 1.0
        self._ranges: list[float] = []
        try:
            black, white = (_middle(self._grey(np.full((480, 640), level, dtype=np.uint8))) for level in (0, 255))
            self._black, self._range = black, white - black
            self._asks = _rule([(size, self._asked(size)) for size in TRIALS])
            self._try_detail()
        except Exception as error:  # whatever a transform raises that takes no such image
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise UsageError(
                "decoding 'scaled' needs a transform that shows what size it asks for and makes the same of a smaller image, "
                f"and {type(transform).__name__} does not: {why}. Use decoding 'exact'."
            ) from error

    def __call__(self, size: Size) -> int:
        """Return the scale, 1, 2, 4 or 8, at which an image of a size (width, height) may be decoded."""
        asked = self._asks(size)
        for scale in SCALES:
            left = (-(-size[0] // scale), -(-size[1] // scale))
            if all(side >= SPARE * (1 - ROUNDING) * wanted for side, wanted in zip(left, asked, strict=True)):
                return scale
        return 1

    def differs(self, whole: Any, scaled: Any) -> str | None:
        """Return how inputs made of a whole and of a scaled real image differ, None where they are nearly the same."""
        return self._difference(whole, scaled, MOST_MEAN_REAL, MOST_REAL)

    def _difference(self, whole: Any, scaled: Any, most_mean: float, most: float) -> str | None:
        arrays = [list(_arrays(each)) for each in (whole, scaled)]
        if [each.shape for each in arrays[0]] != [each.shape for each in arrays[1]]:
            return "another shape"
        for one, other, span in zip(*arrays, self._ranges or map(_span, arrays[0]), strict=True):
            if one.size and span:
                difference = np.abs(one - other) / span
                if not (difference.mean() <= most_mean and difference.max() <= most):
                    return f"by {difference.mean():.3f} of the range on average, and {difference.max():.2f} at most"
        return None

    def _try_detail(self) -> None:
        size = next((size for size in DETAILED if self(size) > 1), None)
        if size is None:
            return
        content = _detailed(size)
        whole, scaled = (self.transform(_opened(content, size, scale)) for scale in (1, self(size)))
        self._ranges = [_span(each) for each in _arrays(whole)]
        found = self._difference(whole, scaled, MOST_MEAN, MOST)
        if found is not None:
            raise _UntellableError(f"what it makes of a detailed image differs {found}")

    def _asked(self, size: Size) -> tuple[float, float]:
        """Return to how many pixels the transform brings the width and the height of an image of a size."""
        widths, heights = (((np.arange(side) + 0.5) * (255 / side)).round().astype(np.uint8) for side in size)
        across = self._grey(np.broadcast_to(widths, size[::-1]))
        down = self._grey(np.broadcast_to(heights[:, None], size[::-1]))
        return self._side(across), self._side(down)

    def _side(self, seen: Array) -> float:
        """Return how many pixels lie between black and white where brightness rises from one side to the other."""
        level = (seen - self._black) / (self._range or np.nan)
        rise = float(np.hypot(_rise(level), _rise(level.T)))
        if not rise * max(level.shape) > ROUNDING:
            raise _UntellableError("what it returns does not show where in the image a pixel was")
        return 1 / rise

    def _grey(self, levels: Array) -> Array:
        """Return one channel of what the transform makes of a grey image."""
        from PIL import Image

        value = self.transform(Image.fromarray(np.ascontiguousarray(levels)).convert("RGB"))
        seen = next((each for each in _arrays(value) if each.ndim in (2, 3, 4)), None)
        if seen is None:
            raise _UntellableError(f"it returns {type(value).__name__}, which holds no image")
        if seen.ndim == 4:  # several crops of the image
            seen = seen[0]
        if seen.ndim == 3:
            seen = seen[..., 0] if seen.shape[-1] in (1, 3) else seen[0]
        return seen


class _UntellableError(Exception):
    """What a transform returns does not show what size it asks for."""


def _rule(trials: list[tuple[Size, tuple[float, float]]]) -> Callable[[Size], tuple[float, float]]:
    """Return what a transform asks for by the size of an image: the rule that all trials follow."""
    sizes, asked = (np.array(each, dtype=np.float64) for each in zip(*trials, strict=True))
    shares = asked / sizes
    if _alike(shares):  # it keeps the size, or a share of it: a smaller image would come out smaller
        return _own_size
    if _alike(asked, 1):
        return _Fixed(*asked.max(axis=0).round().tolist())
    for side in (min, max):
        wanted = shares * np.array([[side(size)] for size in sizes.tolist()])
        if _alike(wanted.reshape(-1, 1), 1):
            return _BySide(side is min, float(wanted.max().round()))
    raise _UntellableError("what it brings an image to follows no rule of its width, height, shorter or longer side")


def _own_size(size: Size) -> tuple[float, float]:
    return float(size[0]), float(size[1])


class _Fixed:
    """All images are brought to one size."""

    def __init__(self, width: float, height: float) -> None:
        self.asked = (width, height)

    def __call__(self, size: Size) -> tuple[float, float]:
        return self.asked


class _BySide:
    """Images are brought to a number of pixels on their shorter or longer side, and keep their form."""

    def __init__(self, shorter: bool, pixels: float) -> None:
        self.shorter, self.pixels = shorter, pixels

    def __call__(self, size: Size) -> tuple[float, float]:
        share = self.pixels / (min(size) if self.shorter else max(size))
        return size[0] * share, size[1] * share


def _alike(values: Array, pixels: int = 0) -> bool:
    """Return whether each column holds about one value, within the rounding of levels and of some pixels."""
    return bool((values.max(axis=0) <= values.min(axis=0) * (1 + 2 * ROUNDING) + pixels).all())


def _arrays(value: Any) -> Iterator[Array]:
    """Yield the numbers in what a transform returns, tensor by tensor."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)) and not all(isinstance(each, (int, float)) for each in value):
        for each in value:
            yield from _arrays(each)
    else:
        yield np.asarray(value, dtype=np.float64)


def _span(values: Array) -> float:
    return float(np.ptp(values)) if values.size else 0.0


def _detailed(size: Size) -> bytes:
    """Return a JPEG file with detail of every size."""
    from PIL import Image

    generator = np.random.default_rng(0)
    layers = [
        np.asarray(
            Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)).resize(size), dtype=np.float32
        )
        for side in (4, 16, 64, 256, 1024)
    ]
    file = io.BytesIO()
    Image.fromarray(np.mean(layers, axis=0).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def _opened(content: bytes, size: Size, scale: int) -> Any:
    from PIL import Image

    image = Image.open(io.BytesIO(content))
    image.draft(None, (-(-size[0] // scale), -(-size[1] // scale)))
    return image.convert("RGB")


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
