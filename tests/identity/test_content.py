"""Ids of files, and what is known of files that are not read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from featcache.identity import encoded_id, file_id, states


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_the_id_of_a_file_is_that_of_all_of_its_content(tmp_path: Path, size: int) -> None:
    content = bytes(size)
    (tmp_path / "a").write_bytes(content)
    assert file_id(tmp_path / "a") == encoded_id(content)
    (tmp_path / "a").write_bytes(content + b"x")
    assert file_id(tmp_path / "a") == encoded_id(content + b"x") != encoded_id(content)


def rewritten(path: Path, content: bytes) -> None:
    """Write content of the same size, and set the time of modification back; only the time of change tells."""
    before = path.stat()
    assert len(content) == before.st_size
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        path.write_bytes(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_the_state_of_a_file_changes_where_its_times_are_set_back(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    before = states([path])
    assert states([path]) == before
    rewritten(path, b"two")
    assert states([path]) != before


def test_the_states_of_files_come_in_one_order_each_once_and_a_missing_one_has_none(tmp_path: Path) -> None:
    one, other = tmp_path / "a", tmp_path / "b"
    one.write_bytes(b"four")
    found = states([other, one, one])
    state = one.stat()
    assert found == [[str(one), 4, state.st_mtime_ns, state.st_ctime_ns, state.st_ino], [str(other)]]
