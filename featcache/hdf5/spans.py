"""Rows of an array read from its file in large pieces, by threads that wait for the disk, around the memory map.

A map brings a file into memory by faults of 4 KB, each of which costs the processor more than the disk takes for it.
"""

from __future__ import annotations

import errno
import math
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CorruptError
from .blocks import gather
from .reading import StoredArray

__all__ = ["Blocks", "Wanted", "read_rows"]

PIECE_BYTES = 1 << 20  # read at once: it is checked and copied while it is in the processor's cache
WORTH_THREAD = 4  # pieces, which are read before another thread has started
MAX_GAP_BYTES = 128 << 10  # between rows that are read as one
READERS = 8  # threads that read one file, most of which wait for it
ALIGNMENT_BYTES = 4096  # of places, lengths and memory where a file is read around the page cache

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Wanted:
    """What becomes of rows that are read: decoded, if need be, they are put at their ``places`` in ``out``."""

    places: Array
    out: Array
    decode: Callable[[Array], Array] | None

    @cached_property
    def _runs(self) -> Array:
        return _runs(self.places)

    def memory(self, begin: int, end: int) -> Array | None:
        """Return where places ``begin`` to ``end`` - 1 lie, None where they do not follow each other, or get other values."""
        if self.decode is not None or self._runs[begin] != self._runs[end - 1]:
            return None
        where = self.places[begin:end]
        return self.out[int(where[0]) : int(where[-1]) + 1]

    def put(self, begin: int, end: int, values: Array, chosen: Array) -> None:
        """Put ``chosen`` of the values where places ``begin`` to ``end`` - 1 say."""
        run = slice(int(chosen[0]), int(chosen[-1]) + 1)
        values = values[run] if _runs(chosen)[-1] == 0 else gather(values, chosen)
        if self.decode is not None:
            values = self.decode(values)
        where = self.places[begin:end]
        if self._runs[begin] == self._runs[end - 1]:
            np.copyto(self.out[int(where[0]) : int(where[-1]) + 1], values)
        else:
            self.out[where] = values


@dataclass(frozen=True)
class Blocks:
    """Runs of ``size`` rows that share a checksum: ``unchecked`` says which are to be read whole and given to ``check``."""

    size: int
    unchecked: Array
    check: Callable[[int, Array], None]

    def check_read(self, first: int, values: Array, count: int) -> None:
        """Check what is whole of the rows from ``first`` on, of so many in all."""
        for block in range(-(-first // self.size), -(-(first + len(values)) // self.size)):
            start, stop = block * self.size - first, min((block + 1) * self.size, count) - first
            if self.unchecked[block] and stop <= len(values):
                self.check(block, values[start:stop])

    def spans(self, rows: Array, count: int, gap: int) -> list[tuple[int, int]]:
        """Return the half-open runs that hold sorted rows; those that at most ``gap`` rows part are one."""
        numbers = rows // self.size
        whole = self.unchecked[numbers]
        starts = np.where(whole, numbers * self.size, rows)
        stops = np.where(whole, np.minimum((numbers + 1) * self.size, count), rows + 1)
        lasts = np.append(np.flatnonzero(starts[1:] > stops[:-1] + gap), len(rows) - 1)
        firsts = np.concatenate([[0], lasts[:-1] + 1])
        return list(zip(starts[firsts].tolist(), stops[lasts].tolist(), strict=True))


def read_rows(path: Path, place: StoredArray, rows: Array, wanted: Wanted, blocks: Blocks, direct: bool) -> None:
    """Read some rows of an array from its file, check them and put them where they are wanted.

    ``direct`` reads around the page cache where the system can: what is read of a file that exceeds the memory would only
    pass through it, which costs the processor several times as much.
    """
    if not len(rows) or not _row_bytes(place):
        return
    if (rows[1:] < rows[:-1]).any():
        order = np.argsort(rows, kind="stable")
        rows, wanted = rows[order], replace(wanted, places=wanted.places[order])
    total, unit = place.shape[0], min(blocks.size, place.shape[0])
    count = min(max(1, PIECE_BYTES // (unit * _row_bytes(place))) * unit, total)
    limits: list[tuple[int, int]] = []
    for first, stop in blocks.spans(rows, total, MAX_GAP_BYTES // _row_bytes(place)):
        starts = range(first // count * count, stop, count)  # so no block is cut
        limits.extend((max(first, start), min(start + count, stop)) for start in starts)
    within = np.searchsorted(rows, np.array(limits)).tolist()
    pieces = deque((*limit, *places) for limit, places in zip(limits, within, strict=True) if places[0] < places[1])
    runs = _runs(rows)

    def work(_: int) -> None:
        with _Reader(path, place, count, direct) as reader:
            while True:
                try:
                    first, stop, begin, end = pieces.popleft()
                except IndexError:
                    return
                whole = end - begin == stop - first and runs[begin] == runs[end - 1]
                memory = wanted.memory(begin, end) if whole else None
                values = reader.rows(first, stop, memory)
                blocks.check_read(first, values, total)
                if values is not memory:
                    wanted.put(begin, end, values, rows[begin:end] - first)

    threads = min(READERS, len(pieces) // WORTH_THREAD)
    if threads < 2:
        work(0)
        return
    with ThreadPoolExecutor(threads) as pool:
        try:
            list(pool.map(work, range(threads)))
        finally:
            pieces.clear()  # after an error in one thread, the others need not go on


def _runs(numbers: Array) -> Array:
    """Return the number of the run, of numbers that follow each other, that each lies in: found at once for all pieces."""
    return np.cumsum(np.diff(numbers, prepend=numbers[:1] - 1) != 1)


class _Reader:
    """A file opened for reading rows, up to so many at once, into memory that is used again."""

    def __init__(self, path: Path, place: StoredArray, most: int, direct: bool) -> None:
        self._path, self._place = path, place
        memory = np.empty(most * _row_bytes(place) + 3 * ALIGNMENT_BYTES, np.uint8)
        self._memory: Any = memory[-memory.ctypes.data % ALIGNMENT_BYTES :]
        self._direct = direct and hasattr(os, "O_DIRECT")
        self._file = self._opened()

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def rows(self, first: int, stop: int, memory: Array | None) -> Array:
        """Return rows ``first`` to ``stop`` - 1: in ``memory``, if there is some that the system can read into.

        Raises ``CorruptError`` where the file ends before.
        """
        row_bytes = _row_bytes(self._place)
        begin, size_bytes = self._place.offset_bytes + first * row_bytes, (stop - first) * row_bytes
        if memory is not None and (not self._direct or _aligned(begin, size_bytes, memory.ctypes.data)):
            self._fill(begin, size_bytes, memory.reshape(-1).view(np.uint8).data)
            return memory
        start = begin // ALIGNMENT_BYTES * ALIGNMENT_BYTES
        whole = -(-(begin + size_bytes - start) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        self._fill(start, begin + size_bytes - start, self._memory[:whole].data)
        content = self._memory[begin - start : begin - start + size_bytes]
        values: Array = content.view(self._place.dtype).reshape(stop - first, *self._place.shape[1:])
        return values

    def _fill(self, start: int, size_bytes: int, memory: memoryview) -> None:
        done = 0
        while done < size_bytes:
            count = self._read(start + done, memory[done:])
            if not count:
                raise CorruptError(f"{self._path} is damaged: it ends early. Delete it to have its rows recomputed.")
            done += count

    def _read(self, start: int, memory: memoryview) -> int:
        try:
            self._file.seek(start)
            return self._file.readinto(memory) or 0
        except OSError as error:
            if not self._direct or error.errno != errno.EINVAL:
                raise
        # This file system does not read around the page cache, or not from here.
        self._file.close()
        self._direct = False
        self._file = self._opened()
        return self._read(start, memory)

    def _opened(self) -> Any:
        if self._direct:
            try:
                return open(self._path, "rb", buffering=0, opener=_directly)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._direct = False
        return self._path.open("rb", buffering=0)


def _aligned(*numbers: int) -> bool:
    return all(number % ALIGNMENT_BYTES == 0 for number in numbers)


def _directly(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_DIRECT)


def _row_bytes(place: StoredArray) -> int:
    return math.prod(place.shape[1:]) * place.dtype.itemsize
