"""When two outputs count as equal."""

from __future__ import annotations

import pytest
import torch

from featcache.errors import SplitError
from featcache.splitting.compare import TOLERANCE, compare, difference

NAN, INF = float("nan"), float("inf")


def test_equal_outputs_differ_by_nothing_whatever_holds_them() -> None:
    one = {"a": torch.ones(2), "b": [torch.zeros(0), torch.tensor([INF, 1.0])]}
    assert compare(one, {"b": one["b"], "a": torch.ones(2)}, "it") == 0
    assert compare((), (), "it") == 0
    assert compare(5, 5, "it") == 0


@pytest.mark.parametrize("nothing", [[], [NAN], [INF, -INF]])
def test_outputs_without_a_finite_value_prove_nothing(nothing: list[float]) -> None:
    tensor = torch.tensor(nothing)
    with pytest.raises(SplitError, match=r"^it has no finite value to compare"):
        compare((tensor, tensor), (tensor.clone(), tensor), "it")
    assert compare(tensor, tensor.clone(), "it", refuse=False) == 0
    assert compare((tensor, torch.ones(1)), (tensor, torch.ones(1)), "it") == 0


def test_a_difference_is_one_of_the_scale_of_the_first_and_refused_above_the_tolerance() -> None:
    one = torch.tensor([8.0, 0.0])
    assert compare(one, torch.tensor([8.0, 2.0]), "it", refuse=False) == 0.25
    assert difference(one, torch.tensor([8.0, -2.0])) == 0.25
    assert compare(one, torch.tensor([8.0, 2.0]), "it", floor=16, tolerance=0.125) == 0.125
    assert compare(one, one + 2 * TOLERANCE, "it") < TOLERANCE
    with pytest.raises(SplitError, match=r"^it differs from the whole model by 2\.5e-01 of its scale"):
        compare((torch.ones(1), one), (torch.ones(1), torch.tensor([8.0, 2.0])), "it")


@pytest.mark.parametrize("other", [[NAN, 1.0], [1.0, INF]])
def test_values_that_are_not_finite_must_be_so_in_both(other: list[float]) -> None:
    one, found = torch.ones(2), torch.tensor(other)
    for mine, theirs in ((one, found), (found, one)):
        assert compare(mine, theirs, "it", refuse=False) == INF
        assert difference(mine, theirs) == INF


@pytest.mark.parametrize("found", [torch.ones(3), (torch.ones(2), torch.ones(2)), ()])
def test_outputs_of_other_number_or_shape_are_refused(found: object) -> None:
    with pytest.raises(SplitError, match=r"^it gives tensors of other number or shape"):
        compare(torch.ones(2), found, "it")
    with pytest.raises(SplitError, match=r"other number or shape"):
        compare(torch.ones(2), found, "it", refuse=False)


def test_a_tensor_that_was_not_recorded_is_no_output() -> None:
    with pytest.raises(SplitError, match="depends on a tensor that was not recorded"):
        compare(torch.ones(2), torch.ones(2, device="meta"), "it")
