from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featcache
from featcache import FeatureStore, Recipe, TensorSpec
from featcache.errors import DataError
from featcache.features.features import Features
from featcache.samples.columns import CodedColumn, TextColumn
from featcache.samples.samples import Samples
from featcache.samples.snapshot import Snapshot, read_snapshot, write_snapshot
from featcache.store.row_index import RowIndex, first_rows, row_keys

from .conftest import TensorPairs

ROWS = 100_000


class Numbers:
    """Samples that take no memory themselves."""

    name = "numbers"

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, position: int) -> tuple[Any, int]:
        return position, position % 1000

    def sample_id(self, position: int) -> bytes:
        return position.to_bytes(16, "little")


@contextmanager
def traced() -> Iterator[Callable[[], tuple[float, float]]]:
    """Give a function that returns the bytes a row that are held since, and that were held at most."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    try:
        yield lambda: tuple((each - before) / ROWS for each in tracemalloc.get_traced_memory())
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_taking_stock_of_a_dataset_holds_ids_targets_and_names_and_little_more(tmp_path: Path) -> None:
    with traced() as held_bytes:
        samples = Samples(Numbers())
        made = samples.snapshot()
        held, most = held_bytes()
        assert held < 16 + 8 + 8 + (5 + 4) + 1 + 3  # id, target, position, name and its end, split
        assert most < 80
    with traced() as held_bytes:
        write_snapshot(tmp_path / f"{made.digest}.h5", made)
        assert held_bytes()[1] < 30
    with traced() as held_bytes:
        back = read_snapshot(tmp_path / f"{made.digest}.h5")
        held, most = held_bytes()
        assert held < 16 + 8 + (5 + 4) + 1 + 3
        assert most < 60
    assert list(back.names) == [str(number) for number in range(ROWS)]


def test_an_index_takes_28_bytes_a_row_and_rows_are_looked_up_in_little_more() -> None:
    ids = np.random.default_rng(0).integers(0, 256, (ROWS, 16), dtype=np.uint8)
    RowIndex.build([row_keys(ids[:9])])  # what numpy imports at its first use does not count
    with traced() as held_bytes:
        index = RowIndex.build([row_keys(ids[start : start + 1000]) for start in range(0, ROWS, 1000)])
        held, most = held_bytes()
        assert held < 28 + 1
        assert most < 70
    with traced() as held_bytes:
        assert index.has(ids).all()
        assert held_bytes()[1] < 25
    with traced() as held_bytes:
        assert len(first_rows(ids)) == ROWS
        assert held_bytes()[1] < 30


def test_features_hold_where_their_rows_are_and_not_where_all_rows_of_the_set_are(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 256, (ROWS, 16), dtype=np.uint8)
    store = FeatureStore(str(tmp_path / "s"))
    store.create()
    recipe = Recipe("cut", "structure", {}, (TensorSpec("cut", (1,), "float32"),), None, {})
    for start in range(0, ROWS, 10_000):
        part = ids[start : start + 10_000]
        store.set(recipe).add(part, np.zeros(len(part), "<u4"), {"cut": part[:, :1].astype(np.float32)}, {})
    made = Snapshot("d", ids, map(str, range(ROWS)), np.zeros(ROWS), [""] * ROWS)
    Features.join(store.set(recipe), made)  # what is imported at its first use does not count
    with traced() as held_bytes:
        features = Features.join(store.set(recipe), made)
        held, most = held_bytes()
        assert held < 1 + 4 + 4 + 8 + 1  # is it there, in which shard, where in it; and which of the samples it is
        assert most < 90
    assert np.array_equal(features.numpy()[0][:, 0], ids[:, 0])
    assert features.names == [str(number) for number in range(ROWS)]


@pytest.mark.parametrize("texts", [[], [""], ["a", "", "straße", "\udcff", "a"], [str(each) for each in range(40_000)]])
def test_a_column_reads_like_the_list_of_its_texts(texts: list[str]) -> None:
    for column in (TextColumn.of(texts), CodedColumn.of(texts)):
        for each in (column, pickle.loads(pickle.dumps(column))):
            assert each == texts
            assert list(each) == texts
            assert len(each) == len(texts)
            assert each != [*texts, "more"]
            assert each[1:3] == texts[1:3]
            assert each[::-1][:5] == texts[::-1][:5]
            if texts:
                assert (each[0], each[-1]) == (texts[0], texts[-1])
            with pytest.raises(IndexError):
                each[len(texts)]
    rows = np.arange(len(texts))[::2]
    part = TextColumn.of(texts).take(rows)
    assert part == texts[::2]
    assert TextColumn.of(part).content.tobytes() == "".join(texts[::2]).encode("utf-8", "surrogateescape")
    coded = CodedColumn.of(texts)
    assert coded.take(rows).array().tolist() == texts[::2]
    assert coded.among(["a", "none"]).tolist() == [text == "a" for text in texts]
    assert list(coded.table) == sorted(set(texts))


def test_splits_whose_table_is_not_sorted_or_names_more_than_occur_are_the_same_splits(tmp_path: Path) -> None:
    ids = np.zeros((3, 16), np.uint8)
    plain = Snapshot("d", ids, ["a", "b", "c"], np.zeros(3), ["x", "y", "x"])
    coded = CodedColumn(np.array([2, 0, 2]), ["y", "unused", "x"])
    assert Snapshot("d", ids, ["a", "b", "c"], np.zeros(3), coded).digest == plain.digest
    store = FeatureStore(str(tmp_path / "s"))
    store.create()
    store.save_snapshot(plain)
    assert list(store.snapshot("d").splits) == ["x", "y", "x"]


@pytest.mark.parametrize("target", [1 << 70, "ant"])
def test_targets_that_are_no_numbers_of_64_bits_are_refused(made, pairs, tmp_path, target) -> None:
    class Odd(TensorPairs):
        def __getitem__(self, index):
            return self.inputs[index], target

    with pytest.raises(DataError, match="not numbers"):
        featcache.extract(made, Odd(pairs.inputs, pairs.targets_of), str(tmp_path / "s"))
