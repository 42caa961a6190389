"""What the structure of a split tells apart beyond its calls, and what it cannot see and refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import featcache
from featcache.errors import FeatCacheError, SplitError


class Before(nn.Module):
    """Does something that is given before the cut ``inner``."""

    def __init__(self, how: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.how = how
        torch.manual_seed(0)
        self.inner, self.fc = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.inner(self.how(x))))


ONES = torch.ones(2, 4)


def structure_of(model: nn.Module) -> str:
    return featcache.split(model.eval(), "inner", (ONES,)).structure


def outcome(model: nn.Module) -> str:
    """Return the structure, or that it is refused: either is never stale."""
    try:
        return structure_of(model)
    except FeatCacheError:
        return "refused"


def times(*values: float) -> Callable[[torch.Tensor], torch.Tensor]:
    constant = torch.tensor(values)
    return lambda x: x * constant


def test_a_constant_tensor_before_the_cut_is_known_by_its_content() -> None:
    base = structure_of(Before(times(1, 2, 3, 4)))
    assert structure_of(Before(times(1, 2, 3, 4))) == base
    assert structure_of(Before(times(1, 2, 3, 5))) != base
    assert structure_of(Before(lambda x: x * torch.tensor([1.0, 2.0, 3.0, 5.0]))) != base


def test_a_slice_that_is_as_long_as_the_batch_is_not_one_of_a_fixed_length() -> None:
    table = torch.arange(32.0).reshape(8, 4)
    found = outcome(Before(lambda x: x + table[: len(x)].amax()))
    assert found == "refused" or found != structure_of(Before(lambda x: x + table[:2].amax()))


def under_autocast(dtype: torch.dtype | None) -> Callable[[torch.Tensor], torch.Tensor]:
    weight = torch.arange(16.0).reshape(4, 4)

    def run(x: torch.Tensor) -> torch.Tensor:
        if dtype is None:
            return (x @ weight).float()
        with torch.autocast("cpu", dtype=dtype):
            return (x @ weight).float()

    return run


def test_autocast_inside_of_the_model_before_the_cut_counts_with_its_precision() -> None:
    kinds = (None, torch.bfloat16, torch.float16)
    assert len({structure_of(Before(under_autocast(dtype))) for dtype in kinds}) == 3


class Skips(nn.Module):
    """Adds, after the cut ``inner``, one of two tensors that were computed alike before it."""

    def __init__(self, second: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.second, self.inner, self.fc = second, nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, other = torch.relu(x), torch.relu(x - 0.5)
        return self.fc(self.inner(one + other) * (other if self.second else one))


def test_which_tensor_crosses_the_cut_counts_where_names_and_shapes_agree() -> None:
    one, other = (featcache.split(Skips(second).eval(), "inner", (ONES,)) for second in (False, True))
    assert one.frontier == other.frontier
    assert len(one.frontier) == 2
    assert one.structure != other.structure


def unseen(x: torch.Tensor) -> float:
    """Take a number out of a tensor in a way that no mode of torch sees."""
    with torch._C.DisableTorchFunction():
        return float(x.sum())


@pytest.mark.parametrize(
    "how",
    [
        lambda x: x * unseen(x),
        lambda x: x + torch.full((4,), unseen(x)),
        lambda x: torch.clamp(x, max=unseen(x)),
    ],
    ids=["a factor", "a constant tensor", "a keyword"],
)
def test_a_value_that_left_torch_before_the_cut_is_refused(how: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with pytest.raises(SplitError, match=r"left torch|cannot be cached|depend"):
        structure_of(Before(how))


def several(x: torch.Tensor) -> torch.Tensor:
    """Make more calls than come after the cut."""
    for _ in range(5):
        x = torch.tanh(x)
    return x


@pytest.mark.parametrize(
    "how",
    [
        lambda x: torch.tanh(x) if unseen(x) == 8 else torch.sigmoid(x),
        lambda x: several(x) if unseen(x) == 8 else x,
        lambda x: x if unseen(x) == 8 else several(x),
    ],
    ids=["another call", "fewer calls", "more calls"],
)
def test_a_model_that_takes_another_path_for_other_values_before_the_cut_is_refused(how: Callable[..., Any]) -> None:
    with pytest.raises(SplitError, match=r"another path|left torch|cannot be cached|given something else|differ"):
        structure_of(Before(how))


def test_a_hook_before_a_module_counts_with_what_it_does() -> None:
    def hooked(by: float | None) -> str:
        model = Before(torch.relu)
        if by is not None:
            model.inner.register_forward_pre_hook(lambda module, given: (given[0] * by,))
        return structure_of(model)

    assert len({hooked(None), hooked(2.0), hooked(3.0)}) == 3
