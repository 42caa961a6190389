"""New HDF5 files: HDF5 lays them out in memory, and all bytes are written to the disk by ourselves.

A disk that fills up while HDF5 closes a file makes HDF5 crash later on. So it only ever sees a file in memory, in which
large arrays are holes: their place is known before their values, which go from where they are straight to the disk.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from .reading import ZSTD

__all__ = ["NewArray", "NewFile", "create_file"]

ALIGNMENT_BYTES = 4096
ALIGNED_FROM_BYTES = 512 << 10  # compressed chunks are smaller: the gaps between them would be 1 % of the file

Array = np.ndarray[Any, Any]


class NewArray:
    """A contiguous array whose rows are written one run after another."""

    def __init__(self, file: BinaryIO, offset_bytes: int | None, row_bytes: int) -> None:
        self._file, self._offset, self._row_bytes = file, offset_bytes or 0, row_bytes

    def write(self, first: int, rows: Array) -> None:
        """Write rows from number ``first`` on."""
        if rows.size:
            self._file.seek(self._offset + first * self._row_bytes)
            self._file.write(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)


class NewFile:
    """A file that is being made; see ``create_file``."""

    def __init__(self, structure: h5py.File, file: BinaryIO) -> None:
        self._structure, self._file = structure, file

    def array(self, path: str, values: Array) -> None:
        """Store ``values`` contiguously at ``path``, creating the groups above it."""
        values = np.asarray(values)
        self.empty(path, values.shape, values.dtype).write(0, values)

    def empty(self, path: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NewArray:
        """Return a contiguous array at ``path``, every row of which is for the caller to write."""
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_layout(h5py.h5d.CONTIGUOUS)
        properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        dataset = self._create(path, shape, dtype, properties)
        return NewArray(self._file, dataset.get_offset(), math.prod(shape[1:]) * dtype.itemsize)

    def chunks(
        self,
        path: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        chunk_rows: int,
        shuffled: bool,
        chunks: Iterable[bytes],
    ) -> None:
        """Store an array whose chunks were shuffled, or not, and compressed with zstd already.

        The groups above it are created.
        """
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((chunk_rows, *shape[1:]))
        if shuffled:
            properties.set_shuffle()
        # Optional, so that writing needs no plugin: nothing is ever written through the filter.
        properties.set_filter(ZSTD, h5py.h5z.FLAG_OPTIONAL, (1,))
        dataset = self._create(path, shape, dtype, properties)
        for number, chunk in enumerate(chunks):
            dataset.write_direct_chunk((number * chunk_rows, *(0 for _ in shape[1:])), chunk)

    def _create(self, path: str, shape: tuple[int, ...], dtype: np.dtype[Any], properties: Any) -> Any:
        *groups, name = path.split("/")
        parent: Any = self._structure
        for group in groups:
            parent = parent.require_group(group)
        properties.set_obj_track_times(False)
        space, kind = h5py.h5s.create_simple(shape), h5py.h5t.py_create(dtype, logical=True)
        return h5py.h5d.create(parent.id, name.encode(), kind, space, properties)


@contextmanager
def create_file(path: Path, attributes: Mapping[str, int | str]) -> Iterator[NewFile]:
    """Give a new HDF5 file whose root carries ``attributes``, large arrays aligned to pages."""
    pieces = _Pieces()
    with path.open("wb") as file:
        with h5py.File(
            pieces,
            "w",
            libver=("earliest", "v110"),
            alignment_threshold=ALIGNED_FROM_BYTES,
            alignment_interval=ALIGNMENT_BYTES,
        ) as structure:
            for name, value in attributes.items():
                # Text of fixed length: text of variable length lies in a heap that its reader would have to trust.
                structure.attrs[name] = value if isinstance(value, int) else np.bytes_(value.encode())
            yield NewFile(structure, file)
        pieces.save(file)


class _Pieces:
    """A file in memory, as h5py wants it, that holds nothing but what was written to it."""

    def __init__(self) -> None:
        self._pieces: dict[tuple[int, int], bytes] = {}
        self._at = self._size_bytes = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size_bytes)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def write(self, content: memoryview) -> int:
        place = (self._at, len(content))
        self._pieces.pop(place, None)  # so that the order of pieces is that of their writing
        self._pieces[place] = bytes(content)
        self._at += len(content)
        self._size_bytes = max(self._size_bytes, self._at)
        return len(content)

    def readinto(self, buffer: memoryview) -> int:
        whole = bytearray(len(buffer))
        for (start, size), content in self._pieces.items():
            first, last = max(start, self._at), min(start + size, self._at + len(whole))
            if first < last:
                whole[first - self._at : last - self._at] = content[first - start : last - start]
        buffer[:] = whole
        self._at += len(whole)
        return len(whole)

    def read(self, size: int = -1) -> bytes:
        content = bytearray(self._size_bytes - self._at if size < 0 else size)
        self.readinto(memoryview(content))
        return bytes(content)

    def truncate(self, size_bytes: int) -> int:
        self._size_bytes = size_bytes
        return size_bytes

    def flush(self) -> None:
        """Do nothing: ``save`` writes to the disk."""

    def save(self, file: BinaryIO) -> None:
        """Write everything to a real file, around what is there."""
        for (start, _), content in self._pieces.items():
            file.seek(start)
            file.write(content)
        file.truncate(self._size_bytes)
