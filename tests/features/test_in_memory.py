"""Rows that fit into memory are there once, however many loaders, subsets and processes read them."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import featcache
from featcache.errors import CorruptError

from ..conftest import TensorPairs

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def wide(store: Path, dtype: str = "float32", rows: int = 20_000, shard_bytes: int = 16 << 20) -> featcache.Features:
    """64 MB of rows in several shards."""
    net = torch.nn.Sequential(torch.nn.Linear(8, 800), torch.nn.Linear(800, 4)).eval()
    torch.manual_seed(0)
    pairs = TensorPairs(torch.randn(rows, 8), torch.arange(rows) % 4)
    return featcache.extract(net, pairs, str(store), cut="0", dtype=dtype, batch_size=2048, shard_bytes=shard_bytes)


def own_bytes() -> int:
    """Memory of this process that is not pages of files."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def epoch(loader: featcache.FeatureLoader) -> int:
    return sum(len(targets) for _, targets in loader)


@on_linux
@pytest.mark.parametrize(("dtype", "most_bytes"), [("float32", 16 << 20), ("float16", 16 << 20), ("int8", 80 << 20)])
def test_several_loaders_subsets_and_new_loaders_hold_the_rows_once(
    tmp_path: Path, dtype: str, most_bytes: int
) -> None:
    features = wide(tmp_path / "s", dtype)
    epoch(features.subset([1, 2]).loader(64))
    before_bytes = own_bytes()
    kept = [features.loader(64), features.loader(64, seed=1)]
    for loader in (*kept, features.loader(64), features.loader(64)):
        assert epoch(loader) == 20_000
    assert own_bytes() - before_bytes < most_bytes


@on_linux
def test_rows_to_train_on_and_rows_to_validate_by_take_no_more_than_all(tmp_path: Path) -> None:
    features = wide(tmp_path / "s", "int8")
    before_bytes = own_bytes()
    for _ in range(3):
        training, validation = features.subset(range(15_000)), features.subset(range(15_000, 20_000))
        assert epoch(training.loader(64)) + epoch(validation.loader(64)) == 20_000
    assert own_bytes() - before_bytes < 80 << 20


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_what_is_in_memory_is_what_is_stored_in_any_order_and_subset(tmp_path: Path, dtype: str) -> None:
    features = wide(tmp_path / "s", dtype, 3000, 1 << 20)
    chosen = np.random.default_rng(0).permutation(3000)[:1234]
    part = features.subset(chosen)
    expected = features.batch(chosen)[0]
    for loaded in (part.load(), features.load().subset(chosen), part.load().subset(np.arange(1234)).load()):
        assert torch.equal(loaded.batch(np.arange(1234))[0], expected)
        assert torch.equal(loaded.loaded[0]["0"].float(), expected)
        assert list(loaded.names) == list(part.names)
    pickled = pickle.dumps(part.load())
    assert dtype == "int8" or len(pickled) < 1 << 20
    copied = pickle.loads(pickled)
    assert torch.equal(copied.batch(np.arange(1234))[0], expected)


def test_a_damaged_row_is_found_when_rows_are_first_loaded_and_only_there(tmp_path: Path) -> None:
    features = wide(tmp_path / "s", rows=4000, shard_bytes=4 << 20)
    shard = max((tmp_path / "s").glob("sets/*/*.h5"), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CorruptError, match="damaged"):
        epoch(features.loader(64))
    with pytest.raises(CorruptError, match="damaged"):
        epoch(features.loader(64))


@on_linux
def test_a_set_that_exceeds_the_memory_is_not_mapped_to_find_out_whether_processes_could_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = wide(tmp_path / "s", rows=4000)
    monkeypatch.setattr("featcache.features.features.available_memory_bytes", lambda: features.size_bytes)
    assert features.loader(64, rank=0, world_size=4).blockwise
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_what_processes_share_counts_once_and_what_each_decodes_counts_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, decoded = wide(tmp_path / "a", rows=4000), wide(tmp_path / "b", "int8", rows=4000)
    room_bytes = int(2 * shared.size_bytes / 0.4)  # for two copies
    monkeypatch.setattr("featcache.features.features.available_memory_bytes", lambda: room_bytes)
    assert not shared.loader(64, rank=0, world_size=4).blockwise
    assert decoded.loader(64, rank=0, world_size=4).blockwise
    assert not decoded.loader(64, rank=0, world_size=2).blockwise
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # the others are on another machine
    assert not decoded.loader(64, rank=0, world_size=4).blockwise
