"""``sklearn:NAME``: the image sets that scikit-learn ships, such as ``sklearn:digits``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import UnknownNameError, near_names
from ..identity import content_id
from ..samples import FileMemo

__all__ = ["SklearnImages", "open_sklearn"]

KNOWN = ("digits",)


class SklearnImages:
    """Grey images in memory as PIL images in RGB, with class numbers."""

    def __init__(
        self, spec: str, name: str, pixels: np.ndarray[Any, Any], targets: np.ndarray[Any, Any], classes: list[str]
    ) -> None:
        self.spec = spec
        self.name = name
        self.pixels = pixels
        self.targets = targets.astype(np.int64)
        self.classes = classes
        self.names = [f"{number:05d}" for number in range(len(pixels))]
        self.splits = [""] * len(pixels)
        self.decoding: dict[str, Any] = {"decoder": "array", "mode": "RGB"}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.spec!r}, {len(self)} samples)"

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.read(index)[1](), int(self.targets[index])

    def read(self, index: int) -> tuple[bytes, Callable[[], Any]]:
        """Return the id of an image's pixels, and a function that makes the image of them."""
        from PIL import Image

        pixels = self.pixels[index].copy()
        return content_id(pixels), lambda: Image.fromarray(pixels).convert("RGB")

    def sample_ids(self, memo: FileMemo | None = None) -> np.ndarray[Any, Any]:
        """Return the ids of the images' pixels (samples, 16)."""
        ids = b"".join(content_id(image) for image in self.pixels)
        return np.frombuffer(ids, dtype=np.uint8).reshape(-1, 16)


def open_sklearn(argument: str, name: str) -> SklearnImages:
    """Return one of scikit-learn's image sets; ``digits`` are UCI's 1797 handwritten digits of 8×8 pixels."""
    if argument not in KNOWN:
        raise UnknownNameError(
            f"unknown scikit-learn image set {argument!r}.{near_names(argument, KNOWN)} Known: {', '.join(KNOWN)}."
        )
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Sixteen shades become the full range of a byte: 0 stays 0 and 16 becomes 255.
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return SklearnImages(f"sklearn:{argument}", name, pixels, digits.target, [str(number) for number in range(10)])
