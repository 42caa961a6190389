"""Rows and steps of arrays in memory, and the runs of them that share a checksum."""

from __future__ import annotations

import numpy as np
import pytest

from featcache.hdf5 import gather


@pytest.mark.parametrize("rows", [[4], [-1], [0, 4], [2, -1, 0], [1 << 40]])
def test_a_row_that_is_not_there_is_never_taken_for_another(rows: list[int]) -> None:
    values = np.arange(8.0).reshape(4, 2)
    with pytest.raises(IndexError, match="of 4"):
        gather(values, np.array(rows))
    with pytest.raises(IndexError, match="of 4"):
        gather(values, np.array(rows), np.empty((len(rows), 2)))


def test_rows_are_gathered_in_the_order_that_is_asked_for() -> None:
    values = np.arange(8.0).reshape(4, 2)
    rows = np.array([3, 0, 3])
    out = np.empty((3, 2))
    assert gather(values, rows, out) is out
    assert gather(values, rows).tolist() == out.tolist() == [[6, 7], [0, 1], [6, 7]]
    assert gather(values, np.array([], int)).shape == (0, 2)
