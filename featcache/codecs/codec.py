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

    Register an instance in ``featcache.codecs.codec.codecs``, and ``dtype="name"`` finds it.

    Attributes
    ----------
    name : str
        The name. It is part of the recipe, because what is read back depends on it.
    largest : float
        The largest magnitude that the codec holds.
    scaled : bool
        Whether the codec needs to see all rows of a shard before it can encode one.
    """

    name: str
    largest: float
    scaled: bool

    def storage_dtype(self, dtype: str) -> np.dtype[Any]:
        """Return the dtype on disk.

        Parameters
        ----------
        dtype : str
            The torch dtype of the frontier tensor.

        Returns
        -------
        numpy.dtype
            The stored dtype.
        """

    def storage_shape(self, shape: tuple[int, ...], dtype: str) -> tuple[int, ...]:
        """Return the shape on disk of one row, or of one step if samples vary in length.

        Parameters
        ----------
        shape : tuple of int
            The shape of the row or step in memory.
        dtype : str
            The torch dtype of the frontier tensor.

        Returns
        -------
        tuple of int
            The stored shape.
        """

    def is_exact(self, dtype: str) -> bool:
        """Return whether values are read back as they were.

        Parameters
        ----------
        dtype : str
            The torch dtype of the frontier tensor.

        Returns
        -------
        bool
            True if nothing is lost.
        """

    def scales_shape(self, shape: tuple[int, ...], dtype: str) -> tuple[int, int] | None:
        """Return the shape of the scales.

        Parameters
        ----------
        shape : tuple of int
            The shape of a row, or of one step if samples vary in length.
        dtype : str
            The torch dtype of the frontier tensor.

        Returns
        -------
        tuple of int, or None
            The shape of ``scales``. None if there are none.
        """

    def scales(self, values: Array, dtype: str) -> Array | None:
        """Return what a shard keeps beside its rows so that they can be decoded.

        Parameters
        ----------
        values : numpy.ndarray, shape (rows, …)
            All rows of the shard, or all their steps.
        dtype : str
            The torch dtype of the frontier tensor.

        Returns
        -------
        numpy.ndarray or None
            The scales. None if there are none.
        """

    def encode(self, values: Array, scales: Array | None = None) -> Array:
        """Return values as they are stored.

        Parameters
        ----------
        values : numpy.ndarray, shape (rows, …)
            The values.
        scales : numpy.ndarray, optional
            The result of ``scales``.

        Returns
        -------
        numpy.ndarray, shape (rows, …)
            The stored rows.
        """

    def decode(self, stored: Array, shape: tuple[int, ...], dtype: str, scales: Array | None = None) -> Array:
        """Return stored rows as the suffix gets them.

        Parameters
        ----------
        stored : numpy.ndarray, shape (rows, …)
            The stored rows.
        shape : tuple of int
            The shape of each row in memory.
        dtype : str
            The torch dtype of the frontier tensor.
        scales : numpy.ndarray, optional
            The scales of the shard.

        Returns
        -------
        numpy.ndarray, shape (rows, …)
            The rows. Floating values are float32.
        """


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
