"""Views: random augmentations of a sample that come out the same whenever they are asked for."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import UnknownNameError, UsageError, near_names
from ..factories import call_factory, looks_like_factory

__all__ = ["AUGMENTS", "load_augment", "view_of"]

AUGMENTS = ("flip", "trivial")


def load_augment(spec: str) -> Callable[[Any], Any]:
    """Return the random augmentation that a specification names; it is applied to an item before the transform.

    ``flip`` mirrors images left to right half of the time, ``trivial`` also applies one random operation of
    TrivialAugment (Müller and Hutter, 2021). ``FILE.py:factory`` and ``MODULE:factory`` name a function that returns one.
    """
    if looks_like_factory(spec):
        made = call_factory(spec, "augment")
        if not callable(made):
            raise UsageError(f"{spec} returned {type(made).__name__}; an augment factory returns a callable.")
        return made  # type: ignore[no-any-return]
    if spec not in AUGMENTS:
        raise UnknownNameError(
            f"unknown augmentation {spec!r}.{near_names(spec, AUGMENTS)} Known: {', '.join(AUGMENTS)}, FILE.py:factory, "
            "MODULE:factory."
        )
    from torchvision.transforms import v2

    flip = v2.RandomHorizontalFlip()
    return flip if spec == "flip" else v2.Compose([flip, v2.TrivialAugmentWide()])  # type: ignore[no-any-return]


def view_of(item: Any, augment: Callable[[Any], Any], sample_id: bytes, view: int, seed: int) -> Any:
    """Return a view of an item: drawn from generators that are seeded by sample, view and seed alone.

    Python's, numpy's and torch's global generators are seeded for the call and get their states back.
    """
    import torch

    from ..machine import seeded

    digest = hashlib.sha256(b"view:%d:%d:" % (seed, view) + sample_id).digest()
    python_before, numpy_before = random.getstate(), np.random.get_state()
    try:
        random.seed(digest)
        np.random.seed(np.frombuffer(digest, dtype="<u4"))
        with seeded(int.from_bytes(digest[:7], "little"), torch.device("cpu")):
            return augment(item)
    finally:
        random.setstate(python_before)
        np.random.set_state(numpy_before)
