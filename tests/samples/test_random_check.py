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


@pytest.mark.parametrize("whose", DRAWS)
def test_the_generators_are_put_back_where_something_drew_only_once(pairs: TensorPairs, whose: str) -> None:
    calls = iter(range(1000))

    def third(x: torch.Tensor) -> torch.Tensor:
        if next(calls) == 2:  # after it was found not to differ
            DRAWS[whose]()
        return x

    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = [float(draw()) for draw in DRAWS.values()]  # type: ignore[arg-type]
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    refuse_random(Samples(pairs, third))
    assert next(calls) > 4
    assert [float(draw()) for draw in DRAWS.values()] == expected  # type: ignore[arg-type]


def test_an_augmentation_with_a_generator_of_its_own_is_refused(pairs: TensorPairs) -> None:
    numbers = iter(range(1000))
    with pytest.raises(DataError, match="a generator of its own"):
        refuse_random(Samples(pairs).augmented(lambda x: x + next(numbers)))
    refuse_random(Samples(pairs).augmented(lambda x: x + random.random()))


def test_what_draws_is_found_behind_what_cannot_be_read(pairs: TensorPairs) -> None:
    class FirstTorn(Draws):
        draw = staticmethod(random.random)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            if index == 0:
                raise OSError(index)
            return super().__getitem__(index)

    with pytest.raises(DataError, match="item 7 of 'firsttorn' differs"):
        refuse_random(Samples(FirstTorn(pairs.inputs, pairs.targets_of)))


def test_what_cannot_be_read_or_is_empty_is_not_tried(pairs: TensorPairs) -> None:
    class Torn(TensorPairs):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            raise OSError(index)

    refuse_random(Samples(Torn(pairs.inputs, pairs.targets_of)))
    with pytest.raises(DataError, match="is empty"):
        refuse_random(Samples(TensorPairs(pairs.inputs[:0], pairs.targets_of)))


def test_a_transform_that_draws_once_only_is_taken(pairs: TensorPairs) -> None:
    once: Iterator[object] = iter([random.random, np.random.random])

    def warm(x: torch.Tensor) -> torch.Tensor:
        for draw in once:
            draw()  # as another thread may meanwhile
            break
        return x

    refuse_random(Samples(pairs, warm))
