"""Several files as one array: every row of every part is there, whatever the sizes are."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from featcache.hdf5 import Part, StoredArray, join_arrays


def part(path: Path, offset_bytes: int, values: np.ndarray) -> Part:
    path.write_bytes(b"\xff" * offset_bytes + values.tobytes())
    return Part(path, StoredArray(offset_bytes, values.shape, values.dtype), values)


def made(folder: Path, seed: int) -> list[Part]:
    """Parts of random sizes, some of them large, some not aligned to pages."""
    random = np.random.default_rng(seed)
    kind = np.dtype(random.choice(["float32", "float16", "uint8", "int64"]))
    shape = tuple(random.integers(1, 40, random.integers(0, 3)).tolist())
    row_bytes = int(np.prod(shape, dtype=int)) * kind.itemsize
    parts = []
    for number in range(random.integers(1, 6)):
        rows = int(random.integers(1, 3 << 20) // row_bytes) + 1
        values = random.integers(0, 255, (rows, *shape)).astype(kind)
        offset = int(random.integers(1, 4)) * mmap.PAGESIZE if random.random() < 0.7 else int(random.integers(9999))
        parts.append(part(folder / f"{number}.bin", offset, values))
    return parts


@pytest.mark.parametrize("seed", range(30))
def test_parts_of_any_size_and_place_are_joined(tmp_path: Path, seed: int) -> None:
    parts = made(tmp_path, seed)
    joined, firsts = join_arrays(parts)
    for each, first in zip(parts, firsts, strict=True):
        assert np.array_equal(joined[first : first + len(each.values)], each.values)
    rows = np.concatenate([first + np.arange(len(each.values)) for each, first in zip(parts, firsts, strict=True)])
    assert len(np.unique(rows)) == sum(len(each.values) for each in parts)


def test_a_file_that_is_gone_is_copied_from_its_older_map(tmp_path: Path) -> None:
    values = np.arange(1 << 20, dtype=np.float32).reshape(-1, 64)
    parts = [part(tmp_path / f"{number}.bin", 4096, values + number) for number in range(2)]
    parts[1].path.unlink()
    joined, firsts = join_arrays(parts)
    assert np.array_equal(joined[firsts[1] : firsts[1] + len(values)], values + 1)
    assert np.array_equal(joined[firsts[0] : firsts[0] + len(values)], values)


def test_rows_of_no_bytes_and_systems_that_map_nothing_over_memory_are_served_by_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = part(tmp_path / "empty.bin", 4096, np.empty((5, 0), np.float32))
    joined, firsts = join_arrays([empty, empty])
    assert (joined.shape, firsts) == ((10, 0), [0, 5])
    parts = made(tmp_path, 3)
    monkeypatch.delattr(mmap, "MAP_ANONYMOUS")
    joined, firsts = join_arrays(parts)
    assert np.array_equal(joined, np.concatenate([each.values for each in parts]))
    assert firsts[-1] == len(joined) - len(parts[-1].values)


def test_the_memory_of_large_parts_is_that_of_their_files(tmp_path: Path) -> None:
    values = np.zeros((1 << 14, 64), np.float32)
    parts = [part(tmp_path / f"{number}.bin", 4096, values) for number in range(2)]
    joined, firsts = join_arrays(parts)
    for each, first in zip(parts, firsts, strict=True):
        with each.path.open("r+b") as file:
            file.seek(4096)
            file.write(np.float32(7).tobytes())
        assert joined[first, 0] == 7
