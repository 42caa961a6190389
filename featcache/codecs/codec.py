"""How a feature is held on disk: a small protocol, its registry, and ``load_codec``."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from ..registry import Registry

__all__ = ["FLOATING", "Codec", "RowCodec", "codecs", "load_codec"]

FLOATING = ("float16", "bfloat16", "float32", "float64")  # what a precision rounds; all else is kept as it is

Array = np.ndarray[Any, Any]


class Codec(Protocol):
    """Turns the values of one tensor into what is stored, and back.

    ``name`` is part of the recipe, because what is read back depends on it. ``largest`` is the largest magnitude that it
    holds; ``scaled`` says whether it needs to see all rows of a shard before it can encode one.
    """

    name: str
    largest: float
    scaled: bool

    def storage_dtype(self, dtype: str) -> np.dtype[Any]:
        """Return the dtype on disk of a frontier tensor of the named torch dtype."""

    def storage_shape(self, shape: tuple[int, ...], dtype: str) -> tuple[int, ...]:
        """Return the shape on disk of one row of the given shape, or of one step where samples vary in length."""

    def is_exact(self, dtype: str) -> bool:
        """Return whether values of the named torch dtype are read back as they were."""

    def scales_shape(self, shape: tuple[int, ...], dtype: str) -> tuple[int, int] | None:
        """Return the shape of :meth:`scales` for rows (or steps) of the given shape, None where there are none."""

    def scales(self, values: Array, dtype: str) -> Array | None:
        """Return what the shard that holds these rows keeps beside them so that they can be decoded, or None."""

    def encode(self, values: Array, scales: Array | None = None) -> Array:
        """Return ``values`` as they are stored; the first dimension is the row."""

    def decode(self, stored: Array, shape: tuple[int, ...], dtype: str, scales: Array | None = None) -> Array:
        """Return stored rows as they are given to the suffix: floating values as float32, each row of the given shape."""


class RowCodec:
    """What codecs share whose rows keep their shape and stand for themselves."""

    scaled = False

    def storage_shape(self, shape: tuple[int, ...], dtype: str) -> tuple[int, ...]:
        """Return the shape of a row, as it is."""
        return shape

    def scales_shape(self, shape: tuple[int, ...], dtype: str) -> tuple[int, int] | None:
        """Return None: there are none."""
        return None

    def scales(self, values: Array, dtype: str) -> Array | None:
        """Return None: every row stands for itself."""
        return None


codecs: Registry[Codec] = Registry(
    "featcache.codecs",
    "dtype",
    {
        "float32": "featcache.codecs.cast:float32",
        "float16": "featcache.codecs.cast:float16",
        "bfloat16": "featcache.codecs.bits:bfloat16",
        "float8_e4m3": "featcache.codecs.bits:float8_e4m3",
        "float8_e5m2": "featcache.codecs.bits:float8_e5m2",
        "int8": "featcache.codecs.scaled:int8",
        "int4": "featcache.codecs.scaled:int4",
    },
)


def load_codec(name: str) -> Codec:
    """Return the codec of a stored precision such as ``"float16"``."""
    return codecs.get(name)
