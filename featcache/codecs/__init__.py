"""How a feature is held on disk: a small protocol, its registry, and ``load_codec``."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from ..registry import Registry

__all__ = ["Codec", "codecs", "load_codec"]


class Codec(Protocol):
    """Turns the values of one tensor into what is stored, and back.

    ``name`` is part of the recipe, because what is read back depends on it.
    """

    name: str

    def storage_dtype(self, dtype: str) -> np.dtype[Any]:
        """Return the dtype on disk of a frontier tensor of the named torch dtype."""

    def is_exact(self, dtype: str) -> bool:
        """Return whether values of the named torch dtype are read back as they were."""

    def encode(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return ``values`` as they are stored; the first dimension is the row."""

    def decode(self, stored: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return stored rows as they are given to the suffix: floating values as float32."""


codecs: Registry[Codec] = Registry(
    "featcache.codecs",
    "dtype",
    {"float32": "featcache.codecs.cast:float32", "float16": "featcache.codecs.cast:float16"},
)


def load_codec(name: str) -> Codec:
    """Return the codec of a stored precision such as ``"float16"``."""
    return codecs.get(name)
