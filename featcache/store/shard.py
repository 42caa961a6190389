"""A shard: one immutable HDF5 file with some rows of a feature set.

``/features/<name>`` (rows, …), ``/ids`` (rows, 16), ``/views`` (rows,), ``/checksums/<name>`` (blocks,) and the root
attributes ``format``, ``recipe``, ``block_rows`` and ``provenance``. Where samples vary in length, ``/features/<name>``
holds their steps one sample after another, ``/ends/<name>`` (rows,) where each sample's steps end, and the attribute
``block_steps`` how many steps a checksum covers. A precision with scales keeps them in ``/scales/<name>``. Features
may be compressed, a chunk a block; checksums are of what was compressed. The file's name is the digest of its ids,
views, ends, scales and block checksums, so that every byte that is ever read back is covered by the name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..codecs import load_codec
from ..errors import CorruptError
from ..hdf5 import (
    Blocks,
    CompressedArray,
    Ragged,
    StoredArray,
    StoredChunks,
    Wanted,
    checksum,
    find_array,
    gather,
    last_end,
    map_array,
    open_file,
    read_array,
    read_attributes,
    read_rows,
    steps_of,
    stored_chunks,
)
from ..identity import Recipe
from .shard_writer import SHARD_FORMAT, shard_digest

__all__ = ["Ragged", "Shard", "read_ids"]

MAX_BLOCK = 1 << 40

Array = np.ndarray[Any, Any]


@dataclass
class Shard:
    """The rows of one shard, opened: features by name, whose blocks are checked on first touch, or when they are decoded.

    They are memory maps, or arrays of compressed chunks. ``ends`` says of tensors of varying length where in
    ``features`` each row's steps end.
    """

    path: Path
    recipe: Recipe
    ids: Array
    views: Array
    provenance: dict[str, Any]
    features: dict[str, Array | CompressedArray]
    checksums: dict[str, Array]
    blocks: dict[str, int]
    ends: dict[str, Array] = field(default_factory=dict)
    scales: dict[str, Array] = field(default_factory=dict)
    places: dict[str, StoredArray | StoredChunks] = field(default_factory=dict, repr=False)
    _checked: dict[str, Array] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._checked = {
            name: np.zeros(-(-len(each) // self.blocks[name]), bool) for name, each in self.features.items()
        }

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def open(cls, path: Path, recipe: Recipe) -> Shard:
        """Return the shard at ``path``, which must belong to ``recipe``; raises ``CorruptError`` if it cannot be trusted."""
        codec = load_codec(recipe.dtype)
        try:
            dtypes = {spec.name: codec.storage_dtype(spec.dtype) for spec in recipe.frontier}
        except TypeError as error:
            raise CorruptError(f"the recipe of {path} names a type that does not exist ({error}).") from error
        with open_file(path) as file:
            attributes = read_attributes(file)
            ids, views = _header(path, file, attributes, recipe.fingerprint)
            places: dict[str, StoredArray | StoredChunks] = {}
            checksums, ends, blocks, scales = {}, {}, {}, {}
            for spec in recipe.frontier:
                dtype = dtypes[spec.name]
                chunks = stored_chunks(file, f"features/{spec.name}", dtype)
                place = find_array(file, f"features/{spec.name}", dtype) if chunks is None else chunks
                shape = codec.storage_shape(spec.value_shape, spec.dtype)
                count = len(ids)
                if spec.ragged:
                    ends[spec.name] = read_array(file, f"ends/{spec.name}", np.dtype("<i8"), rank=1)
                    count = last_end(ends[spec.name], len(ids))
                _check_shape(path, f"array {spec.name!r}", place.shape, (count, *shape))
                scales_shape = codec.scales_shape(spec.value_shape, spec.dtype)
                if scales_shape is not None:
                    scales[spec.name] = read_array(file, f"scales/{spec.name}", np.dtype("<f4"), rank=2)
                    _check_shape(path, f"scales of {spec.name!r}", scales[spec.name].shape, scales_shape)
                places[spec.name] = place
                checksums[spec.name] = read_array(file, f"checksums/{spec.name}", np.dtype("<u8"), rank=1)
                blocks[spec.name] = _block_size(path, attributes, "block_steps" if spec.ragged else "block_rows")
                if chunks is not None and chunks.chunk_rows != min(blocks[spec.name], count):
                    raise CorruptError(
                        f"{path} cannot be trusted: {spec.name!r} has chunks of {chunks.chunk_rows} rows. Delete it to "
                        "have its rows recomputed."
                    )
        if shard_digest(recipe.fingerprint, ids, views, blocks, checksums, ends, scales) != path.stem:
            raise CorruptError(
                f"{path} is damaged: its ids, views or checksums do not match its name. "
                "Run `featcache verify`; delete the file to have its rows recomputed."
            )
        features: dict[str, Array | CompressedArray] = {}
        for name, place in places.items():
            if isinstance(place, StoredArray):
                features[name] = map_array(path, place)
            else:
                features[name] = CompressedArray(path, place, _block_check(path, checksums[name], place.chunk_rows))
        return cls(path, recipe, ids, views, _provenance(attributes), features, checksums, blocks, ends, scales, places)

    def check(self, rows: Array | None = None) -> None:
        """Check the blocks that hold ``rows`` (default: all), each once; raises ``CorruptError`` if one is damaged.

        Compressed ones are checked whenever they are decoded, so only a check of all rows decodes them here.
        """
        for name, values in self.features.items():
            checked = self._checked[name]
            if rows is not None and isinstance(values, CompressedArray):
                continue
            touched = np.arange(len(checked)) if rows is None else self._blocks_of(name, rows)
            touched = touched[~checked[touched]]
            if not len(touched):
                continue
            blocks = np.unique(touched)
            bad = self._damaged_blocks(name, blocks)
            if len(bad):
                raise _damaged(self.path, *self._rows_of(name, int(bad[0])))
            checked[blocks] = True

    def load(self, name: str, rows: Array, places: Array, out: Array, as_stored: bool, direct: bool = False) -> None:
        """Put some rows of an uncompressed tensor, checked, at their ``places`` in ``out``: ``as_stored``, or decoded.

        ``direct`` is that of ``featcache.hdf5.spans.read_rows``. Raises ``CorruptError`` where a row is damaged.
        """
        spec = next(each for each in self.recipe.frontier if each.name == name)
        place, size, checked, scales = self.places[name], self.blocks[name], self._checked[name], self.scales.get(name)
        assert isinstance(place, StoredArray)
        unchecked = np.zeros(len(checked), bool)
        unchecked[rows // size] = True
        unchecked &= ~checked

        def check(block: int, values: Array) -> None:
            if not _matches(self.checksums[name], block, values):
                raise _damaged(self.path, *self._rows_of(name, block))
            checked[block] = True

        codec = load_codec(self.recipe.dtype)
        decode = None if as_stored else lambda values: codec.decode(values, spec.value_shape, spec.dtype, scales)
        wanted = Wanted(places, out, decode)
        try:
            read_rows(self.path, place, rows, wanted, Blocks(size, unchecked, check), direct)
        except FileNotFoundError:  # removed since it was opened: the map still holds it
            self.check(rows)
            wanted.put(0, len(rows), np.asarray(self.features[name]), rows)

    def take(self, name: str, rows: Array) -> Array | Ragged:
        """Return the stored values of some rows of a tensor, copied; it is for the caller to check them."""
        values, ends = self.features[name], self.ends.get(name)
        chosen, new_ends = (rows, None) if ends is None else steps_of(ends, rows)
        taken = values.take(chosen) if isinstance(values, CompressedArray) else gather(values, chosen)
        return taken if new_ends is None else Ragged(taken, new_ends)

    def decoded(self, name: str, rows: Array) -> Array | Ragged:
        """Return the values of some rows of a tensor as the suffix gets them; it is for the caller to check them."""
        spec = next(each for each in self.recipe.frontier if each.name == name)
        taken, codec = self.take(name, rows), load_codec(self.recipe.dtype)
        stored_values = taken.values if isinstance(taken, Ragged) else taken
        values = codec.decode(stored_values, spec.value_shape, spec.dtype, self.scales.get(name))
        return Ragged(values, taken.ends) if isinstance(taken, Ragged) else values

    @property
    def compression(self) -> str | None:
        """Return how the features are compressed, None if they are not."""
        return "zstd" if any(isinstance(each, CompressedArray) for each in self.features.values()) else None

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
        bad = []
        for block in blocks.tolist():
            if isinstance(values, CompressedArray):
                try:
                    values.chunk(block)
                except CorruptError:
                    bad.append(block)
            elif not _matches(expected, block, values[block * size : (block + 1) * size]):
                bad.append(block)
        return np.array(bad, dtype=np.int64)


def read_ids(path: Path, fingerprint: str) -> tuple[Array, Array]:
    """Return the sample ids (rows, 16) and views (rows,) of a shard, without touching its features."""
    with open_file(path) as file:
        return _header(path, file, read_attributes(file, ("format", "recipe")), fingerprint)


def _block_check(path: Path, expected: Array, chunk_rows: int) -> Callable[[int, Array], None]:
    def check(number: int, values: Array) -> None:
        if not len(values) or not _matches(expected, number, values):
            raise _damaged(path, number * chunk_rows, (number + 1) * chunk_rows)

    return check


def _matches(expected: Array, block: int, values: Array) -> bool:
    return block < len(expected) and checksum(values) == int(expected[block])


def _check_shape(path: Path, what: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise CorruptError(
            f"{path} cannot be trusted: the {what} has shape {found} where {expected} belongs. "
            "Delete the file to have its rows recomputed."
        )


def _damaged(path: Path, first: int, last: int) -> CorruptError:
    return CorruptError(
        f"{path} is damaged: rows {first} to {last - 1} do not match their checksum. "
        "Run `featcache verify`; delete the file to have its rows recomputed."
    )


def _block_size(path: Path, attributes: dict[str, Any], name: str) -> int:
    size = attributes.get(name)
    if not isinstance(size, int) or not 1 <= size <= MAX_BLOCK:
        raise CorruptError(f"{path} is damaged: its {name} is {size!r}. Delete it to have its rows recomputed.")
    return size


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
