"""What a snapshot's digest covers, and what a file of one must be."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featcache.errors import CorruptError
from featcache.hdf5 import create_file
from featcache.samples import CodedColumn, Snapshot, TextColumn, read_snapshot, write_snapshot

IDS = np.arange(48, dtype=np.uint8).reshape(3, 16)
SNAPSHOT = Snapshot("d", IDS, ["a", "bc", ""], np.array([1, 0, 2]), ["train", "", "test"], ["x", "y", "z"])
CHANGES: dict[str, list[Any]] = {
    "ids": [IDS + np.uint8(1), IDS[::-1]],
    "names": [["a", "bd", ""], ["ab", "c", ""], ["", "a", "bc"]],
    "targets": [np.array([1, 0, 3]), np.array([1.0, 0.0, 2.0]), np.array([[1], [0], [2]])],
    "splits": [["train", "", "valid"], ["", "train", "test"]],
    "classes": [None, ["x", "y", "w"], ["y", "x", "z"], ["x", "y"]],
}


def written(folder: Path, snapshot: Snapshot, name: str | None = None) -> Path:
    path = folder / f"{name or snapshot.digest}.h5"
    write_snapshot(path, snapshot)
    return path


def test_the_digest_of_a_snapshot_stays_what_it_is() -> None:
    assert SNAPSHOT.digest == "4aa36e70f0e6a103a7248d23d8086c8e"
    assert len(SNAPSHOT) == 3
    assert (type(SNAPSHOT.names), type(SNAPSHOT.splits)) == (TextColumn, CodedColumn)


def test_the_digest_covers_all_that_a_snapshot_holds_but_the_datasets_name() -> None:
    changed = [replace(SNAPSHOT, **{name: value}) for name, values in CHANGES.items() for value in values]
    assert len({SNAPSHOT.digest, *(each.digest for each in changed)}) == 1 + len(changed)
    assert replace(SNAPSHOT, dataset="e").digest == SNAPSHOT.digest


def test_a_snapshot_comes_back_from_its_file(tmp_path: Path) -> None:
    again = read_snapshot(written(tmp_path, SNAPSHOT))
    assert (again.dataset, again.digest) == ("d", SNAPSHOT.digest)
    assert (list(again.names), list(again.splits), list(again.classes or [])) == (
        ["a", "bc", ""],
        ["train", "", "test"],
        ["x", "y", "z"],
    )
    assert np.array_equal(again.ids, IDS)
    assert again.targets.tolist() == [1, 0, 2]
    assert read_snapshot(written(tmp_path, replace(SNAPSHOT, classes=None))).classes is None


def test_a_snapshot_cannot_be_changed_since_its_digest_is_computed_once() -> None:
    with pytest.raises(FrozenInstanceError):
        SNAPSHOT.dataset = "e"  # type: ignore[misc]


def unaligned() -> list[Snapshot]:
    return [
        replace(SNAPSHOT, ids=IDS[:2]),
        replace(SNAPSHOT, names=["a", "b"]),
        replace(SNAPSHOT, targets=np.arange(2)),
        replace(SNAPSHOT, splits=["train"] * 4),
        replace(SNAPSHOT, ids=np.zeros((3, 17), np.uint8)),
        replace(SNAPSHOT, ids=np.zeros((3, 15), np.uint8)),
    ]


@pytest.mark.parametrize("number", range(6))
def test_a_snapshot_whose_parts_do_not_fit_is_refused_though_its_name_does(tmp_path: Path, number: int) -> None:
    with pytest.raises(CorruptError, match="does not match its name"):
        read_snapshot(written(tmp_path, unaligned()[number]))


def test_a_snapshot_of_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match="does not match its name"):
        read_snapshot(written(tmp_path, SNAPSHOT, "0" * 32))


def test_a_snapshot_whose_notes_are_nested_beyond_measure_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with create_file(path, {"format": "featcache-snapshot-1", "dataset": "d", "notes": "[" * 60_000}):
        pass
    with pytest.raises(CorruptError, match=r"notes are nested beyond measure\. Delete the file"):
        read_snapshot(path)


@pytest.mark.parametrize(
    ("least", "most", "dtype"),
    [
        *((0, 255, np.uint8), (0, 256, np.int16), (-1, 0, np.int16), (-(1 << 15), 0, np.int16), (0, 1 << 15, np.int32)),
        *((0, (1 << 31) - 1, np.int32), (0, 1 << 31, np.int64), (-(1 << 31) - 1, 0, np.int64)),
    ],
)
def test_maps_of_classes_take_the_smallest_type_that_holds_them(least: int, most: int, dtype: type) -> None:
    maps = np.full((3, 2, 2), least)
    maps[1, 1, 1] = most
    made = replace(SNAPSHOT, targets=maps)
    assert made.targets.dtype == dtype
    assert np.array_equal(made.targets, maps)


def test_only_maps_of_whole_numbers_are_narrowed() -> None:
    for targets in (np.zeros((3, 2), np.int64), np.zeros((3, 2, 2)), np.zeros((3, 2, 2), bool)):
        assert replace(SNAPSHOT, targets=targets).targets is targets
    assert replace(SNAPSHOT, targets=np.zeros((0, 2, 2), np.int64)).targets.dtype == np.uint8
