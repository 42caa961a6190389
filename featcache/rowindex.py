"""Where in the shards of a set each row lies: rows are found by the id of their sample and their view."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

__all__ = ["RowIndex", "row_keys"]

KEY_BYTES = 20
FORMAT = "featcache-index-1"
MAX_HEAD_BYTES = 1 << 26

Array = np.ndarray[Any, Any]


def row_keys(ids: Array, views: Array | int = 0) -> Array:
    """Return one sortable key (20 bytes) for each sample id (n, 16) and view."""
    keys = np.empty((len(ids), KEY_BYTES), dtype=np.uint8)
    keys[:, :16] = ids
    keys[:, 16:] = np.broadcast_to(np.asarray(views, dtype=">u4"), (len(ids),)).copy().view(np.uint8).reshape(-1, 4)
    # Byte strings of one width compare exactly: what numpy strips from their ends could only be equal zeros.
    return keys.view(f"S{KEY_BYTES}").reshape(-1)


@dataclass(frozen=True)
class RowIndex:
    """Where each row of a set lies: keys sorted by their hash, and the number of the shard and the row in it.

    Whole numbers are sorted and searched several times as fast as byte strings.
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

    def _places(self, keys: Array) -> tuple[Array, Array]:
        places = np.zeros(len(keys), dtype=np.int64)
        if not len(self.keys):
            return np.zeros(len(keys), dtype=bool), places
        hashes = _hashes(keys)
        order = np.argsort(hashes)  # sought in order, most of what is looked at is in the processor's cache
        places[order] = np.minimum(np.searchsorted(self.hashes, hashes[order]), len(self.keys) - 1)
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
    """Return a number for each key: ids are hashes already, and views are spread over all numbers."""
    parts = np.ascontiguousarray(keys).view(np.uint8).reshape(-1, KEY_BYTES)
    ids = np.ascontiguousarray(parts[:, :8]).view("<u8").reshape(-1)
    views = np.ascontiguousarray(parts[:, 16:]).view(">u4").reshape(-1).astype("<u8")
    mixed: Array = ids ^ (views * np.uint64(0x9E3779B97F4A7C15))
    return mixed
