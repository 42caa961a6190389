from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from featcache import FeatureStore
from featcache.errors import CorruptError, DataError, StaleError
from featcache.identity import content_id
from featcache.samples.samples import Samples
from featcache.samples.snapshot import Snapshot

names = st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=12), min_size=1, max_size=20)


def snapshot(labels: list[str], targets: np.ndarray | None = None) -> Snapshot:
    count = len(labels)
    ids = np.random.default_rng(0).integers(0, 256, (count, 16), dtype=np.uint8)
    return Snapshot(
        "photos",
        ids,
        labels,
        np.arange(count) if targets is None else targets,
        ["train", "test"] * count,
        ["a", "b"],
    )


@settings(max_examples=40, deadline=None)
@given(names)
def test_a_snapshot_comes_back_as_it_was_whatever_the_names(tmp_path_factory: pytest.TempPathFactory, labels) -> None:
    made = snapshot(labels)
    made = Snapshot(made.dataset, made.ids, made.names, made.targets, made.splits[: len(labels)], made.classes)
    store = FeatureStore(str(tmp_path_factory.mktemp("store") / "s"))
    store.create()
    store.save_snapshot(made)
    back = store.snapshot("photos")
    assert back.digest == made.digest
    assert list(back.names) == labels
    assert np.array_equal(back.ids, made.ids)
    assert np.array_equal(back.targets, made.targets)
    assert list(back.splits) == list(made.splits)
    assert back.classes == ["a", "b"]


def test_the_latest_snapshot_is_the_one_saved_last_even_if_it_was_there_before(tmp_path) -> None:
    store = FeatureStore(str(tmp_path / "s"))
    store.create()
    first = Snapshot("d", np.zeros((1, 16), np.uint8), ["a"], np.zeros(1), [""], None)
    second = Snapshot("d", np.ones((1, 16), np.uint8), ["a"], np.zeros(1), [""], None)
    for each in (first, second, first):
        store.save_snapshot(each)
    assert store.snapshot("d").digest == first.digest


def test_an_edited_snapshot_is_refused(tmp_path) -> None:
    store = FeatureStore(str(tmp_path / "s"))
    store.create()
    made = Snapshot("d", np.zeros((1, 16), np.uint8), ["photo-1"], np.zeros(1), [""], None)
    store.save_snapshot(made)
    path = tmp_path / "s" / "snapshots" / "d" / f"{made.digest}.h5"
    path.write_bytes(path.read_bytes().replace(b"photo-1", b"photo-2"))
    with pytest.raises(CorruptError, match="does not match its name"):
        store.snapshot("d")


def test_a_dataset_without_snapshot_says_which_there_are(tmp_path) -> None:
    store = FeatureStore(str(tmp_path / "s"))
    store.create()
    store.save_snapshot(Snapshot("known", np.zeros((1, 16), np.uint8), ["a"], np.zeros(1), [""], None))
    with pytest.raises(StaleError, match="it holds: known"):
        store.snapshot("other")


@pytest.mark.parametrize(
    ("targets", "kept"),
    [
        (np.linspace(0, 1, 6), np.float64),
        (np.linspace(0, 1, 12, dtype=np.float32).reshape(6, 2), np.float32),
        (np.eye(6, dtype=np.int64), np.int64),
        (np.eye(6, dtype=bool), np.bool_),
        (np.arange(6 * 4 * 5, dtype=np.int64).reshape(6, 4, 5) % 256, np.uint8),
        (np.full((6, 4, 5), -100, dtype=np.int64), np.int16),
    ],
)
def test_targets_of_every_kind_come_back_as_they_were_and_maps_take_little_room(tmp_path, targets, kept) -> None:
    made = snapshot(list("abcdef"), targets)
    made = Snapshot(made.dataset, made.ids, made.names, made.targets, made.splits[:6], made.classes)
    store = FeatureStore(str(tmp_path / "s"))
    store.create()
    store.save_snapshot(made)
    back = store.snapshot("photos")
    assert np.array_equal(back.targets, targets)
    assert back.targets.dtype == made.targets.dtype == kept
    assert back.digest == made.digest


class LargeItems:
    """Items that take long to hash, a few of which cannot be read, or only once they are decoded."""

    def __init__(self, folder: Path) -> None:
        self.values = np.random.default_rng(0).normal(size=(70, 50_000))
        self.cut_short = folder / "cut.png"
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(self.cut_short)
        self.cut_short.write_bytes(self.cut_short.read_bytes()[:-40])
        self.callers: set[int] = set()

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> tuple[object, int]:
        self.callers.add(threading.get_ident())
        if index == 40:
            raise OSError("gone")
        return (Image.open(self.cut_short) if index == 65 else self.values[index]), index


def test_large_items_get_the_ids_of_their_content_and_are_fetched_by_the_calling_thread_alone(tmp_path: Path) -> None:
    dataset = LargeItems(tmp_path)
    samples = Samples(dataset)
    taken = samples.snapshot(skip_unreadable=True)
    read = [index for index in range(70) if index not in (40, 65)]
    assert [each.position for each in samples.unreadable] == [40, 65]
    assert taken.targets.tolist() == read
    assert [row.tobytes() for row in taken.ids] == [content_id(dataset.values[index]) for index in read]
    assert dataset.callers == {threading.get_ident()}
    with pytest.raises(DataError, match="item 40 of"):
        Samples(dataset).snapshot()


class OneBuffer:
    """Items in one buffer that the next one overwrites, as a reader of a stream may have them."""

    def __init__(self) -> None:
        self.buffer = np.zeros(50_000)

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        self.buffer[:] = index
        return self.buffer, index


def test_an_item_is_hashed_before_the_next_one_is_fetched() -> None:
    taken = Samples(OneBuffer()).snapshot()
    assert [row.tobytes() for row in taken.ids] == [content_id(np.full(50_000, float(index))) for index in range(40)]
