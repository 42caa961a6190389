"""Columns of texts read like lists of str."""

from __future__ import annotations

import numpy as np
import pytest

from featcache.samples import CodedColumn, TextColumn

TEXTS = ["b", "", "äö", "b", "a\udc80c", "b"]


@pytest.fixture(params=[TextColumn, CodedColumn])
def kind(request: pytest.FixtureRequest) -> type[TextColumn | CodedColumn]:
    return request.param


def test_a_column_reads_like_a_list(kind) -> None:
    column = kind.of(TEXTS)
    assert len(column) == 6
    assert list(column) == TEXTS
    assert [column[index] for index in range(-6, 6)] == TEXTS * 2
    for index in (6, -7):
        with pytest.raises(IndexError, match="of 6"):
            column[index]
    assert list(column[1:5:2]) == TEXTS[1:5:2]
    assert list(column.take(np.array([4, 0, 4]))) == [TEXTS[4], "b", TEXTS[4]]
    assert kind.of(column) is column
    assert list(kind.of([])) == []


def test_columns_equal_sequences_of_the_same_texts(kind) -> None:
    column = kind.of(TEXTS)
    for same in (TEXTS, tuple(TEXTS), TextColumn.of(TEXTS), CodedColumn.of(TEXTS)):
        assert column == same
    for other in (TEXTS[:-1], [*TEXTS, "b"], [*TEXTS[:-1], "c"], "b", 5):
        assert column != other
    assert kind.of(["a", "b"]) != "ab"
    with pytest.raises(TypeError, match="unhashable"):
        hash(column)


def test_a_column_shows_its_first_texts(kind) -> None:
    assert repr(kind.of(["a", "b", "c", "d"])) == f"{kind.__name__}('a', 'b', 'c', …; 4)"
    assert repr(kind.of(["a", "b", "c"])) == f"{kind.__name__}('a', 'b', 'c'; 3)"


def test_texts_come_in_their_order_over_many_pieces(kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featcache.samples.columns.PIECE", 2)
    assert list(kind.of(TEXTS)) == TEXTS


def test_a_part_of_a_column_is_packed_anew() -> None:
    whole = TextColumn.of(TEXTS)
    part = TextColumn.of(whole[2:4])
    assert (part.content.tobytes(), part.ends.tolist()) == ("äöb".encode(), [4, 5])
    assert TextColumn.of(part) is part


@pytest.mark.parametrize("ends", [[1, 4], [4, 3], [-1, 3], [3, 1, 3], []])
def test_ends_that_do_not_rise_to_the_end_of_the_text_are_refused(ends: list[int]) -> None:
    with pytest.raises(ValueError, match="do not rise"):
        TextColumn.packed(np.frombuffer(b"abc", np.uint8), np.array(ends, np.int64))
    assert list(TextColumn.packed(np.frombuffer(b"abc", np.uint8), np.array([0, 2, 2, 3]))) == ["", "ab", "", "c"]


def test_where_a_text_begins_and_ends_takes_four_bytes() -> None:
    assert TextColumn.of(TEXTS).ends.dtype == np.uint32


def test_texts_of_which_few_differ_are_numbers_of_sorted_texts() -> None:
    column = CodedColumn.of(["x", "a", "x", "m"])
    assert (column.table, column.codes.tolist(), column.codes.dtype) == (("a", "m", "x"), [2, 0, 2, 1], np.uint8)
    assert column.array().tolist() == ["x", "a", "x", "m"]
    assert column.among(["x", "m", "other"]).tolist() == [True, False, True, True]
    assert column.among([]).tolist() == [False] * 4
    given = CodedColumn(np.array([3, 1, 3]), ["unused", "z", "unused too", "a"])
    assert (given.table, given.codes.tolist()) == (("a", "z"), [0, 1, 0])
    twice = CodedColumn(np.array([0, 1]), ["a", "a"])
    assert (twice.table, twice.codes.tolist()) == (("a",), [0, 0])


def test_numbers_take_a_byte_while_they_fit() -> None:
    texts = [f"{number:03}" for number in range(257)]
    assert CodedColumn.of(texts[:256]).codes.dtype == np.uint8
    assert CodedColumn.of(texts).codes.dtype == np.int32
    assert list(CodedColumn.of(texts)) == texts


def test_a_number_without_a_text_or_for_no_text_is_refused() -> None:
    with pytest.raises(IndexError):
        CodedColumn(np.array([0, 2]), ["a", "b"])
    with pytest.raises(TypeError, match="not text"):
        CodedColumn(np.array([0, 1]), ["a", 5])
