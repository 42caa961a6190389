"""Batches of inputs, also such as vary in length, and the targets of all samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from featcache.errors import DataError
from featcache.samples import length_of, pieces, stack_inputs
from featcache.samples.stacking import TargetStack


def tokens(*lengths: int, **more: Any) -> list[dict[str, Any]]:
    return [{"ids": torch.arange(1, n + 1), "mask": torch.ones(n, dtype=torch.long), **more} for n in lengths]


def test_inputs_are_stacked_as_positional_or_keyword_inputs() -> None:
    (one,) = stack_inputs([torch.ones(2), torch.zeros(2)])
    assert one.tolist() == [[1, 1], [0, 0]]
    two = stack_inputs([(torch.ones(2), 1), (torch.zeros(2), 2)])
    assert isinstance(two, tuple)
    assert [each.tolist() for each in two] == [[[1, 1], [0, 0]], [1, 2]]
    named = stack_inputs([{"a": torch.ones(2)}, {"a": torch.zeros(2)}])
    assert {name: each.tolist() for name, each in named.items()} == {"a": [[1, 1], [0, 0]]}


def test_inputs_with_a_mask_are_padded_with_zeros() -> None:
    made = stack_inputs(tokens(1, 3, number=torch.tensor(5)))
    assert made["ids"].tolist() == [[1, 0, 0], [1, 2, 3]]
    assert made["mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert made["number"].tolist() == [5, 5]


def test_inputs_of_different_shapes_without_a_mask_are_refused_with_the_shapes() -> None:
    unmasked = [{"ids": each["ids"]} for each in tokens(1, 3)]
    for inputs, said in (
        ([torch.ones(2), torch.ones(3)], r"found \(2,\), \(3,\)\."),
        (unmasked, "found dict"),
        ([object(), object()], "found object"),
    ):
        with pytest.raises(DataError, match=said):
            stack_inputs(inputs)


def test_a_transform_may_stack_its_inputs_itself() -> None:
    class Joins:
        def collate(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
            return [torch.cat(inputs), torch.tensor(len(inputs))]

    made = stack_inputs([torch.ones(1), torch.ones(2)], Joins())
    assert [each.tolist() for each in made] == [[1, 1, 1], 2]

    class Keeps:
        def collate(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            return inputs[1]

    assert stack_inputs(tokens(1, 3), Keeps())["ids"].tolist() == [1, 2, 3]


def test_the_length_of_an_input_is_the_first_size_of_each_of_its_tensors() -> None:
    assert length_of(np.zeros((3, 2))) == (3,)
    assert length_of(torch.zeros(())) == (-1,)
    assert length_of((np.zeros((3, 2)), torch.zeros(5))) == (3, 5)
    assert length_of([np.zeros((3, 2)), torch.zeros(5)]) == (3, 5)
    assert length_of({"a": np.zeros((3, 2)), "b": torch.zeros(())}) == (3, -1)
    assert length_of((np.zeros(3), "text")) is None
    assert length_of("text") is None


@pytest.mark.parametrize(("step", "sizes"), [(1, [1, 1, 1, 1, 1]), (2, [2, 2, 1]), (4, [4, 1]), (5, [5]), (9, [5])])
def test_inputs_come_in_pieces_of_at_most_a_step(step: int, sizes: list[int]) -> None:
    one, other = torch.arange(5), torch.arange(5) * 10
    found = pieces((one, other), step)
    assert [len(each[0]) for each in found] == sizes
    assert torch.equal(torch.cat([each[0] for each in found]), one)
    assert torch.equal(torch.cat([each[1] for each in found]), other)
    named = pieces({"a": one, "b": other}, step)
    assert [len(each["a"]) for each in named] == sizes
    assert torch.equal(torch.cat([each["b"] for each in named]), other)


def stacked(*targets: Any) -> np.ndarray:
    stack = TargetStack()
    for target in targets:
        stack.add(target)
    return stack.stacked()


def test_targets_are_stacked_with_their_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featcache.samples.stacking.STACKED", 2)
    for targets, dtype in (
        ([3, 1, 2, 0, 5], np.int64),
        ([np.int8(3), np.int8(1), np.int8(2)], np.int64),
        ([0.5, 1.5, 2.5], np.float64),
        ([np.float32(0.5), np.float32(1.5), np.float32(1.5)], np.float32),
        ([True, False, True], np.bool_),
        ([np.array([1, 2]), np.array([3, 4]), np.array([5, 6])], np.int64),
        ([torch.tensor([0.5]), torch.tensor([1.5]), torch.tensor([2.5])], np.float32),
        ([3, np.int16(1), 2], np.int64),
        ([1, 2, 3, 0.5], np.float64),
    ):
        made = stacked(*targets)
        assert made.dtype == dtype
        assert np.array_equal(made, np.stack([np.asarray(each) for each in targets]))


def test_targets_of_different_shapes_or_that_are_no_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="different shapes"):
        stacked(np.zeros(2), np.zeros(3))
    with pytest.raises(DataError, match="not numbers"):
        stacked("cat", "dog")
    monkeypatch.setattr("featcache.samples.stacking.STACKED", 1)
    with pytest.raises(DataError, match="different shapes"):
        stacked(np.zeros(2), np.zeros(3))


@pytest.mark.parametrize("at_once", [1, 4096])
def test_rows_of_whole_numbers_of_many_lengths_are_padded_with_what_losses_ignore(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("featcache.samples.stacking.STACKED", at_once)
    assert stacked([1, 2], [3], torch.tensor([4, 5, 6])).tolist() == [[1, 2, -100], [3, -100, -100], [4, 5, 6]]
    with pytest.raises(DataError, match="different shapes"):
        stacked(np.zeros((2, 2), int), np.zeros((3, 2), int))
