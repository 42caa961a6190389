"""Ids of samples whose content is hashed, by several threads where that takes long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from .cores import usable_cores

__all__ = ["digested"]

AT_ONCE = 16  # samples that are fetched before they are hashed
WORTH_THREADS_S = 1e-4  # of hashing a sample: what takes less is hashed before a thread has been told to

Item = tuple[Any, Any]


def digested(items: Iterable[Item], identify: Callable[[Any], bytes]) -> Iterator[Item]:
    """Yield (id, target) for each (content, target), in order; an :class:`OSError` stands for what could not be read.

    The items are asked for by the calling thread alone, one by one: datasets need not be safe to share. Any other error of
    ``identify`` is raised.
    """

    def identified(item: Item) -> Item:
        content, target = item
        try:
            return content if isinstance(content, OSError) else identify(content), target
        except OSError as error:  # an image that is decoded only now
            return error, target

    waiting, taken_s = iter(items), 0.0
    with ThreadPoolExecutor(usable_cores()) as pool:
        while fetched := list(islice(waiting, AT_ONCE)):
            started_s = time.perf_counter()
            spread = taken_s > WORTH_THREADS_S
            made = list((pool.map if spread else map)(identified, fetched))
            if not spread:
                taken_s = (time.perf_counter() - started_s) / len(fetched)
            yield from made
