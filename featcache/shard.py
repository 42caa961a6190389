"""A shard: one immutable HDF5 file with some rows of a feature set.

``/features/<name>`` (rows, …), ``/ids`` (rows, 16), ``/views`` (rows,), ``/checksums/<name>`` (blocks,) and the root
attributes ``format``, ``recipe``, ``block_rows`` and ``provenance``. Where samples vary in length, ``/features/<name>``
holds their steps one sample after another, ``/ends/<name>`` (rows,) where each sample's steps end, and the attribute
``block_steps`` how many steps a checksum covers. The file's name is the digest of its ids, views, ends and block
checksums, so that every byte that is ever read back is covered by the name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from .codecs import load_codec
from .errors import CorruptError
from .hdf5 import create_file, map_array, open_file, read_array, read_attributes, stored, write_array
from .recipe import Recipe

__all__ = ["SHARD_FORMAT", "Ragged", "Shard", "block_checksums", "read_ids", "shard_digest", "write_shard"]

SHARD_FORMAT = "featcache-shard-1"
BLOCK_BYTES = 256 * 1024
MAX_BLOCK = 1 << 40

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Ragged:
    """Values of samples that vary in length: all steps one after another (steps, …), and where each sample's end (n,)."""

    values: Array
    ends: Array

    @classmethod
    def of(cls, rows: Sequence[Array]) -> Ragged:
        """Return the values of single samples, joined."""
        return cls(np.concatenate(rows), np.cumsum([len(row) for row in rows], dtype="<i8"))

    @property
    def nbytes(self) -> int:
        """Return the bytes of all values."""
        return int(self.values.nbytes)


@dataclass
class Shard:
    """The rows of one shard, opened: memory-mapped features by name, whose blocks are checked on first touch.

    ``ends`` says of tensors of varying length where in ``features`` each row's steps end.
    """

    path: Path
    ids: Array
    views: Array
    provenance: dict[str, Any]
    features: dict[str, Array]
    checksums: dict[str, Array]
    blocks: dict[str, int]
    ends: dict[str, Array] = field(default_factory=dict)
    _checked: dict[str, Array] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._checked = {
            name: np.zeros(-(-len(each) // self.blocks[name]), bool) for name, each in self.features.items()
        }

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def open(cls, path: Path, recipe: Recipe) -> Shard:
        """Return the shard at ``path``, which must belong to ``recipe``; raises :class:`CorruptError` if it cannot be trusted."""
        codec = load_codec(recipe.dtype)
        try:
            dtypes = {spec.name: codec.storage_dtype(spec.dtype) for spec in recipe.frontier}
        except TypeError as error:
            raise CorruptError(f"the recipe of {path} names a type that does not exist ({error}).") from error
        with open_file(path) as file:
            attributes = read_attributes(file)
            ids, views = _header(path, file, attributes, recipe.fingerprint)
            places, checksums, ends, blocks = {}, {}, {}, {}
            for spec in recipe.frontier:
                place = stored(file, f"features/{spec.name}", dtypes[spec.name])
                count = len(ids)
                if spec.ragged:
                    ends[spec.name] = read_array(file, f"ends/{spec.name}", np.dtype("<i8"), rank=1)
                    count = _last_end(path, ends[spec.name], len(ids))
                if place.shape != (count, *spec.value_shape):
                    raise CorruptError(
                        f"{path} cannot be trusted: {spec.name!r} has shape {place.shape} where "
                        f"{(count, *spec.value_shape)} belongs. Delete the file to have its rows recomputed."
                    )
                places[spec.name] = place
                checksums[spec.name] = read_array(file, f"checksums/{spec.name}", np.dtype("<u8"), rank=1)
                blocks[spec.name] = _block_size(path, attributes, "block_steps" if spec.ragged else "block_rows")
        if shard_digest(recipe.fingerprint, ids, views, blocks, checksums, ends) != path.stem:
            raise CorruptError(
                f"{path} is damaged: its ids, views or checksums do not match its name. "
                "Run `featcache verify`; delete the file to have its rows recomputed."
            )
        features = {name: map_array(path, place) for name, place in places.items()}
        return cls(path, ids, views, _provenance(attributes), features, checksums, blocks, ends)

    def check(self, rows: Array | None = None) -> None:
        """Check the blocks that hold ``rows`` (default: all), each once; raises :class:`CorruptError` if one is damaged."""
        for name in self.features:
            checked = self._checked[name]
            touched = np.arange(len(checked)) if rows is None else self._blocks_of(name, rows)
            touched = touched[~checked[touched]]
            if not len(touched):
                continue
            blocks = np.unique(touched)
            bad = self._damaged_blocks(name, blocks)
            if len(bad):
                first, last = self._rows_of(name, int(bad[0]))
                raise CorruptError(
                    f"{self.path} is damaged: rows {first} to {last - 1} do not match their checksum. "
                    "Run `featcache verify`; delete the file to have its rows recomputed."
                )
            checked[blocks] = True

    def take(self, name: str, rows: Array) -> Array | Ragged:
        """Return the stored values of some rows of a tensor, copied; it is for the caller to check them."""
        values = self.features[name]
        if name not in self.ends:
            chosen: Array = values[rows]
            return chosen
        ends = self.ends[name]
        starts = np.where(rows > 0, ends[rows - 1], 0).tolist()
        return Ragged.of([values[start:stop] for start, stop in zip(starts, ends[rows].tolist(), strict=True)])

    def damaged_rows(self) -> list[tuple[int, int]]:
        """Return the half-open ranges of rows that do not match their checksum."""
        damaged: set[tuple[int, int]] = set()
        for name, checked in self._checked.items():
            damaged.update(
                self._rows_of(name, int(block)) for block in self._damaged_blocks(name, np.arange(len(checked)))
            )
        return sorted(damaged)

    def _blocks_of(self, name: str, rows: Array) -> Array:
        size = self.blocks[name]
        if name not in self.ends:
            blocks: Array = rows // size
            return blocks
        ends = self.ends[name]
        starts = np.where(rows > 0, ends[rows - 1], 0) // size
        lasts = np.maximum(ends[rows] - 1, 0) // size
        return np.concatenate([np.arange(start, last + 1) for start, last in zip(starts, lasts, strict=True)])

    def _rows_of(self, name: str, block: int) -> tuple[int, int]:
        start, stop = block * self.blocks[name], (block + 1) * self.blocks[name]
        if name not in self.ends:
            return start, min(stop, len(self))
        first, last = np.searchsorted(self.ends[name], [start, stop - 1], side="right")
        return int(first), min(int(last) + 1, len(self))

    def _damaged_blocks(self, name: str, blocks: Array) -> Array:
        values, expected, size = self.features[name], self.checksums[name], self.blocks[name]
        bad = [
            block
            for block in blocks.tolist()
            if block >= len(expected) or _checksum(values[block * size : (block + 1) * size]) != expected[block]
        ]
        return np.array(bad, dtype=np.int64)


def write_shard(
    path: Path,
    recipe: Recipe,
    ids: Array,
    views: Array,
    features: Mapping[str, Array | Ragged],
    provenance: Mapping[str, Any],
) -> str:
    """Write encoded rows to a new file and return the digest that names the shard."""
    fixed = [values for values in features.values() if isinstance(values, np.ndarray)]
    ragged = {name: values for name, values in features.items() if isinstance(values, Ragged)}
    block_rows = _block_of(fixed)
    block_steps = _block_of([values.values for values in ragged.values()])
    arrays = {name: values.values if isinstance(values, Ragged) else values for name, values in features.items()}
    blocks = {name: block_steps if name in ragged else block_rows for name in features}
    checksums = {name: block_checksums(values, blocks[name]) for name, values in arrays.items()}
    ends = {name: values.ends for name, values in ragged.items()}
    attributes: dict[str, int | str] = {
        "format": SHARD_FORMAT,
        "recipe": recipe.fingerprint,
        "block_rows": block_rows,
        "provenance": json.dumps(dict(provenance), sort_keys=True),
    }
    if ragged:
        attributes["block_steps"] = block_steps
    with create_file(path, attributes) as file:
        write_array(file, "ids", ids)
        write_array(file, "views", views)
        for name, values in arrays.items():
            write_array(file, f"features/{name}", values)
            write_array(file, f"checksums/{name}", checksums[name])
        for name, each in ends.items():
            write_array(file, f"ends/{name}", each)
    return shard_digest(recipe.fingerprint, ids, views, blocks, checksums, ends)


def read_ids(path: Path, fingerprint: str) -> tuple[Array, Array]:
    """Return the sample ids (rows, 16) and views (rows,) of a shard, without touching its features."""
    with open_file(path) as file:
        return _header(path, file, read_attributes(file), fingerprint)


def block_checksums(values: Array, block: int) -> Array:
    """Return the xxh3-64 checksum of every run of ``block`` rows, or steps."""
    starts = range(0, len(values), block)
    return np.array([_checksum(values[start : start + block]) for start in starts], dtype="<u8")


def shard_digest(
    fingerprint: str,
    ids: Array,
    views: Array,
    blocks: Mapping[str, int],
    checksums: Mapping[str, Array],
    ends: Mapping[str, Array],
) -> str:
    """Return the name of a shard with this content: 32 hexadecimal characters."""
    digest = hashlib.sha256(f"{SHARD_FORMAT}:{fingerprint}".encode())
    digest.update(ids.tobytes())
    digest.update(views.tobytes())
    for name in sorted(checksums):
        digest.update(f"\0{name}\0{blocks[name]}\0".encode())
        digest.update(checksums[name].tobytes())
        if name in ends:
            digest.update(b"\0ends\0" + ends[name].tobytes())
    return digest.hexdigest()[:32]


def _block_of(arrays: Sequence[Array]) -> int:
    row_bytes = max([1, *(values[:1].nbytes for values in arrays)])
    return max(1, BLOCK_BYTES // row_bytes)


def _block_size(path: Path, attributes: dict[str, Any], name: str) -> int:
    size = attributes.get(name)
    if not isinstance(size, int) or not 1 <= size <= MAX_BLOCK:
        raise CorruptError(f"{path} is damaged: its {name} is {size!r}. Delete it to have its rows recomputed.")
    return size


def _last_end(path: Path, ends: Array, rows: int) -> int:
    """Return the number of steps in all; raises :class:`CorruptError` where the ends could lead out of the file."""
    if len(ends) != rows or (rows and (ends[0] < 0 or (ends[1:] < ends[:-1]).any())):
        raise CorruptError(
            f"{path} is damaged: the ends of its rows do not rise. Delete it to have its rows recomputed."
        )
    return int(ends[-1]) if rows else 0


def _checksum(values: Array) -> int:
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(values).view(np.uint8).reshape(-1).data)


def _header(path: Path, file: Any, attributes: dict[str, Any], fingerprint: str) -> tuple[Array, Array]:
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
    if ids.shape[1] != 16 or len(views) != len(ids):
        raise CorruptError(f"{path} is damaged: its ids and views do not fit. Delete it to have its rows recomputed.")
    return ids, views


def _provenance(attributes: dict[str, Any]) -> dict[str, Any]:
    try:
        value = json.loads(attributes.get("provenance", "{}"))
    except (ValueError, TypeError, RecursionError):
        return {}  # informative only: a damaged note does not make the rows wrong
    return value if isinstance(value, dict) else {}
