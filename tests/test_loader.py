"""Epochs of sets that exceed the memory, and of several processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import featcache
from featcache import UsageError

from .conftest import TensorPairs


@pytest.fixture
def many(net, tmp_path) -> featcache.Features:
    generator = torch.Generator().manual_seed(1)
    pairs = TensorPairs(torch.randn(300, 3, 12, 12, generator=generator), torch.arange(300) % 4)
    return featcache.extract(net, pairs, str(tmp_path / "s"), cut="block", shard_bytes=64 * 8 * 36 * 4)


@pytest.fixture
def small_windows(monkeypatch) -> None:
    monkeypatch.setattr("featcache.loader.BLOCK_BYTES", 16 * 8 * 36 * 4)
    monkeypatch.setattr("featcache.loader.WINDOW_BLOCKS", 8)


@pytest.fixture
def no_memory(monkeypatch) -> None:
    monkeypatch.setattr("featcache.features.available_memory_bytes", lambda: 0)


def test_larger_than_memory_every_row_comes_once_an_epoch_in_the_order_that_is_told(
    many, small_windows, no_memory
) -> None:
    loader = many.loader(24, seed=3)
    assert loader.blockwise
    values = many.numpy()[0]
    for epoch in range(2):
        order = loader.order(epoch)
        assert sorted(order) == list(range(300))
        batches = list(loader)
        assert [len(targets) for _, targets in batches] == [24] * 12 + [12]
        assert np.array_equal(torch.cat([frontier for frontier, _ in batches]).numpy(), values[order])
        assert torch.cat([targets for _, targets in batches]).tolist() == (order % 4).tolist()
    assert not np.array_equal(loader.order(0), loader.order(1))
    assert np.array_equal(loader.order(1), many.loader(7, seed=3).order(1))


def test_blocks_are_mixed_within_windows_and_stay_whole(many, small_windows) -> None:
    order = many.loader(8, shuffle="blocks").order(0)
    for start in range(0, 256, 128):
        window = order[start : start + 128]
        assert (
            len(np.unique(window // 16)) <= 10
        )  # the last block of the set is not full, so windows begin and end within one
        assert len(np.unique(window[:16] // 16)) > 1


def test_what_fits_is_shuffled_whole_unless_blocks_are_asked_for(many, no_memory) -> None:
    assert not many.loader(8, shuffle="full").blockwise
    assert many.loader(8, shuffle="blocks").blockwise
    assert not many.loader(8, shuffle=False).blockwise
    with pytest.raises(UsageError, match="blocks"):
        many.loader(8, shuffle="some")


def test_in_sequence_larger_than_memory_rows_come_in_sequence(many, small_windows, no_memory) -> None:
    found = torch.cat([frontier for frontier, _ in many.loader(50, shuffle=False)])
    assert np.array_equal(found.numpy(), many.numpy()[0])


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_processes_share_the_blocks_without_overlap_but_for_padding(many, small_windows, world_size) -> None:
    loaders = [many.loader(8, "blocks", rank=rank, world_size=world_size) for rank in range(world_size)]
    orders = [loader.order(1) for loader in loaders]
    assert len({len(order) for order in orders}) == 1
    assert set(np.concatenate(orders)) == set(range(300))
    assert len(np.concatenate(orders)) - 300 < world_size
    assert [len(list(loader)) for loader in loaders] == [len(loader) for loader in loaders]


def test_views_and_compressed_rows_are_streamed_alike(net, pairs, tmp_path, small_windows, no_memory) -> None:
    features = featcache.extract(
        net, pairs, str(tmp_path / "s"), cut="block", views=2, augment="flip", dtype="float16", codec="zstd"
    )
    loader = features.loader(8, seed=1)
    order, views = loader.order(0), loader.views(0)
    found = torch.cat([frontier for frontier, _ in loader])
    assert torch.equal(found, features.batch(order, views[order])[0])


def test_a_batch_that_is_held_is_never_written_over_and_one_that_is_not_gives_its_memory_back(
    net, pairs, tmp_path
) -> None:
    features = featcache.extract(net, pairs, str(tmp_path / "s"), cut="block")
    for size in (8, 50):
        loader = features.loader(size, shuffle=False)
        kept = [frontier[:1] for frontier, _ in loader for _ in range(2)]
        for _ in loader:
            pass
        expected = features.numpy()[0][::size]
        assert all(np.array_equal(one.numpy()[0], expected[number // 2]) for number, one in enumerate(kept))
        weight = torch.ones(1, requires_grad=True)
        losses = [(frontier * weight).square().sum() for frontier, _ in loader]
        sum(losses).backward()
        assert weight.grad.item() == pytest.approx(2 * float((features.numpy()[0] ** 2).sum()), rel=1e-4)
        addresses = {frontier.untyped_storage().data_ptr() for _ in range(5) for frontier, _ in loader}
        assert len(addresses) <= 4
