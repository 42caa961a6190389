"""Arrays in compressed chunks: bytes shuffled as HDF5's shuffle filter does, or not, then zstd, a chunk a block of rows.

Any HDF5 library that has the zstd filter (32015, as in hdf5plugin) reads such an array. Here the chunks are read from
the file by their places and decoded by several threads, because the library decodes under one lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError, near_names
from ..extras import need
from ..machine import usable_cores
from .reading import StoredChunks

__all__ = ["COMPRESSIONS", "CompressedArray", "check_compression", "compressed_chunks", "worth_shuffling"]

COMPRESSIONS = ("zstd",)
LEVEL = 1  # higher ones gain at most 2 % of the bytes on activations, at half the speed or less
WORTH_THREADS = 4  # chunks; fewer are decoded before threads would have started

Array = np.ndarray[Any, Any]


def check_compression(name: str | None) -> None:
    """Raise ``UsageError`` for a name that is not known, ``MissingDependencyError`` where its package is missing."""
    if name is None:
        return
    if name not in COMPRESSIONS:
        raise UsageError(f"unknown codec {name!r}.{near_names(name, COMPRESSIONS)} Known: {', '.join(COMPRESSIONS)}.")
    _zstandard()


def worth_shuffling(rows: Array) -> bool:
    """Return whether rows take fewer bytes if shuffled first: dense values do, those that are mostly zero do not."""
    return rows.dtype.itemsize > 1 and len(_compressed(rows, True)) < len(_compressed(rows, False))


def compressed_chunks(values: Array, chunk_rows: int, shuffled: bool) -> Iterator[bytes]:
    """Yield the compressed chunks of an array, the last one filled up with zeros."""

    def compress(start: int) -> bytes:
        rows = values[start : start + chunk_rows]
        if len(rows) < chunk_rows:
            rows = np.concatenate([rows, np.zeros((chunk_rows - len(rows), *rows.shape[1:]), rows.dtype)])
        return _compressed(rows, shuffled)

    starts = range(0, len(values), chunk_rows)
    with ThreadPoolExecutor(_threads(len(starts))) as pool:
        yield from pool.map(compress, starts)


class CompressedArray:
    """The rows of a chunked array, decoded as they are asked for; what was decoded passes ``check`` before it is given out.

    ``check`` gets the number of a chunk and its rows, and raises where they are damaged.
    """

    def __init__(self, path: Path, place: StoredChunks, check: Callable[[int, Array], None]) -> None:
        self.shape, self.dtype, self.chunk_rows = place.shape, place.dtype, place.chunk_rows
        self._place, self._check = place, check
        self._shuffled = place.shuffled
        self._chunk_bytes = self.chunk_rows * int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        self._zstandard = _zstandard()
        self._file = np.memmap(path, np.uint8, mode="r").view(np.ndarray)

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, rows: Array) -> Array:
        """Return rows by number, in fresh memory."""
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        chunks = rows // self.chunk_rows
        order = np.argsort(chunks, kind="stable")
        runs = np.split(order, np.flatnonzero(np.diff(chunks[order])) + 1) if len(rows) else []

        def fill(places: Array) -> None:
            number = int(chunks[places[0]])
            out[places] = self.chunk(number)[rows[places] - number * self.chunk_rows]

        if len(runs) < WORTH_THREADS:
            for run in runs:
                fill(run)
        else:
            with ThreadPoolExecutor(_threads(len(runs))) as pool:
                list(pool.map(fill, runs))
        return out

    def chunk(self, number: int) -> Array:
        """Return the rows of one chunk, checked."""
        start, size = int(self._place.offsets[number]), int(self._place.sizes[number])
        content = self._file[start : start + size]
        count = min(self.chunk_rows, len(self) - number * self.chunk_rows)
        values = np.empty(0, self.dtype)
        # What a chunk says of its size is checked first: decoding allocates as much.
        try:
            if self._zstandard.frame_content_size(content) == self._chunk_bytes:
                plain = self._zstandard.ZstdDecompressor().decompress(content, max_output_size=self._chunk_bytes)
                values = _values(plain, self.dtype, self._shuffled).reshape(self.chunk_rows, *self.shape[1:])[:count]
        except (self._zstandard.ZstdError, ValueError):
            pass  # the check says what is damaged
        self._check(number, values)
        return values


def _compressed(rows: Array, shuffled: bool) -> bytes:
    plain = np.ascontiguousarray(rows).view(np.uint8)
    content = plain.reshape(-1, rows.dtype.itemsize).T.tobytes() if shuffled else plain.tobytes()
    return bytes(_zstandard().ZstdCompressor(level=LEVEL).compress(content))


def _values(content: bytes, dtype: np.dtype[Any], shuffled: bool) -> Array:
    if not shuffled:
        plain: Array = np.frombuffer(content, dtype)
        return plain
    planes = np.frombuffer(content, np.uint8).reshape(dtype.itemsize, -1)
    # Shifts of whole numbers run five to fifteen times as fast as a transposed copy of bytes.
    values: Array = planes[0].astype(f"<u{dtype.itemsize}")
    for number in range(1, dtype.itemsize):
        values |= planes[number].astype(values.dtype) << np.uint8(8 * number)
    whole: Array = values.view(dtype)
    return whole


def _threads(most: int) -> int:
    return max(1, min(usable_cores(), most))


def _zstandard() -> Any:
    return need("zstandard", "compress", "codec zstd")
