"""``--data stripes:N``: N images with stripes, which lie or stand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from featcache.errors import UsageError


class Stripes:
    def __init__(self, count: int, name: str) -> None:
        self.spec, self.name = f"stripes:{count}", name
        self.names = [f"{number:04d}" for number in range(count)]
        self.targets = np.arange(count) % 2
        self.splits = ["test" if number % 5 == 0 else "train" for number in range(count)]
        self.classes = ["lying", "standing"]
        self.decoding: dict[str, Any] = {"drawn": 1}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.read(index)[1](), int(self.targets[index])

    def read(self, index: int) -> tuple[bytes, Callable[[], Any]]:
        # An image follows from its number, so that is its content; a file would be read here, and its bytes hashed.
        return hashlib.sha256(f"stripes {index}".encode()).digest()[:16], lambda: self._drawn(index)

    def _drawn(self, index: int) -> Any:
        from PIL import Image

        noise = np.random.default_rng(index).integers(0, 60, (40, 40, 3))
        noise[::2] += 190
        lying = np.clip(noise, 0, 255).astype(np.uint8)
        return Image.fromarray(lying.swapaxes(0, 1).copy() if self.targets[index] else lying)

    def sample_ids(self, memo: Any = None) -> np.ndarray[Any, Any]:
        # Files would be hashed by way of the memo, which knows those that did not change.
        return np.frombuffer(b"".join(self.read(number)[0] for number in range(len(self))), dtype=np.uint8).reshape(
            -1, 16
        )


def open_stripes(argument: str, name: str) -> Stripes:
    if not argument.isdecimal() or int(argument) < 1:
        raise UsageError(f"stripes:{argument} is none: use stripes:N with a number of images.")
    return Stripes(int(argument), name)
