"""Which files are read again: all of which anything changed, and none else."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pytest

from featcache.identity import encoded_id
from featcache.samples.file_memo import FileMemo

from ..identity.test_content import rewritten


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file be known as soon as it is read: else files that are as new as those of tests never are."""
    monkeypatch.setattr("featcache.samples.file_memo.RACY_NS", -1)


def read(memo: FileMemo, folder: Path, *names: str) -> tuple[int, list[bytes]]:
    """Return how many of the files were read, and their ids."""
    memo.hashed = 0
    ids = memo.ids(folder, names)
    return memo.hashed, [row.tobytes() for row in ids]


def test_a_file_that_is_just_written_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    memo = FileMemo()
    assert read(memo, tmp_path, "a") == (1, [encoded_id(b"one")])
    assert read(memo, tmp_path, "a") == (1, [encoded_id(b"one")])


@pytest.mark.usefixtures("trusting")
def test_a_file_is_read_again_after_an_edit_that_keeps_size_and_modification_time(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"other")
    memo = FileMemo()
    assert read(memo, tmp_path, "a", "b")[0] == 2
    assert read(memo, tmp_path, "a", "b") == (0, [encoded_id(b"one"), encoded_id(b"other")])
    rewritten(tmp_path / "a", b"two")
    assert read(memo, tmp_path, "a", "b") == (1, [encoded_id(b"two"), encoded_id(b"other")])
    assert read(memo, tmp_path, "b", "a") == (0, [encoded_id(b"other"), encoded_id(b"two")])


@pytest.mark.parametrize("place", range(4), ids=["size", "modification time", "change time", "inode"])
@pytest.mark.usefixtures("trusting")
def test_each_part_of_a_files_state_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    (tmp_path / "a").write_bytes(b"one")
    state = [3, 10, 10, 7]
    monkeypatch.setattr("featcache.samples.file_memo._state", lambda path: tuple(state))
    memo = FileMemo()
    assert [read(memo, tmp_path, "a")[0] for _ in range(2)] == [1, 0]
    state[place] += 1
    assert [read(memo, tmp_path, "a")[0] for _ in range(2)] == [1, 0]


@pytest.mark.usefixtures("trusting")
def test_a_file_that_changes_while_it_is_read_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"one")
    numbers = iter(range(100))
    monkeypatch.setattr("featcache.samples.file_memo._state", lambda path: (3, next(numbers), 0, 7))
    memo = FileMemo()
    assert [read(memo, tmp_path, "a")[0] for _ in range(2)] == [1, 1]


@pytest.mark.usefixtures("trusting")
def test_the_memo_comes_back_from_its_bytes_and_a_folder_of_the_same_names_is_another(tmp_path: Path) -> None:
    for folder, content in (("x", b"one"), ("y", b"two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a").write_bytes(content)
    memo = FileMemo()
    first = read(memo, tmp_path / "x", "a")[1]
    again = FileMemo.from_bytes(memo.to_bytes())
    assert read(again, tmp_path / "x", "a") == (0, first)
    assert read(again, tmp_path / "y", "a") == (1, [encoded_id(b"two")])
    assert read(again, tmp_path / "x", "a") == (0, first)


def test_a_memo_that_holds_objects_or_does_not_fit_together_is_an_empty_one() -> None:
    def packed(**changes: np.ndarray) -> FileMemo:
        given = {
            "keys": np.array([b"k" * 16]),
            "states": np.zeros((1, 4), np.int64),
            "ids": np.zeros((1, 16), np.uint8),
        }
        out = io.BytesIO()
        np.savez(out, **{"version": np.array(1), **given, **changes})
        return FileMemo.from_bytes(out.getvalue() + hashlib.sha256(out.getvalue()).digest())

    assert len(packed()._keys) == 1
    for changes in (
        {"keys": np.array([object()])},
        {"keys": np.array([5])},
        {"states": np.zeros((2, 4), np.int64)},
        {"states": np.zeros((1, 3), np.int64)},
        {"ids": np.zeros((2, 16), np.uint8)},
        {"ids": np.zeros((1, 15), np.uint8)},
        {"version": np.array(2)},
        {"version": np.array(0)},
    ):
        assert len(packed(**changes)._keys) == 0, changes


@pytest.mark.usefixtures("trusting")
def test_a_file_that_cannot_be_read_has_an_id_of_its_own_until_it_can(tmp_path: Path) -> None:
    memo = FileMemo()
    count, ids = read(memo, tmp_path, "a", "b")
    assert count == 0
    assert len({*ids, bytes(16), encoded_id(b"")}) == 4
    (tmp_path / "a").write_bytes(b"one")
    assert read(memo, tmp_path, "a", "b") == (1, [encoded_id(b"one"), ids[1]])


@pytest.mark.usefixtures("trusting")
def test_parts_of_files_are_read_again_where_any_of_the_files_changed(tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("a", "b")]
    for file in files:
        Path(file).write_bytes(b"one")
    memo, parts = FileMemo(), ["0", "1", "2"]

    def content(row: int) -> bytes:
        return f"content {row}".encode()

    expected = [encoded_id(content(row)) for row in range(3)]
    assert [row.tobytes() for row in memo.part_ids(files, parts, content)] == expected
    assert memo.hashed == 3
    assert np.array_equal(memo.part_ids(files, parts[::-1], content)[::-1], memo.part_ids(files, parts, content))
    assert memo.hashed == 3
    for count, file in ((6, files[1]), (9, files[0])):
        rewritten(Path(file), b"two")
        memo.part_ids(files, parts, content)
        assert memo.hashed == count
    assert [row.tobytes() for row in memo.part_ids(files[:1], parts, content)] == expected
    assert memo.hashed == 12


def test_parts_of_files_that_are_just_written_are_read_again_though_their_modification_is_said_to_be_old(
    tmp_path: Path,
) -> None:
    for old in ("a", "b"):
        (tmp_path / old).write_bytes(b"one")
        os.utime(tmp_path / old, ns=(0, 0))
    memo, files = FileMemo(), [str(tmp_path / name) for name in ("a", "b")]
    for given, count in ((files, 1), (files, 2), (files[:1], 3), (files[:1], 4)):
        memo.part_ids(given, ["0"], lambda _: b"content")
        assert memo.hashed == count


@pytest.mark.usefixtures("trusting")
def test_what_is_forgotten_is_read_again_and_nothing_else(tmp_path: Path) -> None:
    names = ("a", "b", "c", "d")
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    memo = FileMemo()
    ids = read(memo, tmp_path, *names)[1]
    memo.hashed = 0
    memo.forget([ids[1], ids[2], encoded_id(b"none of them")])
    assert memo.hashed == 2
    assert read(memo, tmp_path, "a", "d") == (0, [ids[0], ids[3]])
    assert read(memo, tmp_path, *names) == (2, ids)
    assert read(memo, tmp_path, *names) == (0, ids)
