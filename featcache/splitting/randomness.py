"""Random generators: left as they were, and torch's read to see who draws from them.

Those that a network holds are copied for trials, and the copies are read and seeded like torch's own.
"""

from __future__ import annotations

import random
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["SEED", "copied_generator", "generators", "quiet", "seed_all", "seeded"]

SEED = 20240229

ONE_AT_A_TIME = threading.RLock()
COPIES: weakref.WeakSet[torch.Generator] = weakref.WeakSet()
COPYING = threading.Lock()  # a set that grows cannot be read


def generators() -> list[torch.Generator]:
    """Return the default generators of the CPU and of every initialised CUDA device, and the copies of networks' own."""
    with COPYING:
        found = [torch.default_generator, *COPIES]
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found.extend(torch.cuda.default_generators)
    return found


def copied_generator(generator: torch.Generator) -> torch.Generator:
    """Return a generator in the same state, which ``generators`` lists as long as anything holds it."""
    copied = generator.clone_state()
    with COPYING:
        COPIES.add(copied)
    return copied


@contextmanager
def quiet() -> Iterator[None]:
    """Leave the state of torch's, numpy's and Python's random generators as it was.

    One thread at a time, for there is one state for all.
    """
    with ONE_AT_A_TIME:
        yield from _quiet()


def _quiet() -> Iterator[None]:
    states = [(generator, generator.get_state()) for generator in generators()]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        if mps is not None:
            torch.mps.set_rng_state(mps)


def seeded(run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return what ``run`` gives under a fixed seed, so that two runs that draw the same numbers are equal."""
    seed_all(SEED)
    return run(*args, **kwargs)


def seed_all(seed: int) -> None:
    """Seed the generators that ``quiet`` guards.

    Not ``torch.manual_seed``: that would also seed CUDA devices that are initialised only later.
    """
    for generator in generators():
        generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
