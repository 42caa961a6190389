"""Memory for rows: in large pages, and used again, since the operating system takes longer to give it than we to fill it."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

__all__ = ["Empty", "RecycledMemory", "in_large_pages", "pinned"]

Empty = Callable[[tuple[int, ...], torch.dtype], torch.Tensor]

KEPT = 4  # buffers: one is filled, one is used, and a caller may hold some more
ALIGNMENT_BYTES = 4096  # so that a file can be read into it around the page cache


def in_large_pages(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return memory for the caller to fill, in large pages, which numpy asks Linux for and torch does not."""
    return _tensor(_buffer(math.prod(shape) * dtype.itemsize), shape, dtype)


def pinned(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return memory that a CUDA device copies from by itself."""
    return torch.empty(shape, dtype=dtype, pin_memory=True)


class RecycledMemory:
    """Gives out memory that it gave out before, once no tensor, view or graph holds that any more.

    Up to ``kept`` buffers are used again, each of ``least_bytes`` or more: what is never written to of them takes no memory,
    and to replace a small one by a larger one does. Several threads may ask.
    """

    def __init__(self, kept: int = KEPT, least_bytes: int = 0) -> None:
        self._kept = kept
        self._least_bytes = least_bytes
        self._buffers: list[np.ndarray[Any, Any]] = []
        self._asked = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return RecycledMemory, (self._kept, self._least_bytes)  # another process begins with none

    def __call__(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return memory for the caller to fill."""
        size_bytes = max(math.prod(shape) * dtype.itemsize, self._least_bytes)
        with self._asked:
            for number in range(len(self._buffers)):
                # A tensor on a numpy array holds a reference to it for as long as anything shares the tensor's memory.
                if _references(self._buffers, number) == UNUSED:
                    if len(self._buffers[number]) < size_bytes + ALIGNMENT_BYTES:
                        self._buffers[number] = _buffer(size_bytes)
                    return _tensor(self._buffers[number], shape, dtype)
            made = _buffer(size_bytes)
            if len(self._buffers) < self._kept:
                self._buffers.append(made)
            return _tensor(made, shape, dtype)


def _references(buffers: list[np.ndarray[Any, Any]], number: int) -> int:
    return sys.getrefcount(buffers[number])


def _buffer(size_bytes: int) -> np.ndarray[Any, Any]:
    return np.empty(size_bytes + ALIGNMENT_BYTES, np.uint8)


def _tensor(buffer: np.ndarray[Any, Any], shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    start = -buffer.__array_interface__["data"][0] % ALIGNMENT_BYTES
    content = buffer[start : start + math.prod(shape) * dtype.itemsize]
    if dtype == torch.float32:  # a view of numpy's takes a tenth of the time of one of torch's
        return torch.from_numpy(content.view(np.float32).reshape(shape))
    return torch.from_numpy(content).view(dtype).view(shape)


UNUSED = _references(
    [_buffer(0)], 0
)  # asked, since versions of Python count a list's own reference and the question's otherwise
