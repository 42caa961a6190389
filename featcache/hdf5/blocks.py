"""Runs of rows that share a checksum, and rows of varying length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

__all__ = ["Ragged", "block_checksums", "block_of", "checksum", "gather", "last_end", "steps_of"]

BLOCK_BYTES = 256 * 1024

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Ragged:
    """Values of samples that vary in length: all steps one after another (steps, …), and where each sample's end (n,)."""

    values: Array
    ends: Array

    @classmethod
    def of(cls, rows: Sequence[Array]) -> Ragged:
        """Return the values of single samples, joined."""
        return cls(np.concatenate(rows), np.cumsum([len(row) for row in rows], dtype="<i8"))

    @classmethod
    def joined(cls, parts: Sequence[Ragged]) -> Ragged:
        """Return the samples of all parts, one part after another."""
        before = np.cumsum([0, *(len(part.values) for part in parts[:-1])]).tolist()
        ends = np.concatenate([part.ends + start for part, start in zip(parts, before, strict=True)])
        return cls(np.concatenate([part.values for part in parts]), ends)

    @property
    def nbytes(self) -> int:
        """Return the bytes of all values."""
        return int(self.values.nbytes)

    def take(self, rows: Array) -> Ragged:
        """Return some samples, copied."""
        steps, ends = steps_of(self.ends, rows)
        return Ragged(self.values[steps], ends)


def steps_of(ends: Array, rows: Array) -> tuple[Array, Array]:
    """Return the steps of some samples one after another, and where in that list each sample's end."""
    starts = np.where(rows > 0, ends[rows - 1], 0)
    lengths = ends[rows] - starts
    new_ends = np.cumsum(lengths, dtype="<i8")
    steps = np.arange(new_ends[-1] if len(rows) else 0) + np.repeat(starts - (new_ends - lengths), lengths)
    return steps, new_ends


def gather(values: Array, rows: Array, out: Array | None = None) -> Array:
    """Return some rows of an array, copied: to ``out`` where it is given."""
    # take(mode="clip") is the fastest gather there is, but it would hide a bad index: rows are checked first.
    if len(rows) and np.asarray(rows, dtype=np.int64).view(np.uint64).max() >= len(values):  # negative ones are huge
        raise IndexError(f"row {rows.min()}..{rows.max()} of {len(values)}")
    if out is None:
        out = np.empty((len(rows), *values.shape[1:]), values.dtype)
    values.take(rows, axis=0, out=out, mode="clip")
    return out


def last_end(ends: Array, rows: int) -> int:
    """Return the number of steps in all; raises ``ValueError`` where the ends could lead out of the file."""
    if len(ends) != rows or (rows and (ends[0] < 0 or (ends[1:] < ends[:-1]).any())):
        raise ValueError("the ends of its rows do not rise")
    return int(ends[-1]) if rows else 0


def block_of(arrays: Sequence[Array]) -> int:
    """Return how many rows, or steps, of some arrays make a block."""
    row_bytes = max([1, *(values[:1].nbytes for values in arrays)])
    return max(1, BLOCK_BYTES // row_bytes)


def block_checksums(values: Array, block: int) -> Array:
    """Return the xxh3-64 checksum of every run of ``block`` rows, or steps."""
    starts = range(0, len(values), block)
    return np.array([checksum(values[start : start + block]) for start in starts], dtype="<u8")


def checksum(values: Array) -> int:
    """Return the xxh3-64 checksum of the bytes of an array."""
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(values).view(np.uint8).reshape(-1).data)
