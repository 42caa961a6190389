"""One array over the rows of several files, so that one gather reaches all of them without a copy of their own.

The files are mapped side by side into one stretch of memory. Its pages are those of the operating system's page cache:
processes that read the same files share them.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .reading import StoredArray

__all__ = ["Part", "join_arrays"]

MAP_FIXED = 0x10  # on Linux and macOS; Python's mmap does not offer it
MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0  # what files are mapped over needs no memory
LARGE_PAGE_BYTES = 2 << 20
WORTH_MAPPING_BYTES = 512 << 10  # smaller parts are copied: their files do not align them to pages

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Part:
    """A stored array of one file, and its values as they are mapped already."""

    path: Path
    place: StoredArray
    values: Array


def join_arrays(parts: Sequence[Part]) -> tuple[Array, list[int]]:
    """Return one array that holds all parts, and at which of its rows each part begins.

    The parts have one type and one shape but for their number of rows. Rows of the result that are of no part are
    undefined. Parts are mapped where their rows can lie at a multiple of their size, else copied. The array must not be
    written to: its memory is protected, though numpy does not know that.
    """
    first = parts[0].values
    row_bytes = math.prod(first.shape[1:]) * first.dtype.itemsize
    if row_bytes and hasattr(mmap, "MAP_ANONYMOUS"):
        with suppress(OSError, AttributeError):  # no such address space, or no such call
            return _mapped(parts, row_bytes)
    ends = np.cumsum([len(each.values) for each in parts]).tolist()
    return np.concatenate([each.values for each in parts]), [0, *ends[:-1]]


def _mapped(parts: Sequence[Part], row_bytes: int) -> tuple[Array, list[int]]:
    starts: list[int] = []
    mapped: list[bool] = []
    at = 0
    for part in parts:
        start = _start(at, part, row_bytes) if part.values.nbytes >= WORTH_MAPPING_BYTES else None
        mapped.append(start is not None)
        starts.append(-(-at // row_bytes) * row_bytes if start is None else start)
        at = -(-(starts[-1] + part.values.nbytes) // mmap.PAGESIZE) * mmap.PAGESIZE
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    memory = mmap.mmap(-1, at + LARGE_PAGE_BYTES, flags=flags)
    whole = np.frombuffer(memory, np.uint8)  # which keeps the memory for as long as anything shares it
    whole = whole[-whole.ctypes.data % LARGE_PAGE_BYTES :]
    kind, shape = parts[0].values.dtype, parts[0].values.shape[1:]
    joined = whole[: at // row_bytes * row_bytes].view(kind).reshape(-1, *shape)
    firsts = [start // row_bytes for start in starts]
    for part, in_place, start, first in zip(parts, mapped, starts, firsts, strict=True):
        if not in_place or not _map_over(whole.ctypes.data + start, part):
            joined[first : first + len(part.values)] = part.values
    return joined, firsts


def _start(at: int, part: Part, row_bytes: int) -> int | None:
    """Return where the rows of a part can lie, from ``at`` on: at a multiple of their size, where pages can be mapped, if any.

    The system maps large pages where addresses and places in the file are alike up to the size of these.
    """
    offset = part.place.offset_bytes
    for unit in (LARGE_PAGE_BYTES, mmap.PAGESIZE):
        common = math.gcd(unit, row_bytes)
        period = row_bytes // common
        if offset % unit % common or (unit > mmap.PAGESIZE and unit * period > max(unit, part.values.nbytes)):
            continue  # there is none, or it lies too far
        units = -(offset % unit) // common * pow(unit // common, -1, period) % period
        start, step = offset % unit + units * unit, period * unit
        lowest = at + offset % mmap.PAGESIZE
        return start + max(0, -(-(lowest - start) // step)) * step
    return None


def _map_over(address: int, part: Part) -> bool:
    """Map a part over the memory at the address of its first row; return whether its file was still there."""
    lead = part.place.offset_bytes % mmap.PAGESIZE
    begin, size_bytes, address = part.place.offset_bytes - lead, lead + part.values.nbytes, address - lead
    call = ctypes.CDLL(None, use_errno=True).mmap
    call.restype = ctypes.c_void_p
    call.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
    try:
        file = os.open(part.path, os.O_RDONLY)
    except FileNotFoundError:  # removed since it was opened: its older map still holds it
        return False
    try:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file, begin, size_bytes, os.POSIX_FADV_WILLNEED)
        found = call(address, size_bytes, mmap.PROT_READ, mmap.MAP_SHARED | MAP_FIXED, file, begin)
    finally:
        os.close(file)
    if found != address:
        raise OSError(ctypes.get_errno(), "cannot map", str(part.path))
    return True
