"""How the C library deals with freed memory, for processes that are ours alone."""

from __future__ import annotations

import ctypes

__all__ = ["keep_freed_memory"]

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
KEPT_BYTES = 1 << 30
OLD_LIMIT_BYTES = 32 << 20  # the largest that older versions take
PAD_BYTES = 64 << 20


def keep_freed_memory() -> bool:
    """Return whether the C library was told to keep blocks of up to 1 GiB that are freed, instead of giving them back.

    A layer's output of some MB is otherwise taken from the system and given back at each batch, and every page of it is
    cleared again. This holds for the whole process, so only the command line and worker processes may call it. Has no
    effect, and returns False, where the C library is not glibc. See mallopt(3).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(
        (mallopt(M_MMAP_THRESHOLD, KEPT_BYTES) or mallopt(M_MMAP_THRESHOLD, OLD_LIMIT_BYTES))
        and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        and mallopt(M_TOP_PAD, PAD_BYTES)
    )
