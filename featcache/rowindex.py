"""Where in the shards of a set each row lies: rows are found by the id of their sample and their view."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

__all__ = ["RowIndex", "row_keys"]

KEY_BYTES = 20
FORMAT = "featcache-index-2"
MAX_HEAD_BYTES = 1 << 26
MAX_PARTS_BITS = 24
STEPS = 16  # from the beginning of a part; what lies farther in is searched for

Array = np.ndarray[Any, Any]


def row_keys(ids: Array, views: Array | int = 0) -> Array:
    """Return one sortable key (20 bytes) for each sample id (n, 16) and view."""
    keys = np.empty((len(ids), KEY_BYTES), dtype=np.uint8)
    keys[:, :16] = ids
    _column(keys, ">u4", 16)[:] = views
    # Byte strings of one width compare exactly: what numpy strips from their ends could only be equal zeros.
    return keys.view(f"S{KEY_BYTES}").reshape(-1)


@dataclass(frozen=True)
class RowIndex:
    """Where each row of a set lies: keys sorted by their hash, and the number of the shard and the row in it.

    A key is looked for from where the part of the hashes with its first bits begins, which is hardly ever a step away.
    """

    hashes: Array
    keys: Array
    shards: Array
    rows: Array
    count: int

    @classmethod
    def build(cls, keys: list[Array]) -> RowIndex:
        """Return the index over the keys of each shard; of a row that several shards hold, the first counts."""
        joined = np.concatenate(keys) if keys else np.empty(0, f"S{KEY_BYTES}")
        sizes = [len(part) for part in keys]
        hashes = _hashes(joined)
        order = np.argsort(hashes, kind="stable")
        hashes, joined = hashes[order], joined[order]
        again = np.flatnonzero(hashes[1:] == hashes[:-1]) + 1
        count = len(joined) - int((joined[again] == joined[again - 1]).sum())
        shards = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)[order]
        starts = np.cumsum([0, *sizes[:-1]])[: len(sizes)]
        rows = (order - starts[shards]).astype(np.int32) if len(order) else np.empty(0, np.int32)
        return cls(hashes, joined, shards, rows, count)

    def __len__(self) -> int:
        return self.count

    def find(self, keys: Array) -> tuple[Array, Array, Array]:
        """Return for each key whether it is there, and its shard and row (0 where it is not)."""
        present, places = self._places(keys)
        if not len(self.keys):
            return present, places, places
        shards, rows = self.shards[places].astype(np.int64), self.rows[places].astype(np.int64)
        return present, np.where(present, shards, 0), np.where(present, rows, 0)

    def has(self, keys: Array) -> Array:
        """Return for each key whether it is there."""
        return self._places(keys)[0]

    @cached_property
    def _parts(self) -> tuple[np.uint64, Array]:
        """Return by how much a hash is shifted to give the number of its part, and where each part begins."""
        bits = min(MAX_PARTS_BITS, max(1, len(self.hashes).bit_length() - 1))
        shift = np.uint64(64 - bits)
        counts = np.bincount((self.hashes >> shift).astype(np.int64), minlength=1 << bits)
        return shift, np.cumsum(counts) - counts

    def _places(self, keys: Array) -> tuple[Array, Array]:
        if not len(self.keys):
            return np.zeros(len(keys), dtype=bool), np.zeros(len(keys), dtype=np.int64)
        hashes, last = _hashes(keys), len(self.keys) - 1
        shift, begins = self._parts
        places: Array = begins[(hashes >> shift).astype(np.int64)]
        np.minimum(places, last, out=places)
        short = np.flatnonzero(self.hashes[places] < hashes)
        for _ in range(STEPS):
            short = short[places[short] < last]
            places[short] += 1
            short = short[self.hashes[places[short]] < hashes[short]]
        if len(short):
            places[short] = np.minimum(np.searchsorted(self.hashes, hashes[short]), last)
        present: Array = self.keys[places] == keys
        missing = np.flatnonzero(~present)
        for number in missing[self.hashes[places[missing]] == hashes[missing]].tolist():
            # Another key has the same hash, which chance alone hardly ever does.
            same = slice(places[number], np.searchsorted(self.hashes, hashes[number], side="right"))
            found = np.flatnonzero(self.keys[same] == keys[number])
            if len(found):
                present[number], places[number] = True, places[number] + found[0]
        return present, places

    def keys_of(self, count: int) -> list[Array]:
        """Return the keys of each of so many shards, in the order of their rows."""
        order = np.lexsort((self.rows, self.shards))
        sizes = np.bincount(self.shards, minlength=count)
        return np.split(self.keys[order], np.cumsum(sizes)[:-1]) if count else []

    def to_bytes(self, names: list[str]) -> bytes:
        """Return the index over shards of these names as the bytes of a file, from which :meth:`read` takes it."""
        content = b"".join(each.tobytes() for each in (self.hashes, self.keys, self.shards, self.rows))
        head = {"format": FORMAT, "shards": names, "rows": len(self.keys), "count": self.count}
        head["digest"] = xxhash.xxh3_128_hexdigest(content)
        return json.dumps(head).encode() + b"\n" + content

    @classmethod
    def read(cls, path: Path) -> tuple[RowIndex, list[str]] | None:
        """Return an index and the names of its shards; None where the file is missing or damaged, for it is only a cache."""
        try:
            with path.open("rb") as file:
                head = json.loads(file.readline(MAX_HEAD_BYTES))
                start = file.tell()
            content = np.memmap(path, np.uint8, mode="r", offset=start).view(np.ndarray)
            names, rows = [str(name) for name in head["shards"]], int(head["rows"])
            kinds = ("<u8", f"S{KEY_BYTES}", "<i4", "<i4")
            ends = np.cumsum([rows * np.dtype(kind).itemsize for kind in kinds]).tolist()
            if head["format"] != FORMAT or rows < 0 or len(content) != ends[-1]:
                return None
            if xxhash.xxh3_128_hexdigest(content.data) != head["digest"]:
                return None
            hashes, keys, shards, places = (
                content[start:end].view(kind) for start, end, kind in zip([0, *ends], ends, kinds, strict=False)
            )
            if len(shards) and not 0 <= shards.min() <= shards.max() < len(names):
                return None
            return cls(hashes, keys, shards, places, int(head["count"])), names
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            return None


def _hashes(keys: Array) -> Array:
    """Return a number for each key, spread over all numbers also where a dataset declares ids that are not."""
    parts = np.ascontiguousarray(keys).view(np.uint8).reshape(-1, KEY_BYTES)
    mixed: Array = _column(parts, "<u8", 8) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= _column(parts, "<u8", 0)
    mixed ^= _column(parts, ">u4", 16) * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed *= np.uint64(0xD6E8FEB86659FD93)
    return mixed


def _column(parts: Array, dtype: str, offset: int) -> Array:
    """Return the numbers at an offset of each key, as a view."""
    if not len(parts):
        return np.empty(0, dtype)
    return np.ndarray((len(parts),), dtype, buffer=parts, offset=offset, strides=(KEY_BYTES,))
