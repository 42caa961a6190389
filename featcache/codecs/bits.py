"""Precisions that numpy and HDF5 do not know, stored as whole numbers that hold their bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .codec import FLOATING, RowCodec

__all__ = ["Bits", "bfloat16", "float8_e4m3", "float8_e5m2"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Bits(RowCodec):
    """Stores the bits of floating values rounded to torch's type ``torch_name`` as unsigned whole numbers."""

    name: str
    torch_name: str
    stored_as: str
    largest: float

    def storage_dtype(self, dtype: str) -> np.dtype[Any]:
        """Return the dtype on disk of a frontier tensor of the named torch dtype."""
        return np.dtype(self.stored_as if dtype in FLOATING else dtype)

    def is_exact(self, dtype: str) -> bool:
        """Return whether values of the named torch dtype are read back as they were."""
        return dtype not in FLOATING or dtype == self.name

    def encode(self, values: Array, scales: Array | None = None) -> Array:
        """Return the bits of ``values`` at the precision, rounded to the nearest; others than floating ones as they are."""
        if values.dtype.kind != "f":
            return values
        import torch

        rounded = torch.from_numpy(np.ascontiguousarray(values)).to(getattr(torch, self.torch_name))
        signed: Array = rounded.view(torch.int16 if rounded.itemsize == 2 else torch.uint8).numpy()
        return signed.view(self.stored_as)

    def decode(self, stored: Array, shape: tuple[int, ...], dtype: str, scales: Array | None = None) -> Array:
        """Return floating values as float32, all others as they are."""
        if dtype not in FLOATING:
            return stored
        decoded: Array
        if stored.dtype.itemsize == 1:
            decoded = np.empty(stored.shape, np.float32)
            np.take(self._values(), stored, out=decoded, mode="clip")
            return decoded
        import torch

        signed = np.ascontiguousarray(stored).view(np.int16)
        decoded = torch.from_numpy(signed).view(getattr(torch, self.torch_name)).float().numpy()
        return decoded

    def _values(self) -> Array:
        """Return what each of the 256 bytes stands for: looking it up is four times as fast as torch's conversion."""
        found = _VALUES.get(self.name)
        if found is None:
            import torch

            every_byte = torch.arange(256, dtype=torch.uint8)
            found = _VALUES[self.name] = every_byte.view(getattr(torch, self.torch_name)).float().numpy()
        return found


_VALUES: dict[str, Array] = {}

bfloat16 = Bits("bfloat16", "bfloat16", "<u2", 3.3895313892515355e38)
float8_e4m3 = Bits("float8_e4m3", "float8_e4m3fn", "u1", 448.0)
float8_e5m2 = Bits("float8_e5m2", "float8_e5m2", "u1", 57344.0)
