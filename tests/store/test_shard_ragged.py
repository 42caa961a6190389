"""Shards of samples that vary in length: which blocks of steps hold a row, and which rows lie in a block."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from featcache import Recipe, TensorSpec
from featcache.errors import CorruptError
from featcache.hdf5 import Ragged
from featcache.store.shard import Shard
from featcache.store.shard_writer import write_shard

BLOCK_STEPS = 64 * 1024  # of four bytes
LENGTHS = (10, 2 * BLOCK_STEPS + 100, 0, BLOCK_STEPS - 110, 5)
RECIPE = Recipe("0", "structure", {"w": "1"}, (TensorSpec("0", (None,), "float32"),), None, {})


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Rows of which the second lies in three blocks, the fourth ends with the third one, and the last is all of the fourth."""
    ids = np.random.default_rng(0).integers(0, 256, (len(LENGTHS), 16), dtype=np.uint8)
    values = np.random.default_rng(1).normal(size=sum(LENGTHS)).astype(np.float32)
    ragged = Ragged(values, np.cumsum(LENGTHS, dtype="<i8"))
    digest = write_shard(tmp_path / "new", RECIPE, ids, np.zeros(len(LENGTHS), "<u4"), {"0": ragged}, {})
    return (tmp_path / "new").rename(tmp_path / f"{digest}.h5")


def flip(path: Path, step: int) -> None:
    """Flip a bit of a step of a shard."""
    content = bytearray(path.read_bytes())
    start = content.index(np.asarray(Shard.open(path, RECIPE).features["0"])[:100].tobytes())
    content[start + 4 * step] ^= 1
    path.write_bytes(content)


ENDS = np.cumsum(LENGTHS).tolist()


@pytest.mark.parametrize(
    ("step", "sharing", "block"),
    [
        (0, {0, 1}, (0, 2)),
        (BLOCK_STEPS - 1, {0, 1}, (0, 2)),
        (BLOCK_STEPS, {1}, (1, 2)),
        (2 * BLOCK_STEPS - 1, {1}, (1, 2)),
        (2 * BLOCK_STEPS, {1, 3}, (1, 4)),
        (ENDS[1], {1, 3}, (1, 4)),
        (ENDS[3] - 1, {1, 3}, (1, 4)),
        (ENDS[3], {4}, (4, 5)),
        (ENDS[4] - 1, {4}, (4, 5)),
    ],
)
def test_damage_is_noticed_by_each_row_that_shares_a_block_with_it_and_by_no_other(
    shard: Path, step: int, sharing: set[int], block: tuple[int, int]
) -> None:
    flip(shard, step)
    assert Shard.open(shard, RECIPE).damaged_rows() == [block]
    for row in (0, 1, 3, 4):
        opened = Shard.open(shard, RECIPE)
        if row not in sharing:
            opened.check(np.array([row]))
            continue
        with pytest.raises(CorruptError, match=f"rows {block[0]} to {block[1] - 1}"):
            opened.check(np.array([row]))


def test_several_rows_are_checked_at_once(shard: Path) -> None:
    flip(shard, ENDS[3])
    opened = Shard.open(shard, RECIPE)
    opened.check(np.array([0, 1, 2, 3]))
    with pytest.raises(CorruptError, match="rows 4 to 4"):
        opened.check(np.array([1, 4]))
    with pytest.raises(CorruptError, match="rows 4 to 4"):
        opened.check()
