"""Plain arrays at a stated precision: floating values are rounded to it, all others are kept as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Cast", "float16", "float32"]

FLOATING = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Cast:
    """Stores floating values as ``name``, which numpy and HDF5 know."""

    name: str

    def storage_dtype(self, dtype: str) -> np.dtype[Any]:
        """Return the dtype on disk of a frontier tensor of the named torch dtype."""
        return np.dtype(self.name if dtype in FLOATING else dtype)

    def is_exact(self, dtype: str) -> bool:
        """Return whether values of the named torch dtype are read back as they were: as float32 at most."""
        return dtype not in FLOATING or dtype == self.name or (self.name == "float32" and dtype != "float64")

    def encode(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return ``values`` rounded to the precision, where they are floating."""
        if values.dtype.kind != "f" or values.dtype == self.name:
            return values
        with np.errstate(over="ignore"):  # an overflow shows as infinity, which extract refuses by sample
            return values.astype(self.name)

    def decode(self, stored: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return floating values as float32, all others as they are."""
        if stored.dtype.kind != "f" or stored.dtype == np.float32:
            return stored
        return stored.astype(np.float32)


float32 = Cast("float32")
float16 = Cast("float16")
