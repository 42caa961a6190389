"""Refusing what is random: a dataset or transform whose result differs from call to call cannot be cached."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..errors import DataError
from ..identity import content_id
from .samples import Samples
from .transforms import apply

__all__ = ["refuse_random"]

TRIES = 5


def refuse_random(samples: Samples) -> None:
    """Check on a few samples that item and transform give the same result twice; raises ``DataError`` if not."""
    if not len(samples.dataset):
        raise DataError(f"the dataset {samples.name!r} is empty: it needs at least one sample.")
    for position in samples.spread():
        try:
            (before, first), (after, second) = samples.read(position), samples.read(position)
            fetched = [first(), second()]
        except OSError:
            continue  # an unreadable sample is named when its turn comes
        if before != after and hasattr(samples.dataset, "sample_ids"):
            continue  # its file is being written, which is no chance
        if _differ(fetched) or _draws(partial(samples.raw, position)):
            raise DataError(
                f"{samples.label(position)} of {samples.name!r} differs when it is fetched twice: the dataset draws random "
                "numbers. Take random augmentation out of the dataset; cached features need the same input every time."
            )
        transform = samples.transform
        if transform is not None:
            item = fetched[0]
            if _differ([apply(transform, item), apply(transform, item)]) or _draws(partial(transform, item)):
                raise DataError(
                    f"the transform draws random numbers ({samples.label(position)} of {samples.name!r}): random "
                    "augmentation in it cannot be cached. Use a deterministic transform, and give the random part as "
                    "--augment with --views."
                )
        if samples.augment is not None and _differ(
            [samples.seen(samples.raw(position)[0], 1, b"example") for _ in range(2)]
        ):
            raise DataError(
                f"the augmentation gives another view of {samples.label(position)} each time it is seeded equally: it "
                "draws from a generator of its own. Let it draw from Python's, numpy's or torch's global generator."
            )


def _differ(items: list[Any]) -> bool:
    return len({content_id(item) for item in items}) > 1


def _draws(run: Callable[[], Any]) -> bool:
    """Return whether a function draws from a global random generator, whose state is put back.

    Comparing results would miss an augmentation that is seldom applied. Other threads may draw meanwhile, so only what
    draws every time counts.
    """
    import torch

    for _ in range(TRIES):
        before = _random_state()
        torch_before = torch.get_rng_state()
        python_before, numpy_before = random.getstate(), np.random.get_state()
        run()
        if _random_state() == before:
            return False
        random.setstate(python_before)
        np.random.set_state(numpy_before)
        torch.set_rng_state(torch_before)
    return True


def _random_state() -> tuple[Any, ...]:
    import torch

    kind: Any = np.random.get_state(legacy=True)
    return random.getstate(), np.asarray(kind[1]).tobytes(), kind[2:], torch.get_rng_state().numpy().tobytes()
