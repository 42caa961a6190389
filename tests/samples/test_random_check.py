"""What draws random numbers is found, also where it changes nothing this time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from featcache.errors import DataError
from featcache.samples import Samples, refuse_random

from ..conftest import TensorPairs

DRAWS: dict[str, Callable[[], object]] = {
    "Python": random.random,
    "numpy": np.random.random,
    "torch": lambda: torch.rand(1),
}


class Draws(TensorPairs):
    """Draws a number for each item, which seldom changes it."""

    draw: Callable[[], object]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.draw()
        return super().__getitem__(index)


@pytest.mark.parametrize("whose", DRAWS)
def test_a_transform_that_draws_from_any_of_the_global_generators_is_refused(pairs: TensorPairs, whose: str) -> None:
    def seldom(x: torch.Tensor) -> torch.Tensor:
        DRAWS[whose]()
        return x

    with pytest.raises(DataError, match="the transform draws random numbers"):
        refuse_random(Samples(pairs, seldom))
    refuse_random(Samples(pairs, lambda x: x + 1))


@pytest.mark.parametrize("whose", DRAWS)
def test_a_dataset_that_draws_from_any_of_the_global_generators_is_refused(pairs: TensorPairs, whose: str) -> None:
    drawing = Draws(pairs.inputs, pairs.targets_of)
    drawing.draw = DRAWS[whose]
    with pytest.raises(DataError, match="the dataset draws random numbers"):
        refuse_random(Samples(drawing))
    refuse_random(Samples(pairs))


def test_what_differs_without_drawing_is_refused(pairs: TensorPairs) -> None:
    numbers = iter(range(1000))
    with pytest.raises(DataError, match="the transform draws"):
        refuse_random(Samples(pairs, lambda x: x + next(numbers)))


def test_a_transform_that_draws_once_only_is_taken(pairs: TensorPairs) -> None:
    once: Iterator[object] = iter([random.random, np.random.random])

    def warm(x: torch.Tensor) -> torch.Tensor:
        for draw in once:
            draw()  # as another thread may meanwhile
            break
        return x

    refuse_random(Samples(pairs, warm))
