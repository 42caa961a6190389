"""What one tensor of a frontier looks like, without its batch dimension."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

__all__ = ["TensorSpec", "is_channels_last"]

ITEM_SIZE_BYTES = {
    "bool": 1, "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16,
}  # fmt: skip


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor that crosses a cut looks like, without its batch dimension.

    Attributes
    ----------
    name : str
        The name of the tensor.
    shape : tuple of int or None
        The shape for one sample. The first size is None if samples vary in length, as texts and sounds do.
    dtype : str
        The name of the torch dtype, such as ``"float32"``.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    @property
    def ragged(self) -> bool:
        """Whether samples vary in length."""
        return bool(self.shape) and self.shape[0] is None

    @property
    def value_shape(self) -> tuple[int, ...]:
        """The shape of one sample's value, or of one step of it if samples vary in length."""
        return tuple(size for size in self.shape if size is not None)

    def __str__(self) -> str:
        """Return the shape in words, such as 512×7×7; n stands for the length of a sample."""
        return "×".join("n" if size is None else str(size) for size in self.shape) or "scalar"

    @property
    def size_bytes(self) -> int:
        """The bytes that one sample's value takes in memory, or one step of it if samples vary in length."""
        return math.prod(self.value_shape) * ITEM_SIZE_BYTES.get(self.dtype, 4)

    def to_dict(self) -> dict[str, Any]:
        """Return the specification as JSON-able values.

        Returns
        -------
        dict of str to Any
            The values of ``name``, ``shape`` and ``dtype``.
        """
        return {"name": self.name, "shape": list(self.shape), "dtype": self.dtype}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> TensorSpec:
        """Return the specification that ``to_dict`` wrote.

        Parameters
        ----------
        value : dict of str to Any
            The result of ``to_dict``.

        Returns
        -------
        TensorSpec
            The specification.
        """
        return cls(
            str(value["name"]), tuple(None if n is None else int(n) for n in value["shape"]), str(value["dtype"])
        )


def is_channels_last(shape: tuple[int, ...]) -> bool:
    """Return whether features of a sample's shape are tokens, or maps whose channels stand last."""
    return len(shape) == 2 or shape[0] == shape[1] != shape[-1]
