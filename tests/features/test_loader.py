"""Epochs of sets that exceed the memory, and of several processes."""

from __future__ import annotations

import errno

import numpy as np
import pytest
import torch

import featcache
from featcache.errors import CorruptError, UsageError

from ..conftest import TensorPairs


@pytest.fixture
def many(net, tmp_path) -> featcache.Features:
    generator = torch.Generator().manual_seed(1)
    pairs = TensorPairs(torch.randn(300, 3, 12, 12, generator=generator), torch.arange(300) % 4)
    return featcache.extract(net, pairs, str(tmp_path / "s"), cut="block", shard_bytes=64 * 8 * 36 * 4)


@pytest.fixture
def small_windows(monkeypatch) -> None:
    monkeypatch.setattr("featcache.features.loader.BLOCK_BYTES", 16 * 8 * 36 * 4)
    monkeypatch.setattr("featcache.features.loader.WINDOW_BLOCKS", 8)


@pytest.fixture
def no_memory(monkeypatch) -> None:
    monkeypatch.setattr("featcache.features.features.available_memory_bytes", lambda: 0)


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


def blocks_of_windows(order: np.ndarray, rows: int, sizes: list[int]) -> list[set[int]]:
    """Return which blocks of so many rows each window of an order holds rows of, and check that it holds whole ones."""
    windows = np.split(order, np.cumsum(sizes)[:-1])
    assert [len(window) for window in windows] == sizes
    found = [set((window // rows).tolist()) for window in windows]
    for blocks, size in zip(found, sizes, strict=True):
        assert len(blocks) == -(-size // rows)
    return found


def test_blocks_are_mixed_within_windows_and_stay_whole(many, small_windows) -> None:
    order = many.loader(8, shuffle="blocks").order(0)
    # 19 blocks, the last of which is not full, in windows of at most 8, of one size as they are few
    found = blocks_of_windows(order, 16, [6 * 16, 6 * 16, 7 * 16 - 4])
    assert set.union(*found) == set(range(19))
    assert len(np.unique(order[:16] // 16)) > 1


def test_of_many_windows_the_first_and_the_last_are_small(many, small_windows, monkeypatch) -> None:
    monkeypatch.setattr("featcache.features.loader.BLOCK_BYTES", 2 * 8 * 36 * 4)
    loader = many.loader(8, shuffle="blocks", seed=5)
    # 150 blocks of two rows: windows of 1, 2 and 4 blocks, then of at most 8, then of 4, 2 and 1
    sizes = [2, 4, 8] + [16] * 17 + [8, 4, 2]
    for epoch in range(2):
        order = loader.order(epoch)
        assert sorted(order) == list(range(300))
        blocks_of_windows(order, 2, sizes)
        assert np.array_equal(order, many.loader(8, shuffle="blocks", seed=5).order(epoch))


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 3, 16, 17, 100, 128, 129, 130, 255])
def test_a_set_of_a_window_or_less_is_mixed_as_a_whole_and_one_of_little_more_in_halves(
    many, small_windows, rows
) -> None:
    order = many.subset(range(rows)).loader(8, shuffle="blocks").order(0)
    assert sorted(order) == list(range(rows))
    half = order if rows <= 128 else order[: len(order) // 2]
    assert len(np.unique(half // 16)) >= min(-(-rows // 16), 4)


def test_what_fits_is_shuffled_whole_unless_blocks_are_asked_for(many, no_memory) -> None:
    assert not many.loader(8, shuffle="full").blockwise
    assert many.loader(8, shuffle="blocks").blockwise
    assert not many.loader(8, shuffle=False).blockwise
    with pytest.raises(UsageError, match="blocks"):
        many.loader(8, shuffle="some")


def test_in_sequence_larger_than_memory_rows_come_in_sequence(many, small_windows, no_memory) -> None:
    found = torch.cat([frontier for frontier, _ in many.loader(50, shuffle=False)])
    assert np.array_equal(found.numpy(), many.numpy()[0])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float8_e4m3", "int8", "int4"])
@pytest.mark.parametrize("available", [0, 1 << 40])
def test_rows_with_gaps_in_any_order_are_streamed_alike_around_the_page_cache_and_through_it(
    monkeypatch, tmp_path, dtype, available
) -> None:
    monkeypatch.setattr("featcache.features.features.available_memory_bytes", lambda: available)
    monkeypatch.setattr("featcache.features.loader.WINDOW_BLOCKS", 3)
    generator = torch.Generator().manual_seed(2)
    # Rows of 27 values, which end nowhere near the boundaries of a disk's blocks, in shards of some hundreds of kB.
    net = torch.nn.Sequential(torch.nn.Linear(9, 27), torch.nn.Linear(27, 4)).eval()
    pairs = TensorPairs(torch.randn(30_000, 9, generator=generator), torch.arange(30_000) % 4)
    features = featcache.extract(
        net, pairs, str(tmp_path / "s"), cut="0", dtype=dtype, batch_size=5000, shard_bytes=900_000
    )
    chosen = np.random.default_rng(0).permutation(30_000)[:25_000]
    for part in (features.subset(chosen), features.subset(np.sort(chosen)), features.subset([4, 4, 29_999, 0])):
        loader = part.loader(1000, shuffle="blocks")
        expected = part.batch(loader.order(0))[0]
        assert torch.equal(torch.cat([frontier for frontier, _ in loader]), expected)
        assert torch.equal(part.load().batch(loader.order(0))[0], expected)


def test_a_file_system_that_refuses_to_read_around_the_page_cache_is_read_through_it(
    many, small_windows, no_memory, monkeypatch
) -> None:
    def refused(path: str, flags: int) -> int:
        raise OSError(errno.EINVAL, "Invalid argument", path)

    monkeypatch.setattr("featcache.hdf5.spans._directly", refused)
    found = torch.cat([frontier for frontier, _ in many.loader(50, shuffle=False)])
    assert np.array_equal(found.numpy(), many.numpy()[0])


def test_an_epoch_goes_on_from_a_shard_that_was_removed_since_it_was_opened(
    many, tmp_path, small_windows, no_memory
) -> None:
    values = many.numpy()[0]
    for path in (tmp_path / "s" / "sets").glob("*/*.h5"):
        path.unlink()
    found = torch.cat([frontier for frontier, _ in many.loader(50, shuffle=False)])
    assert np.array_equal(found.numpy(), values)


def test_a_damaged_row_is_found_when_its_window_is_read_and_others_are_not_blamed(
    net, tmp_path, small_windows, no_memory
) -> None:
    pairs = TensorPairs(torch.randn(300, 3, 12, 12), torch.arange(300) % 4)
    features = featcache.extract(net, pairs, str(tmp_path / "s"), cut="block")
    values = features.numpy()[0]
    (path,) = (tmp_path / "s" / "sets").glob("*/*.h5")
    content = bytearray(path.read_bytes())
    content[content.index(values[299].tobytes())] ^= 1
    path.write_bytes(content)
    again = featcache.extract(net, pairs, str(tmp_path / "s"), cut="block")
    assert len(list(again.subset(range(200)).loader(10))) == 20
    with pytest.raises(CorruptError, match="damaged"):
        list(again.loader(10))


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
