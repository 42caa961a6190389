"""Where rows lie: each is found by sample and view, whatever its hash, and a file that lies is never read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featcache.store.row_index import FORMAT, STEPS, RowIndex, RowKeys, claim_keys, first_rows, row_keys


def ids_of(*numbers: int) -> np.ndarray:
    """Return ids that differ in every byte."""
    return np.stack([np.random.default_rng(number).integers(0, 256, 16, dtype=np.uint8) for number in numbers])


def found(index: RowIndex, ids: np.ndarray, views: np.ndarray | int = 0) -> list[tuple[bool, int, int]]:
    present, shards, rows = index.find(ids, views)
    assert index.has(ids, views).tolist() == present.tolist()
    return list(zip(present.tolist(), shards.tolist(), rows.tolist(), strict=True))


def test_the_hash_of_a_row_stays_what_it_is_since_kept_indexes_hold_it() -> None:
    keys = row_keys(np.arange(32, dtype=np.uint8).reshape(2, 16), np.array([0, 5]))
    assert [hex(number) for number in keys.hashes.tolist()] == ["0x9c55f3250c13fc78", "0xdd9d41e3de0174d9"]
    assert keys.halves.tolist() == np.arange(32, dtype=np.uint8).view("<u8")[1::2].tolist()
    assert (keys.views.tolist(), keys.views.dtype) == ([0, 5], np.dtype("<u4"))


def test_of_equal_rows_in_several_shards_the_first_counts() -> None:
    index = RowIndex.build([row_keys(ids_of(1, 2)), row_keys(ids_of(3, 2, 1)), row_keys(ids_of(4))])
    assert found(index, ids_of(1, 2, 3, 4, 5)) == [
        (True, 0, 0), (True, 0, 1), (True, 1, 0), (True, 2, 0), (False, 0, 0)
    ]  # fmt: skip
    assert len(index) == 4
    within = RowIndex.build([row_keys(ids_of(1, 2, 1))])
    assert (found(within, ids_of(1)), len(within)) == ([(True, 0, 0)], 2)


def test_each_view_of_a_sample_is_a_row_of_its_own() -> None:
    index = RowIndex.build([row_keys(ids_of(1, 1, 2), np.array([1, 2, 1]))])
    assert len(index) == 3
    assert found(index, ids_of(1, 1, 1, 2), np.array([2, 0, 1, 2])) == [
        (True, 0, 1), (False, 0, 0), (True, 0, 0), (False, 0, 0)
    ]  # fmt: skip
    assert found(index, ids_of(2), 1) == [(True, 0, 2)]


def test_in_an_index_of_nothing_nothing_is_found() -> None:
    for index in (RowIndex.build([]), RowIndex.build([RowKeys.none()])):
        assert (len(index), found(index, ids_of(1))) == (0, [(False, 0, 0)])
        assert index.find(ids_of(1)[:0])[0].shape == (0,)
    assert RowIndex.build([]).keys_of(0) == []


def colliding(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and views of so many rows of one hash, each of which is another row."""
    views = np.arange(count)
    ids = np.repeat(ids_of(1), count, axis=0)
    factor = 0xC2B2AE3D27D4EB4F
    words = ids.view("<u8")
    words[:, 0] ^= np.array([(view * factor) & (1 << 64) - 1 for view in range(count)], "<u8")
    assert len(set(row_keys(ids, views).hashes.tolist())) == 1
    return ids, views


def test_rows_of_one_hash_are_told_apart_however_many_there_are() -> None:
    ids, views = colliding(3 * STEPS)
    others = ids_of(*range(2, 40))
    index = RowIndex.build([row_keys(others), row_keys(ids[:-1], views[:-1])])
    assert len(index) == len(others) + len(ids) - 1
    assert found(index, ids[:-1], views[:-1]) == [(True, 1, row) for row in range(len(ids) - 1)]
    assert found(index, ids[-1:], views[-1:]) == [(False, 0, 0)]
    without = RowIndex.build([row_keys(ids[1:], views[1:])])
    assert found(without, ids[:1], views[:1]) == [(False, 0, 0)]
    assert found(index, others) == [(True, 0, row) for row in range(len(others))]


def test_rows_of_neighbouring_hashes_are_found_however_far_their_part_goes() -> None:
    rows = 5 * STEPS
    hashes = np.arange(rows, dtype="<u8") * 2 + 10  # all in the first part
    columns = (np.zeros(rows, "<u8"), np.zeros(rows, "<u4"), np.zeros(rows, np.int32), np.arange(rows, dtype=np.int32))
    index = RowIndex(hashes, *columns, rows)
    asked = np.arange(0, 2 * rows + 30, dtype="<u8")
    present, places = index._places(RowKeys(asked, np.zeros(len(asked), "<u8"), np.zeros(len(asked), "<u4")))
    assert present.tolist() == [int(hash_) in set(hashes.tolist()) for hash_ in asked]
    assert places[present].tolist() == list(range(rows))


def test_the_keys_of_each_shard_come_back_in_the_order_of_its_rows() -> None:
    parts = [
        row_keys(ids_of(5, 3), np.array([1, 0])),
        row_keys(ids_of()[:0]) if False else RowKeys.none(),
        row_keys(ids_of(9, 1)),
    ]
    expected = [[column.tolist() for column in part] for part in parts]
    index = RowIndex.build(list(parts))
    assert [[column.tolist() for column in part] for part in index.keys_of(3)] == expected
    assert [len(part.hashes) for part in index.keys_of(4)] == [2, 0, 2, 0]


def test_the_first_of_equal_ids_are_told() -> None:
    assert first_rows(ids_of(1, 2, 3)).tolist() == [0, 1, 2]
    assert first_rows(ids_of(2, 1, 2, 1, 3, 2)).tolist() == [0, 1, 4]
    assert first_rows(np.zeros((3, 16), np.uint8)).tolist() == [0]
    assert first_rows(ids_of(1)[:0]).tolist() == []
    ids, _ = colliding(2)
    halves = np.concatenate([ids[:1], ids_of(7), ids[:1]])
    assert first_rows(halves).tolist() == [0, 1]


def test_ids_that_end_in_zeros_are_told_apart() -> None:
    ids = np.zeros((3, 16), np.uint8)
    ids[1, 0], ids[2, 15] = 1, 1
    assert first_rows(np.concatenate([ids, ids])).tolist() == [0, 1, 2]


def test_rows_are_claimed_by_their_sample_and_view(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = ids_of(1, 2)
    rows = np.array([[1, 0], [0, 258], [1, 1]])
    expected = [ids[row].tobytes() + view.to_bytes(4, "big") for row, view in rows.tolist()]
    for piece in (1, 2, 100):
        monkeypatch.setattr("featcache.store.row_index.PIECE", piece)
        assert [key.ljust(20, b"\0") for key in claim_keys(ids, rows).tolist()] == expected


def test_many_rows_are_looked_for_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featcache.store.row_index.PIECE", 7)
    views = np.arange(50) % 3
    index = RowIndex.build([row_keys(ids_of(*range(40)), views[:40])])
    assert found(index, ids_of(*range(50)), views) == [(row < 40, 0, row if row < 40 else 0) for row in range(50)]
    assert [present for present, _, _ in found(index, ids_of(*range(50)))] == [
        row < 40 and row % 3 == 0 for row in range(50)
    ]


@pytest.fixture
def kept(tmp_path: Path) -> tuple[RowIndex, Path]:
    index = RowIndex.build([row_keys(ids_of(1, 2, 1), np.array([0, 0, 4])), row_keys(ids_of(2, 3))])
    index.write(tmp_path / "index", ["a.h5", "b.h5"])
    return index, tmp_path / "index"


def test_an_index_comes_back_from_its_file(kept: tuple[RowIndex, Path]) -> None:
    index, path = kept
    read = RowIndex.read(path)
    assert read is not None
    assert (read[1], len(read[0])) == (["a.h5", "b.h5"], 4)
    assert found(read[0], ids_of(1, 2, 3)) == found(index, ids_of(1, 2, 3))
    assert found(read[0], ids_of(1), 4) == [(True, 0, 2)]
    line = path.read_bytes().partition(b"\n")[0]
    assert (len(line) + 1) % 64 == 0


def test_an_index_that_is_damaged_or_lies_is_none(kept: tuple[RowIndex, Path]) -> None:
    index, path = kept
    head, _, content = path.read_bytes().partition(b"\n")
    said = json.loads(head)
    for change in (
        {"format": FORMAT + "x"},
        {"rows": said["rows"] - 1},
        {"rows": -1},
        {"rows": "many"},
        {"rows": 1 << 62},
        {"digest": "0" * 32},
        {"shards": 5},
    ):
        path.write_bytes(json.dumps({**said, **change}).encode() + b"\n" + content)
        assert RowIndex.read(path) is None, change
    for damaged in (content[:-1], content + b"\0", bytes([content[0] ^ 1]) + content[1:], b""):
        path.write_bytes(head + b"\n" + damaged)
        assert RowIndex.read(path) is None
    for name in said:
        path.write_bytes(
            json.dumps({key: value for key, value in said.items() if key != name}).encode() + b"\n" + content
        )
        assert RowIndex.read(path) is None, name
    for shards in (index.shards + 1, index.shards - 1):
        replace(index, shards=shards.astype(np.int32)).write(path, ["a.h5", "b.h5"])
        assert RowIndex.read(path) is None
    index.write(path, ["a.h5", "b.h5"])
    assert RowIndex.read(path) is not None
    path.unlink()
    assert RowIndex.read(path) is None


def test_an_empty_index_is_kept_too(tmp_path: Path) -> None:
    RowIndex.build([]).write(tmp_path / "index", [])
    read = RowIndex.read(tmp_path / "index")
    assert read is None or (len(read[0]), read[1]) == (0, [])
