"""Plain arrays at a stated precision: floating values are rounded to it, all others are kept as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .codec import FLOATING, RowCodec

__all__ = ["Cast", "float16", "float32"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Cast(RowCodec):
    """Stores floating values as ``name``, which numpy and HDF5 know."""

    name: str

    @property
    def largest(self) -> float:
        """Return the largest magnitude that is held."""
        return float(np.finfo(self.name).max)

    def storage_dtype(self, dtype: str) -> np.dtype[Any]:
        """Return the dtype on disk of a frontier tensor of the named torch dtype."""
        return np.dtype(self.name if dtype in FLOATING else dtype)

    def is_exact(self, dtype: str) -> bool:
        """Return whether values of the named torch dtype are read back as they were: as float32 at most."""
        return dtype not in FLOATING or dtype == self.name or (self.name == "float32" and dtype != "float64")

    def encode(self, values: Array, scales: Array | None = None) -> Array:
        """Return ``values`` rounded to the precision, where they are floating."""
        return values if values.dtype.kind != "f" else values.astype(self.name, copy=False)

    def decode(self, stored: Array, shape: tuple[int, ...], dtype: str, scales: Array | None = None) -> Array:
        """Return floating values as float32, all others as they are."""
        if stored.dtype.kind != "f" or stored.dtype == np.float32:
            return stored
        import torch  # whose conversion is some twenty times as fast as numpy's

        decoded: Array = torch.from_numpy(stored).float().numpy()
        return decoded


float32 = Cast("float32")
float16 = Cast("float16")
