"""Where in the shards of a set each row lies: rows are found by the id of their sample and their view."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

__all__ = ["PIECE", "RowIndex", "RowKeys", "claim_keys", "first_rows", "row_keys"]

FORMAT = "featcache-index-3"
COLUMNS = ("<u8", "<u8", "<u4", "<i4", "<i4")
ALIGNMENT_BYTES = 64
MAX_HEAD_BYTES = 1 << 26
MAX_PARTS_BITS = 24
STEPS = 16  # from the beginning of a part; what lies farther in is searched for
PIECE = 1 << 14  # rows that are looked for at once: what that takes stays in the processor's cache
HALF_FACTOR, VIEW_FACTOR, FACTOR = (
    np.uint64(each) for each in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93)
)

Array = np.ndarray[Any, Any]


class RowKeys(NamedTuple):
    """What tells rows apart: a hash, the second half of the sample's id, and the view.

    The first half of the id follows from these, since each step of the hash can be undone: equal keys are equal rows.
    """

    hashes: Array
    halves: Array
    views: Array

    @classmethod
    def none(cls) -> RowKeys:
        """Return the keys of no rows."""
        return cls(np.empty(0, "<u8"), np.empty(0, "<u8"), np.empty(0, "<u4"))


def row_keys(ids: Array, views: Array | int = 0) -> RowKeys:
    """Return the keys of rows by their sample ids (n, 16) and views."""
    words = np.ascontiguousarray(ids).view("<u8")
    numbers = np.broadcast_to(np.asarray(views, dtype="<u4"), len(words))
    return RowKeys(_hashes(words, numbers), words[:, 1].copy(), numbers)


def first_rows(ids: Array) -> Array:
    """Return the positions at which a sample id (n, 16) occurs for the first time, rising."""
    hashes = _hashes(np.ascontiguousarray(ids).view("<u8"), np.uint32(0))
    ordered = np.sort(hashes)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(repeated):
        return np.arange(len(ids))
    tied = np.flatnonzero(np.isin(hashes, repeated))
    # Byte strings of one width compare exactly: what numpy strips from their ends could only be equal zeros.
    _, first = np.unique(np.ascontiguousarray(ids[tied]).view("S16").reshape(-1), return_index=True)
    return np.delete(np.arange(len(ids)), np.delete(tied, first))


def _hashes(words: Array, views: Array | np.uint32) -> Array:
    """Return a number for each key, spread over all numbers also where a dataset declares ids that are not."""
    hashes: Array = words[:, 1] * HALF_FACTOR
    hashes ^= words[:, 0]
    hashes ^= views * VIEW_FACTOR
    hashes *= FACTOR
    return hashes


def claim_keys(ids: Array, rows: Array) -> Array:
    """Return a byte string (20 bytes) for each of some rows (position in the ids, view), (n, 2)."""
    keys = np.empty((len(rows), 20), dtype=np.uint8)
    for start in range(0, len(rows), PIECE):
        piece = rows[start : start + PIECE]
        keys[start : start + PIECE, :16] = ids[piece[:, 0]]
        keys[start : start + PIECE, 16:] = piece[:, 1].astype(">u4").view(np.uint8).reshape(-1, 4)
    return keys.view("S20").reshape(-1)


@dataclass(frozen=True)
class RowIndex:
    """Where each row of a set lies: keys sorted by their hash, and the number of the shard and the row in it.

    A key is looked for from where the part of the hashes with its first bits begins, which is hardly ever a step away.
    """

    hashes: Array
    halves: Array
    views: Array
    shards: Array
    rows: Array
    count: int

    @classmethod
    def build(cls, keys: list[RowKeys]) -> RowIndex:
        """Return the index over the keys of each shard, which are taken from the list; of equal ones the first counts."""
        sizes = [len(part.hashes) for part in keys]
        hashes, halves, views = (list(column) for column in zip(RowKeys.none(), *keys, strict=True))
        keys.clear()
        joined = _joined(hashes)
        order = np.argsort(joined)
        joined = joined[order]
        again = np.flatnonzero(joined[1:] == joined[:-1]) + 1
        # A stable sort takes twice as long for the few whose order it would keep.
        tied = np.union1d(again, again - 1)
        order[tied] = order[tied][np.lexsort((order[tied], joined[tied]))]
        found = RowKeys(joined, _joined(halves)[order], _joined(views)[order])
        equal = np.logical_and.reduce([column[again] == column[again - 1] for column in found])
        shards = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)[order]
        order -= np.cumsum([0, *sizes])[shards]
        return cls(*found, shards, order.astype(np.int32), len(joined) - int(equal.sum()))

    def __len__(self) -> int:
        return self.count

    def find(self, ids: Array, views: Array | int = 0) -> tuple[Array, Array, Array]:
        """Return for each sample id and view whether it is there, and its shard and row (0 where it is not)."""
        present, shards, rows = np.zeros(len(ids), bool), np.zeros(len(ids), np.int32), np.zeros(len(ids), np.int32)
        if not len(self.hashes):
            return present, shards, rows
        for piece, keys in _pieces(ids, views):
            present[piece], places = self._places(keys)
            np.multiply(self.shards[places], present[piece], out=shards[piece])
            np.multiply(self.rows[places], present[piece], out=rows[piece])
        return present, shards, rows

    def has(self, ids: Array, views: Array | int = 0) -> Array:
        """Return for each sample id and view whether it is there."""
        present = np.zeros(len(ids), bool)
        if not len(self.hashes):
            return present
        for piece, keys in _pieces(ids, views):
            present[piece] = self._places(keys)[0]
        return present

    @cached_property
    def _parts(self) -> tuple[np.uint64, Array]:
        """Return by how much a hash is shifted to give the number of its part, and where each part begins."""
        bits = min(MAX_PARTS_BITS, max(1, len(self.hashes).bit_length() - 1))
        shift = np.uint64(64 - bits)
        sizes = np.zeros(1 << bits, np.uint32)  # also of 2**32 rows none is larger
        for start in range(0, len(self.hashes), PIECE):
            numbers = (self.hashes[start : start + PIECE] >> shift).astype(np.int64)
            found = np.bincount(numbers - numbers[0])
            sizes[numbers[0] : numbers[0] + len(found)] += found.astype(np.uint32)
        begins: Array = np.cumsum(sizes, dtype=np.uint32 if len(self.hashes) < 1 << 32 else np.int64)
        begins -= sizes
        return shift, begins

    def _places(self, keys: RowKeys) -> tuple[Array, Array]:
        """Return which keys are there, and where, in an index that is not empty."""
        hashes, last = keys.hashes, len(self.hashes) - 1
        shift, begins = self._parts
        places: Array = begins[(hashes >> shift).astype(np.int64)].astype(np.int64)
        np.minimum(places, last, out=places)
        short = np.flatnonzero(self.hashes[places] < hashes)
        for _ in range(STEPS):
            short = short[places[short] < last]
            places[short] += 1
            short = short[self.hashes[places[short]] < hashes[short]]
        if len(short):
            places[short] = np.minimum(np.searchsorted(self.hashes, hashes[short]), last)
        found = self.hashes[places] == hashes
        present: Array = found & (self.halves[places] == keys.halves) & (self.views[places] == keys.views)
        for number in np.flatnonzero(found & ~present).tolist():
            # Another key has the same hash, which chance alone hardly ever does.
            same = slice(places[number], np.searchsorted(self.hashes, hashes[number], side="right"))
            equal = (self.halves[same] == keys.halves[number]) & (self.views[same] == keys.views[number])
            if equal.any():
                present[number], places[number] = True, places[number] + np.argmax(equal)
        return present, places

    def keys_of(self, count: int) -> list[RowKeys]:
        """Return the keys of each of so many shards, in the order of their rows."""
        sizes = np.bincount(self.shards, minlength=count)
        places = (np.cumsum(sizes) - sizes)[self.shards]
        places += self.rows
        columns = []
        for column in (self.hashes, self.halves, self.views):
            unsorted = np.zeros_like(column)
            np.put(unsorted, places, column, mode="clip")  # the index may come from a damaged file
            columns.append(np.split(unsorted, np.cumsum(sizes)[:-1]))
        return [RowKeys(*parts) for parts in zip(*columns, strict=True)] if count else []

    def _columns(self) -> list[Array]:
        return [self.hashes, self.halves, self.views, self.shards, self.rows]

    def write(self, path: Path, names: list[str]) -> None:
        """Write the index over shards of these names to a file, from which ``read`` takes it."""
        columns = [np.ascontiguousarray(each) for each in self._columns()]
        digest = xxhash.xxh3_128()
        for each in columns:
            digest.update(each.data)
        head = {"format": FORMAT, "shards": names, "rows": len(self.hashes), "count": self.count}
        line = json.dumps({**head, "digest": digest.hexdigest()}).encode()
        with path.open("wb") as file:
            # Numbers at multiples of their size are read faster.
            file.write(line + b" " * (-(len(line) + 1) % ALIGNMENT_BYTES) + b"\n")
            for each in columns:
                file.write(each.data)

    @classmethod
    def read(cls, path: Path) -> tuple[RowIndex, list[str]] | None:
        """Return an index and the names of its shards; None where the file is missing or damaged, for it is only a cache."""
        try:
            with path.open("rb") as file:
                head = json.loads(file.readline(MAX_HEAD_BYTES))
                start = file.tell()
            content = np.memmap(path, np.uint8, mode="r", offset=start).view(np.ndarray)
            names, rows = [str(name) for name in head["shards"]], int(head["rows"])
            ends = np.cumsum([rows * np.dtype(kind).itemsize for kind in COLUMNS]).tolist()
            if head["format"] != FORMAT or rows < 0 or len(content) != ends[-1]:
                return None
            if xxhash.xxh3_128_hexdigest(content.data) != head["digest"]:
                return None
            hashes, halves, views, shards, places = (
                content[start:end].view(kind) for start, end, kind in zip([0, *ends], ends, COLUMNS, strict=False)
            )
            if len(shards) and not 0 <= shards.min() <= shards.max() < len(names):
                return None
            return cls(hashes, halves, views, shards, places, int(head["count"])), names
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            return None


def _joined(parts: list[Array]) -> Array:
    """Return arrays one after another, which are let go: both would take twice the memory."""
    joined = np.concatenate(parts)
    parts.clear()
    return joined


def _pieces(ids: Array, views: Array | int) -> Iterator[tuple[slice, RowKeys]]:
    """Yield the keys of some rows at a time."""
    for start in range(0, len(ids), PIECE):
        piece = slice(start, start + PIECE)
        yield piece, row_keys(ids[piece], views if isinstance(views, int) else views[piece])
