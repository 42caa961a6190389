"""Where in the shards of a set each row lies: rows are found by the id of their sample and their view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["RowIndex", "row_keys"]

Array = np.ndarray[Any, Any]


def row_keys(ids: Array, views: Array | int = 0) -> Array:
    """Return one sortable key (20 bytes) for each sample id (n, 16) and view."""
    keys = np.empty((len(ids), 20), dtype=np.uint8)
    keys[:, :16] = ids
    keys[:, 16:] = np.broadcast_to(np.asarray(views, dtype=">u4"), (len(ids),)).copy().view(np.uint8).reshape(-1, 4)
    # Byte strings of one width compare exactly: what numpy strips from their ends could only be equal zeros.
    return keys.view("S20").reshape(-1)


@dataclass(frozen=True)
class RowIndex:
    """Where each row of a set lies: sorted keys, and the number of the shard and the row in it."""

    keys: Array
    shards: Array
    rows: Array

    @classmethod
    def build(cls, keys: list[Array]) -> RowIndex:
        """Return the index over the keys of each shard; of a row that several shards hold, the first counts."""
        if not keys:
            nothing = np.empty(0, dtype=np.int64)
            return cls(np.empty(0, dtype="S20"), nothing, nothing)
        sizes = [len(part) for part in keys]
        unique, first = np.unique(np.concatenate(keys), return_index=True)
        shards = np.repeat(np.arange(len(sizes)), sizes)[first]
        rows = np.concatenate([np.arange(size) for size in sizes])[first]
        return cls(unique, shards, rows)

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, keys: Array) -> tuple[Array, Array, Array]:
        """Return for each key whether it is there, and its shard and row (0 where it is not)."""
        if not len(self.keys):
            nothing = np.zeros(len(keys), dtype=np.int64)
            return np.zeros(len(keys), dtype=bool), nothing, nothing
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        present = self.keys[places] == keys
        return present, np.where(present, self.shards[places], 0), np.where(present, self.rows[places], 0)
