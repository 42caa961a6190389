"""Sets and snapshots in a store: which rows are there, what is recorded beside them, and what a store's folder must be."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from featcache import FeatureStore, Recipe, TensorSpec
from featcache.errors import CorruptError, NotAStoreError, StaleError, StoreFormatError, UsageError
from featcache.samples import Snapshot
from featcache.store import FeatureSet, StoreFiles
from featcache.store.files import check_name
from featcache.store.row_index import RowIndex

RECIPE = Recipe("0", "s", {}, (TensorSpec("0", (1,), "float32"),), None, {})


def ids_of(*numbers: int) -> np.ndarray:
    return np.array([[number] * 16 for number in numbers], np.uint8).reshape(-1, 16)


@pytest.fixture
def store(tmp_path: Path) -> StoreFiles:
    files = StoreFiles(str(tmp_path / "store"))
    files.create()
    return files


def add(feature_set: FeatureSet, *numbers: int, view: int = 0) -> str:
    values = np.array(numbers, np.float32).reshape(-1, 1)
    return feature_set.add(ids_of(*numbers), np.full(len(numbers), view), {"0": values}, {})


def test_rows_are_there_as_soon_as_they_are_added_and_no_longer_than_their_shard(store: StoreFiles) -> None:
    mine, theirs = store.set(RECIPE), store.set(RECIPE)
    assert mine.missing(ids_of(1, 2, 1)).tolist() == [0, 1]
    first = add(mine, 1, 2)
    assert mine.present(ids_of(3, 2, 1)).tolist() == [False, True, True]
    assert theirs.missing(ids_of(3, 2, 3, 1, 4)).tolist() == [0, 4]
    second = add(theirs, 3)
    assert mine.present(ids_of(3, 2, 1)).tolist() == [True, True, True]
    assert mine.shard_names() == sorted([first, second])
    assert mine.present(ids_of(1), view=1).tolist() == [False]
    store.storage.remove(f"{mine.path}/{first}")
    assert mine.present(ids_of(3, 2, 1)).tolist() == [True, False, False]
    assert mine.shard_names() == [second]
    with pytest.raises(StaleError, match="was removed since"):
        mine.open_shard(first)
    shard = mine.open_shard(second)
    assert (shard.ids.tolist(), np.asarray(shard.features["0"]).tolist()) == (ids_of(3).tolist(), [[3.0]])


def test_files_that_are_no_shards_are_no_rows(store: StoreFiles) -> None:
    feature_set = store.set(RECIPE)
    name = add(feature_set, 1)
    store.storage.write_bytes(f"{feature_set.path}/notes.txt", b"")
    assert [entry.name for entry in feature_set.shard_entries()] == [name]


def test_rows_of_views_are_asked_for_by_position_and_view(store: StoreFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    feature_set = store.set(RECIPE)
    add(feature_set, 1, 2)
    add(feature_set, 1, view=2)
    rows = np.array([[0, 0], [0, 1], [0, 2], [1, 2], [1, 0], [2, 0]])
    for piece in (1, 4, 100):
        monkeypatch.setattr("featcache.store.files.PIECE", piece)
        assert feature_set.holds(ids_of(1, 2, 3), rows).tolist() == [True, False, True, False, True, False]


@pytest.fixture
def index_path(store: StoreFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let three shards be many."""
    monkeypatch.setattr("featcache.store.files.MANY_SHARDS", 3)
    return tmp_path / "store" / "cache" / "index" / RECIPE.fingerprint


def test_the_index_of_many_shards_is_kept_once_it_knows_many_that_the_file_does_not(store, index_path: Path) -> None:
    feature_set = store.set(RECIPE)
    for number in (1, 2):
        add(feature_set, number)
        feature_set.keep_index()
    assert not index_path.exists()
    add(feature_set, 3)
    feature_set.keep_index()
    assert RowIndex.read(index_path)[1] == feature_set.shard_names()
    before = index_path.stat().st_mtime_ns
    for number in (4, 5):
        add(feature_set, number)
        feature_set.keep_index()
    assert index_path.stat().st_mtime_ns == before
    add(feature_set, 6)
    feature_set.keep_index()
    assert len(RowIndex.read(index_path)[0]) == 6


def test_shards_that_the_kept_index_knows_are_not_looked_at_again(store, index_path: Path, monkeypatch) -> None:
    feature_set = store.set(RECIPE)
    for number in (1, 2, 3):
        add(feature_set, number)
    assert feature_set.present(ids_of(1, 2, 3, 4)).tolist() == [True, True, True, False]
    assert index_path.exists()
    looked: list[str] = []

    def ids_of_shards(storage, folder, entries, fingerprint):
        looked.extend(entry.name for entry in entries)
        return real(storage, folder, entries, fingerprint)

    from featcache.store.shard_ids import ids_of as real

    monkeypatch.setattr("featcache.store.files.ids_of", ids_of_shards)
    assert store.set(RECIPE).present(ids_of(1, 2, 3, 4)).tolist() == [True, True, True, False]
    assert looked == []
    new = add(feature_set, 4)
    assert store.set(RECIPE).present(ids_of(1, 2, 3, 4)).all()
    assert looked == [new]
    looked.clear()
    assert feature_set.present(ids_of(1, 2, 3, 4)).all()
    assert looked == [new]
    assert feature_set.present(ids_of(1, 2, 3, 4)).all()
    assert looked == [new]


def test_a_sample_that_could_not_be_read_is_remembered_with_name_and_reason(store: StoreFiles) -> None:
    feature_set = store.set(RECIPE)
    assert feature_set.skipped() == {}
    feature_set.record_skipped({"aa": ("a.png", "torn")})
    feature_set.record_skipped({"bb": ("b.png", "gone"), "aa": ("a.png", "gone too")})
    assert store.set(RECIPE).skipped() == {"aa": ("a.png", "gone too"), "bb": ("b.png", "gone")}
    assert [recipe.fingerprint for recipe in store.recipes()] == [RECIPE.fingerprint]
    for content in (b"[]", b"{", b'{"aa": 5}', b'{"aa": ["only one"]}', b"[" * 100_000):
        store.storage.write_bytes(f"{feature_set.path}/skipped.json", content)
        with pytest.raises(CorruptError, match=r"skipped\.json .* is damaged"):
            feature_set.skipped()


def test_the_recipe_stands_beside_the_first_shard_and_is_written_once(store: StoreFiles, tmp_path: Path) -> None:
    feature_set = store.set(RECIPE)
    assert store.recipes() == []
    add(feature_set, 1)
    path = tmp_path / "store" / feature_set.path / "recipe.json"
    before = path.stat().st_ino
    add(feature_set, 2)
    assert (path.read_text(), path.stat().st_ino) == (RECIPE.to_json(), before)
    assert store.recipes() == [RECIPE]
    (tmp_path / "store" / "sets" / "begun").mkdir()
    assert store.recipes() == [RECIPE]
    for name in ("0" * 32, "f" * 32):
        path.parent.rename(tmp_path / "store" / "sets" / name)
        with pytest.raises(CorruptError, match="does not match its name"):
            store.recipes()
        (tmp_path / "store" / "sets" / name).rename(path.parent)


def snapshot(number: int, dataset: str = "d") -> Snapshot:
    return Snapshot(dataset, ids_of(number), ["a"], np.array([number]), [""], None)


def test_without_the_note_the_newest_snapshot_counts_and_a_note_that_lies_is_an_error(store, tmp_path: Path) -> None:
    assert store.latest_digest("d") is None
    folder = tmp_path / "store" / "snapshots" / "d"
    for number in (1, 2, 3):
        store.save_snapshot(snapshot(number))
        made_s = time.time() + (100 if number == 2 else -100 * number)
        os.utime(folder / f"{snapshot(number).digest}.h5", (made_s, made_s))
    assert store.latest_digest("d") == snapshot(3).digest
    assert store.snapshot("d").targets.tolist() == [3]
    (folder / "latest.json").unlink()
    assert store.latest_digest("d") == snapshot(2).digest
    for content in ("{}", "[]", "{", '{"latest": "none"}', "[" * 100_000):
        (folder / "latest.json").write_text(content)
        with pytest.raises(CorruptError, match="names no snapshot that is there"):
            store.latest_digest("d")
    store.save_snapshot(snapshot(1))
    assert store.latest_digest("d") == snapshot(1).digest


def test_a_snapshot_is_written_again_only_where_it_is_damaged(store: StoreFiles, tmp_path: Path) -> None:
    store.save_snapshot(snapshot(1))
    path = tmp_path / "store" / "snapshots" / "d" / f"{snapshot(1).digest}.h5"
    whole, made = path.read_bytes(), path.stat().st_ino
    store.save_snapshot(snapshot(1))
    assert path.stat().st_ino == made
    path.write_bytes(whole[:-10])
    store.save_snapshot(snapshot(1))
    assert store.snapshot("d").digest == snapshot(1).digest


def test_a_snapshot_that_gc_removes_before_it_is_the_latest_is_written_again(store: StoreFiles, monkeypatch) -> None:
    write_bytes = type(store.storage).write_bytes

    def removed_meanwhile(self, path: str, content: bytes) -> None:
        write_bytes(self, path, content)
        self.remove(f"snapshots/d/{snapshot(1).digest}.h5")

    monkeypatch.setattr(type(store.storage), "write_bytes", removed_meanwhile)
    store.save_snapshot(snapshot(1))
    assert store.snapshot("d").digest == snapshot(1).digest


def test_a_folder_that_is_no_store_is_refused_and_an_empty_one_becomes_one(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / ".hidden").touch()
    store = StoreFiles(str(folder))
    assert sorted(path.name for path in folder.iterdir()) == [".hidden"]
    store.create()
    made = (folder / "store.json").stat().st_ino
    store.create()
    assert (folder / "store.json").stat().st_ino == made
    assert json.loads((folder / "store.json").read_text())["format"] == 1
    (folder / "store.json").unlink()
    (folder / "other").touch()
    with pytest.raises(NotAStoreError, match="holds other files"):
        StoreFiles(str(folder))
    for content in ("{", "{}", "[]", "[" * 100_000):
        (folder / "store.json").write_text(content)
        with pytest.raises(NotAStoreError, match=r"store\.json is damaged"):
            StoreFiles(str(folder))
    for version in ("2", '"1"', "null"):
        (folder / "store.json").write_text(f'{{"format": {version}}}')
        with pytest.raises(StoreFormatError, match="reads up to 1"):
            StoreFiles(str(folder))
    for version in ("1", "0"):
        (folder / "store.json").write_text(f'{{"format": {version}}}')
        StoreFiles(str(folder))


def test_the_size_of_a_store_is_that_of_its_sets_snapshots_and_heads(store: StoreFiles) -> None:
    assert store.size_bytes() == 0
    for number, top in enumerate(("sets", "snapshots", "heads", "cache")):
        store.storage.write_bytes(f"{top}/a/x", bytes(10**number))
        store.storage.write_bytes(f"{top}/b/x", bytes(10**number))
    assert store.size_bytes() == 222


def test_temporary_files_of_dead_writers_are_found_everywhere_in_a_store(store: StoreFiles, tmp_path: Path) -> None:
    places = [
        "",
        "pins",
        "heads",
        "sets",
        "snapshots",
        "cache",
        "active",
        "sets/a",
        "snapshots/a",
        "cache/a",
        "active/a",
    ]
    for place in places:
        folder = tmp_path / "store" / place
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".tmp~elsewhere~1~0~x").touch()
        day_before_s = time.time() - 2 * 24 * 3600
        os.utime(folder / ".tmp~elsewhere~1~0~x", (day_before_s, day_before_s))
    assert [store.sweep(dry_run=True), store.sweep(), store.sweep()] == [len(places), len(places), 0]


@pytest.mark.parametrize("name", ["a", "A.b-c_1", "_", "1", "a" * 100])
def test_a_name_that_any_file_system_takes_is_a_name(name: str) -> None:
    assert check_name(name, "dataset") == name


@pytest.mark.parametrize("name", ["", ".", "..", "-a", ".a", "a/b", "a b", "ä", "a\n", "a" * 101])
def test_a_name_that_could_lead_elsewhere_is_refused(store: StoreFiles, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a dataset"):
        store.latest_digest(name)
    with pytest.raises(UsageError, match="cannot be the name of a dataset"):
        store.save_snapshot(snapshot(1, name))


def test_a_store_shows_where_it_is(store: StoreFiles, tmp_path: Path) -> None:
    assert repr(store) == f"StoreFiles({str(tmp_path / 'store')!r})"
    feature_set = store.set(RECIPE)
    before = repr(feature_set)
    add(feature_set, 1)
    feature_set.index()
    assert repr(feature_set) == before
    assert repr(FeatureStore(store.url)).startswith("FeatureStore(")
