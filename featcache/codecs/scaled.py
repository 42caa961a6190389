"""Whole numbers of 8 or 4 bits with a step and a zero for each channel.

Steps and zeros span what the rows of one shard hold, so no value is ever cut off; they are stored in the shard. The
same sample in another shard is therefore read back within one step, not bit for bit. Zero is always held exactly, so
that what a ReLU has cut stays zero (Jacob et al., 2018).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..tensorspec import is_channels_last
from .codec import FLOATING

__all__ = ["Scaled", "int4", "int8"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Scaled:
    """Stores floating values as ``bits`` (8 or 4) each; two of 4 bits share a byte, the first in its lower half."""

    name: str
    bits: int
    largest = float(np.finfo(np.float32).max)
    scaled = True

    def storage_dtype(self, dtype: str) -> np.dtype[Any]:
        """Return the dtype on disk of a frontier tensor of the named torch dtype."""
        return np.dtype("u1" if dtype in FLOATING else dtype)

    def storage_shape(self, shape: tuple[int, ...], dtype: str) -> tuple[int, ...]:
        """Return the shape of a row as it is, or that of its packed bytes."""
        return (-(-math.prod(shape) // 2),) if self.bits == 4 and dtype in FLOATING else shape

    def is_exact(self, dtype: str) -> bool:
        """Return whether values of the named torch dtype are read back as they were."""
        return dtype not in FLOATING

    def scales_shape(self, shape: tuple[int, ...], dtype: str) -> tuple[int, int] | None:
        """Return (2, channels)."""
        if dtype not in FLOATING:
            return None
        rows = (1, *shape) if shape else (1, 1)
        return 2, rows[_channel_axis(rows)]

    def scales(self, values: Array, dtype: str) -> Array | None:
        """Return the step and the zero of each channel, (2, channels) float32."""
        if dtype not in FLOATING:
            return None
        values = values.reshape(len(values), -1) if values.ndim == 1 else values
        axis = _channel_axis(values.shape)
        others = tuple(each for each in range(values.ndim) if each != axis)
        # In float64, because the span of float32 values can exceed float32.
        low = np.minimum(values.min(axis=others, initial=0), 0).astype(np.float64).reshape(-1)
        high = np.maximum(values.max(axis=others, initial=0), 0).astype(np.float64).reshape(-1)
        step = ((high - low) / self._top).astype(np.float32)
        step[step == 0] = 1
        zero = np.minimum(np.rint(-low / step), self._top).astype(np.float32)
        return np.stack([step, zero])

    def encode(self, values: Array, scales: Array | None = None) -> Array:
        """Return each value as the nearest whole number of its channel's steps."""
        if scales is None:
            return values
        step, zero = _along(scales, values.shape)
        numbers = np.divide(values, step, dtype=np.float32)
        np.rint(numbers, out=numbers)
        numbers += zero
        encoded: Array = np.clip(numbers, 0, self._top, out=numbers).astype(np.uint8)
        if self.bits == 8:
            return encoded
        flat = encoded.reshape(len(values), math.prod(values.shape[1:]))
        if flat.shape[1] % 2:
            flat = np.pad(flat, ((0, 0), (0, 1)))
        packed: Array = flat[:, 0::2] | flat[:, 1::2] << 4
        return packed

    def decode(self, stored: Array, shape: tuple[int, ...], dtype: str, scales: Array | None = None) -> Array:
        """Return floating values as float32, all others as they are."""
        if scales is None:
            return stored
        if self.bits == 4:
            halves = np.empty((len(stored), stored.shape[1], 2), np.uint8)
            np.bitwise_and(stored, 15, out=halves[:, :, 0])
            np.right_shift(stored, 4, out=halves[:, :, 1])
            stored = halves.reshape(len(stored), 2 * stored.shape[1])[:, : math.prod(shape)].reshape(
                len(stored), *shape
            )
        step, zero = _along(scales, stored.shape)
        decoded: Array = np.subtract(stored, zero, dtype=np.float32)
        decoded *= step
        return decoded

    @property
    def _top(self) -> int:
        return int(2**self.bits - 1)


def _channel_axis(shape: tuple[int, ...]) -> int:
    """Return which dimension of rows (rows, …) holds the channels."""
    return 1 if len(shape) > 3 and not is_channels_last(shape[1:]) else len(shape) - 1


def _along(scales: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Return step and zero in a shape that goes along with rows."""
    axis = _channel_axis(shape)
    wide = [size if each == axis > 0 else 1 for each, size in enumerate(shape)]
    return scales[0].reshape(wide), scales[1].reshape(wide)


int8 = Scaled("int8", 8)
int4 = Scaled("int4", 4)
