"""The ids of shards that lie far away are read from their first bytes where these suffice."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from featcache import FeatureStore, Recipe, TensorSpec
from featcache.errors import CorruptError
from featcache.storages import Entry
from featcache.store.shard_ids import START_BYTES, ids_of

RECIPE = Recipe("0", "s", {}, (TensorSpec("0", (1000,), "float32"),), None, {})


class FarAway:
    """A storage that notes what is fetched whole, and what of which only the start is read."""

    def __init__(self, root: Path) -> None:
        self.root, self.fetched, self.started = root, [], []

    def fetch(self, path: str) -> Path:
        self.fetched.append(path)
        return self.root / path

    def read_start(self, path: str, size_bytes: int) -> bytes:
        self.started.append(path)
        return (self.root / path).read_bytes()[:size_bytes]


class Near(FarAway):
    """A storage whose files are at hand."""

    read_start = None  # type: ignore[assignment]


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Path, str, list[Entry]]:
    """A store with a large shard and a small one, each of rows with the view 3."""
    store = FeatureStore(str(tmp_path / "store"))
    store.create()
    feature_set = store.set(RECIPE)
    for first, count in ((0, 200), (200, 2)):
        ids = np.frombuffer(rows(first, count)[0], np.uint8).reshape(-1, 16)
        feature_set.add(ids, np.full(count, 3), {"0": np.zeros((count, 1000), np.float32)}, {})
    return tmp_path / "store", feature_set.path, feature_set.shard_entries()


def taken(storage: FarAway, path: str, entries: list[Entry]) -> dict[str, tuple[bytes, list[int]]]:
    found = ids_of(storage, path, entries, RECIPE.fingerprint)  # type: ignore[arg-type]
    return {name: (ids.tobytes(), views.tolist()) for name, ids, views in found}


def rows(first: int, count: int) -> tuple[bytes, list[int]]:
    """Return the ids and views of a shard of the fixture."""
    return bytes((first + number) % 256 for number in range(16 * count)), [3] * count


def test_of_a_large_shard_only_the_start_is_read(folder: tuple[Path, str, list[Entry]]) -> None:
    root, path, entries = folder
    large = next(entry for entry in entries if entry.size_bytes > 2 * START_BYTES)
    small = next(entry for entry in entries if entry is not large)
    expected = {large.name: rows(0, 200), small.name: rows(200, 2)}
    far, near = FarAway(root), Near(root)
    assert taken(far, path, entries) == taken(near, path, entries) == expected
    assert (far.started, far.fetched) == ([f"{path}/{large.name}"], [f"{path}/{small.name}"])
    assert sorted(near.fetched) == sorted(f"{path}/{entry.name}" for entry in entries)
    alone = FarAway(root)
    assert taken(alone, path, [large]) == {large.name: rows(0, 200)}
    assert alone.fetched == []


@pytest.mark.parametrize("start", ["nothing", "half of the ids", "all but the last view"])
def test_where_the_start_does_not_suffice_the_whole_is_read(folder, monkeypatch, start: str) -> None:
    root, path, entries = folder
    large = next(entry for entry in entries if entry.size_bytes > 2 * START_BYTES)
    with h5py.File(root / path / large.name) as file:
        ids, views = file["ids"].id.get_offset(), file["views"].id.get_offset()
    sizes = {"nothing": 1, "half of the ids": ids + 1600, "all but the last view": views + 4 * 200 - 1}
    monkeypatch.setattr("featcache.store.shard_ids.START_BYTES", sizes[start])
    far = FarAway(root)
    assert taken(far, path, [large]) == {large.name: rows(0, 200)}
    assert far.fetched == far.started == [f"{path}/{large.name}"]


def test_a_shard_that_was_removed_meanwhile_is_left_out(folder: tuple[Path, str, list[Entry]]) -> None:
    root, path, entries = folder
    (root / path / entries[0].name).unlink()
    for storage in (FarAway(root), Near(root)):
        assert set(taken(storage, path, entries)) == {entries[1].name}
        assert taken(storage, path, entries[:1]) == {}


def test_a_shard_of_another_recipe_is_refused(folder: tuple[Path, str, list[Entry]]) -> None:
    root, path, entries = folder
    for storage in (FarAway(root), Near(root)):
        with pytest.raises(CorruptError, match="belongs to the recipe"):
            list(ids_of(storage, path, entries, "0" * 32))  # type: ignore[arg-type]
