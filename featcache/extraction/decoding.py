"""How samples are decoded: by how many processes, and whether decoding them scaled is sound and pays."""

from __future__ import annotations

import multiprocessing
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ..datasets import Pixels
from ..errors import DataError, UsageError
from ..machine import usable_cores
from ..samples import Samples

if TYPE_CHECKING:
    import torch

__all__ = ["WORTH_SCALING", "check_scaling", "default_workers", "scaling_gain"]

# Decoding that takes less in all is done before worker processes would have started and paid: a forked one starts in about 0.1 s,
# any other imports torch first. Threads would start at once, but a user's dataset or transform need not be safe in them.
WORTH_WORKERS_S = {"fork": 1.0}
WORTH_OTHER_WORKERS_S = 6.0
WORTH_SCALING = 1.3  # times faster, from which decoding in another way is suggested
TRIED = 4  # samples, to see how long decoding takes


def default_workers(samples: Samples, count: int, device: torch.device) -> int:
    """Return how many processes should decode ``count`` samples: none where decoding is quick in all."""
    cores = usable_cores()
    tried = list(range(min(TRIED, len(samples.dataset))))
    start = time.perf_counter()
    for position in tried:
        try:
            samples.input(position)
        except OSError:
            continue
    elapsed_s = (time.perf_counter() - start) / max(1, len(tried)) * count
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    if elapsed_s < WORTH_WORKERS_S.get(method, WORTH_OTHER_WORKERS_S):
        return 0
    return cores if device.type != "cpu" else max(1, cores // 2)


def check_scaling(samples: Samples) -> None:
    """Raise ``DataError`` where the transform makes something else of a few images that are decoded scaled.

    What it does to images of other sizes than those that it was tried on shows here.
    """
    asked = getattr(getattr(samples.dataset, "pixels", None), "scale_of", None)
    if asked is None:
        return
    whole = Samples(samples.dataset.whole(), samples.transform)
    for position in samples.spread()[::2]:
        with suppress(OSError):
            found = asked.differs(whole.input(position), samples.input(position))
            if found is not None:
                raise DataError(
                    f"decoding 'scaled' changes what the transform makes of {samples.label(position)}: it differs {found}. "
                    "Use decoding 'exact'."
                )


def scaling_gain(samples: Samples) -> float:
    """Return how many times faster a few samples become inputs if they are decoded scaled; 1 where they cannot be."""
    pixels = getattr(samples.dataset, "pixels", None)
    if not isinstance(pixels, Pixels) or pixels.decoding == "scaled" or samples.transform is None:
        return 1.0
    try:
        dataset = samples.dataset.scaled(samples.transform)
    except UsageError:  # the transform does not show what size it asks for
        return 1.0
    if dataset is None:
        return 1.0
    faster = Samples(dataset, samples.transform)
    elapsed_s = []
    for each in (faster, samples):
        started_s = time.perf_counter()
        for position in samples.spread()[:TRIED]:
            with suppress(OSError):
                each.input(position)
        elapsed_s.append(time.perf_counter() - started_s)
    return elapsed_s[1] / max(elapsed_s[0], 1e-9)
