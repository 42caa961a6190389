"""``--dtype brain16``: floating values by their upper 16 bits, which hold float32's whole range at three digits."""

from __future__ import annotations

from typing import Any

import numpy as np

from featcache.codecs import FLOATING, RowCodec

Array = np.ndarray[Any, Any]


class Brain16(RowCodec):
    name = "brain16"
    largest = 3.3895e38

    def storage_dtype(self, dtype: str) -> np.dtype[Any]:
        return np.dtype(np.int16 if dtype in FLOATING else dtype)

    def is_exact(self, dtype: str) -> bool:
        return dtype not in ("float16", "float32", "float64")

    def encode(self, values: Array, scales: Array | None = None) -> Array:
        if values.dtype.kind != "f":
            return values
        bits = values.astype(np.float32).view(np.uint32)
        rounded = bits + 0x7FFF + ((bits >> 16) & 1)  # to the nearest, ties to even
        return (rounded >> 16).astype(np.uint16).view(np.int16)

    def decode(self, stored: Array, shape: tuple[int, ...], dtype: str, scales: Array | None = None) -> Array:
        if dtype not in FLOATING:
            return stored
        return (stored.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


brain16 = Brain16()
