"""The ids of shards that lie far away, from their first bytes: enough for ls and status."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CorruptError
from ..hdf5 import find_array, open_file
from ..storages import Entry, Storage
from .shard import read_ids

__all__ = ["ids_of"]

START_BYTES = 256 << 10  # of a shard: what HDF5 needs to know, and the ids and views of some 10,000 rows
AT_ONCE = 8

Array = np.ndarray[Any, Any]


def ids_of(
    storage: Storage, folder: str, entries: Sequence[Entry], fingerprint: str
) -> Iterator[tuple[str, Array, Array]]:
    """Yield name, ids and views of the shards in a folder, without those that were removed meanwhile.

    A storage that has ``read_start`` is asked for the first bytes of large shards only.
    """
    read_start = getattr(storage, "read_start", None)

    def look(entry: Entry) -> tuple[str, Array, Array] | None:
        path = f"{folder}/{entry.name}"
        with suppress(FileNotFoundError):  # removed since it was listed, by gc or repair
            if read_start is not None and entry.size_bytes > 2 * START_BYTES:
                found = _from_start(read_start(path, START_BYTES), entry, fingerprint)
                if found is not None:
                    return entry.name, *found
            return entry.name, *read_ids(storage.fetch(path), fingerprint)
        return None

    if read_start is None or len(entries) < 2:
        made = map(look, entries)
        yield from (each for each in made if each is not None)
        return
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from (each for each in pool.map(look, entries) if each is not None)


def _from_start(start: bytes, entry: Entry, fingerprint: str) -> tuple[Array, Array] | None:
    """Return ids and views where the first bytes suffice for them."""
    with tempfile.TemporaryDirectory(prefix="featcache-") as folder:
        path = Path(folder) / entry.name
        path.write_bytes(start)
        os.truncate(path, entry.size_bytes)  # HDF5 opens no file that is shorter than it was; the rest takes no space
        with suppress(CorruptError):  # what is missing can look like damage; the whole file tells
            with open_file(path) as file:
                places = [find_array(file, name) for name in ("ids", "views")]
            if all(each.offset_bytes + math.prod(each.shape) * each.dtype.itemsize <= len(start) for each in places):
                return read_ids(path, fingerprint)
    return None
