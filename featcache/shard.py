"""A shard: one immutable HDF5 file with some rows of a feature set.

``/features/<name>`` (rows, …), ``/ids`` (rows, 16), ``/views`` (rows,), ``/checksums/<name>`` (blocks,) and the root
attributes ``format``, ``recipe``, ``block_rows`` and ``provenance``. The file's name is the digest of its ids,
views and block checksums, so that every byte that is ever read back is covered by the name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from .codecs import load_codec
from .errors import CorruptError
from .hdf5 import create_file, map_array, open_file, read_array, read_attributes, stored, write_array
from .recipe import Recipe

__all__ = ["SHARD_FORMAT", "Shard", "block_checksums", "read_ids", "shard_digest", "write_shard"]

SHARD_FORMAT = "featcache-shard-1"
BLOCK_BYTES = 256 * 1024

Array = np.ndarray[Any, Any]


@dataclass
class Shard:
    """The rows of one shard, opened: memory-mapped features by name, whose blocks are checked on first touch."""

    path: Path
    ids: Array
    views: Array
    block_rows: int
    provenance: dict[str, Any]
    features: dict[str, Array]
    checksums: dict[str, Array]
    _checked: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._checked = np.zeros(-(-len(self.ids) // self.block_rows), dtype=bool)

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def open(cls, path: Path, recipe: Recipe) -> Shard:
        """Return the shard at ``path``, which must belong to ``recipe``; raises :class:`CorruptError` if it cannot be trusted."""
        codec = load_codec(recipe.dtype)
        with open_file(path) as file:
            attributes = read_attributes(file)
            ids, views, block_rows = _header(path, file, attributes, recipe.fingerprint)
            places, checksums = {}, {}
            for spec in recipe.frontier:
                place = stored(file, f"features/{spec.name}", codec.storage_dtype(spec.dtype))
                if place.shape != (len(ids), *spec.shape):
                    raise CorruptError(
                        f"{path} cannot be trusted: {spec.name!r} has shape {place.shape} where "
                        f"{(len(ids), *spec.shape)} belongs. Delete the file to have its rows recomputed."
                    )
                places[spec.name] = place
                checksums[spec.name] = read_array(file, f"checksums/{spec.name}", np.dtype("<u8"), rank=1)
        if shard_digest(recipe.fingerprint, ids, views, block_rows, checksums) != path.stem:
            raise CorruptError(
                f"{path} is damaged: its ids, views or checksums do not match its name. "
                "Run `featcache verify`; delete the file to have its rows recomputed."
            )
        return cls(
            path,
            ids,
            views,
            block_rows,
            _provenance(attributes),
            {name: map_array(path, place) for name, place in places.items()},
            checksums,
        )

    def check(self, rows: Array | None = None) -> None:
        """Check the blocks that hold ``rows`` (default: all), each once; raises :class:`CorruptError` if one is damaged."""
        if rows is None:
            blocks = np.flatnonzero(~self._checked)
        else:
            touched = rows // self.block_rows
            touched = touched[~self._checked[touched]]
            if not len(touched):
                return
            blocks = np.unique(touched)
        bad = self.damaged_rows(blocks)
        if bad:
            first, last = bad[0]
            raise CorruptError(
                f"{self.path} is damaged: rows {first} to {last - 1} do not match their checksum. "
                "Run `featcache verify`; delete the file to have its rows recomputed."
            )
        self._checked[blocks] = True

    def damaged_rows(self, blocks: Array) -> list[tuple[int, int]]:
        """Return the half-open row ranges of those of ``blocks`` that do not match their checksum."""
        damaged = set()
        for name, values in self.features.items():
            expected = self.checksums[name]
            for block in blocks.tolist():
                start = block * self.block_rows
                if block >= len(expected) or _checksum(values[start : start + self.block_rows]) != expected[block]:
                    damaged.add((start, min(start + self.block_rows, len(self))))
        return sorted(damaged)


def write_shard(
    path: Path,
    recipe: Recipe,
    ids: Array,
    views: Array,
    features: Mapping[str, Array],
    provenance: Mapping[str, Any],
) -> str:
    """Write encoded rows to a new file and return the digest that names the shard."""
    row_bytes = max(1, *(values[:1].nbytes for values in features.values()))
    block_rows = max(1, BLOCK_BYTES // row_bytes)
    checksums = {name: block_checksums(values, block_rows) for name, values in features.items()}
    attributes: dict[str, int | str] = {
        "format": SHARD_FORMAT,
        "recipe": recipe.fingerprint,
        "block_rows": block_rows,
        "provenance": json.dumps(dict(provenance), sort_keys=True),
    }
    with create_file(path, attributes) as file:
        write_array(file, "ids", ids)
        write_array(file, "views", views)
        for name, values in features.items():
            write_array(file, f"features/{name}", values)
            write_array(file, f"checksums/{name}", checksums[name])
    return shard_digest(recipe.fingerprint, ids, views, block_rows, checksums)


def read_ids(path: Path, fingerprint: str) -> tuple[Array, Array]:
    """Return the sample ids (rows, 16) and views (rows,) of a shard, without touching its features."""
    with open_file(path) as file:
        ids, views, _ = _header(path, file, read_attributes(file), fingerprint)
    return ids, views


def block_checksums(values: Array, block_rows: int) -> Array:
    """Return the xxh3-64 checksum of every run of ``block_rows`` rows."""
    starts = range(0, len(values), block_rows)
    return np.array([_checksum(values[start : start + block_rows]) for start in starts], dtype="<u8")


def shard_digest(fingerprint: str, ids: Array, views: Array, block_rows: int, checksums: Mapping[str, Array]) -> str:
    """Return the name of a shard with this content: 32 hexadecimal characters."""
    digest = hashlib.sha256(f"{SHARD_FORMAT}:{fingerprint}:{block_rows}".encode())
    digest.update(ids.tobytes())
    digest.update(views.tobytes())
    for name in sorted(checksums):
        digest.update(f"\0{name}\0".encode())
        digest.update(checksums[name].tobytes())
    return digest.hexdigest()[:32]


def _checksum(values: Array) -> int:
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(values).view(np.uint8).reshape(-1).data)


def _header(path: Path, file: Any, attributes: dict[str, Any], fingerprint: str) -> tuple[Array, Array, int]:
    if attributes.get("format") != SHARD_FORMAT:
        raise CorruptError(
            f"{path} is not a shard that this featcache reads (format {attributes.get('format')!r}). "
            "Upgrade featcache, or delete the file to have its rows recomputed."
        )
    if attributes.get("recipe") != fingerprint:
        raise CorruptError(
            f"{path} belongs to the recipe {attributes.get('recipe')!r}, not to {fingerprint}. Delete it, or move it back."
        )
    ids = read_array(file, "ids", np.dtype("u1"), rank=2)
    views = read_array(file, "views", np.dtype("<u4"), rank=1)
    block_rows = attributes.get("block_rows")
    if ids.shape[1] != 16 or len(views) != len(ids) or not isinstance(block_rows, int) or block_rows < 1:
        raise CorruptError(f"{path} is damaged: its ids and views do not fit. Delete it to have its rows recomputed.")
    return ids, views, block_rows


def _provenance(attributes: dict[str, Any]) -> dict[str, Any]:
    try:
        value = json.loads(attributes.get("provenance", "{}"))
    except ValueError:
        return {}  # informative only: a damaged note does not make the rows wrong
    return value if isinstance(value, dict) else {}
