"""Rows of shards: mapped where they are stored as they are given out, else decoded."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from ..codecs import FLOATING, load_codec
from ..errors import CorruptError
from ..hdf5 import CompressedArray, Part, Ragged, StoredArray, join_arrays
from ..store import FeatureSet, Shard, hold, keep_alive
from ..tensorspec import TensorSpec
from .memory import Empty, in_large_pages
from .rows import HELD, LoadedRows, padded, with_mask

__all__ = ["ShardRows"]

AS_STORED = ("float32", *HELD)  # precisions whose decoding changes no more than the type
OPENED_AT_ONCE = 4  # shards; a remote one is downloaded first
READ_BYTES = 64 << 20  # of rows that are decoded at once on their way into memory

Array = np.ndarray[Any, Any]
Joined = dict[str, tuple[torch.Tensor, Array]]  # of each tensor: all shards' rows, and where each row lies


class ShardRows:
    """Rows of a set for a list of sample ids; shards are opened, mapped and checked when they are first touched.

    A memory map goes around the HDF5 library, whose per-call cost and global lock make row-wise h5py reading slow.
    """

    def __init__(self, feature_set: FeatureSet, ids: Array, views: Array | int = 0) -> None:
        # Without its index, of which no more than these rows is needed from here on.
        self.feature_set = FeatureSet(feature_set.storage, feature_set.recipe)
        hold(feature_set.storage, feature_set.recipe.fingerprint, self)
        self.present, self._shards, self._rows = feature_set.index().find(ids, views)
        self._ids, self._views = ids, np.broadcast_to(np.asarray(views, dtype=np.uint32), len(ids))
        self._names = feature_set.shard_names()
        self._codec = load_codec(feature_set.recipe.dtype)
        self._opened: dict[int, Shard] = {}
        self._joined: Joined | None = None
        self._checked = np.zeros(0, dtype=bool)  # of each row, once they are mapped
        self._loaded: list[tuple[Array, LoadedRows]] = []
        self._specs = feature_set.recipe.frontier
        self._ragged = [spec.name for spec in self._specs if spec.ragged]

    def __getstate__(self) -> dict[str, Any]:
        # Maps do not pickle; another process opens its own.
        return {
            **self.__dict__,
            "_opened": {},
            "_joined": None,
            "_loaded": [],
        }

    def gather(self, positions: Array, empty: Empty = in_large_pages) -> dict[str, torch.Tensor]:
        """Return the decoded rows at ``positions``; those that vary in length padded with zeros, and their mask.

        Raises ``CorruptError`` for damaged ones.
        """
        keep_alive(self.feature_set.storage, self.feature_set.recipe.fingerprint)
        gathered: dict[str, torch.Tensor] = {}
        masks = []
        for name, values in self._decoded(positions).items():
            if isinstance(values, Ragged):
                gathered[name], mask = padded(values)
                masks.append(mask)
            else:
                gathered[name] = torch.from_numpy(values)
        return with_mask(gathered, masks)

    def load(self, positions: Array) -> LoadedRows:
        """Return the rows at ``positions``, decoded and held; who asks for the same ones next gets the same memory.

        Raises ``CorruptError`` for damaged ones.
        """
        for known, loaded in self._loaded:
            if np.array_equal(known, positions):
                return loaded
        loaded = self.read(positions)
        # As many as there are rows in all: those to train on and those to validate by, say.
        self._loaded.append((positions, loaded))
        while len(self._loaded) > 1 and sum(len(each) for each, _ in self._loaded) > len(self._ids):
            del self._loaded[0]
        return loaded

    @property
    def shared(self) -> bool:
        """Return whether rows in memory are pages of their files, which other loaders and processes share."""
        if self._ragged or self._codec.name not in AS_STORED:
            return False
        if self._joined is None:
            self._joined, self._checked = self._join(), np.zeros(len(self._ids), dtype=bool)
        return bool(self._joined)

    def _join(self) -> Joined:
        """Return the shards' rows as one array for each tensor; nothing where they are not stored as they are given out."""
        numbers = np.flatnonzero(np.bincount(self._shards[self.present])).tolist()
        shards = self._open(numbers)
        joined: Joined = {}
        for spec in self._specs:
            held = torch.empty(0, dtype=self._held_as(spec))
            places = [shard.places[spec.name] for shard in shards]
            parts = [
                Part(shard.path, place, values)
                for shard, place in zip(shards, places, strict=True)
                if isinstance(place, StoredArray)
                and isinstance(values := shard.features[spec.name], np.ndarray)
                and values.dtype == self._plain(held).dtype
            ]
            if not parts or len(parts) < len(shards):
                return {}
            array, starts = join_arrays(parts)
            for shard, start in zip(shards, starts, strict=True):
                shard.features[spec.name] = array[start : start + len(shard.features[spec.name])]
            firsts = np.zeros(numbers[-1] + 1, dtype=np.int64)
            firsts[numbers] = starts
            plain = array.view(np.int16) if held.dtype in HELD.values() else array
            where = np.where(self.present, firsts[np.where(self.present, self._shards, 0)] + self._rows, 0)
            joined[spec.name] = torch.from_numpy(plain).view(held.dtype), where
        return joined

    def mapped(self, positions: Array) -> LoadedRows:
        """Return all rows, in the pages of their files; those at ``positions`` are checked, and others are not to be asked for.

        Raises ``CorruptError`` for damaged ones. The rows must be ``shared``.
        """
        if not self.shared or self._joined is None:
            raise ValueError("these rows are not stored as they are given out")
        new = positions[~self._checked[positions]]
        for shard, places in self._by_shard(new):
            rows = self._rows[new[places]]
            self._check_ids(shard, rows, new[places])
            shard.check(rows)
        self._checked[new] = True
        values = {name: each for name, (each, _) in self._joined.items()}
        return LoadedRows(values, {name: where for name, (_, where) in self._joined.items()}, self)

    def _held_as(self, spec: TensorSpec) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, spec.dtype)
        return HELD.get(self._codec.name, torch.float32) if spec.dtype in FLOATING else dtype

    def read(self, positions: Array, empty: Empty = in_large_pages, direct: bool = False) -> LoadedRows:
        """Return the decoded rows at ``positions``, copied into memory of ``empty``; those that vary in length without padding.

        ``direct`` reads around the page cache where the system can.
        """
        if self._ragged or not len(positions):
            return LoadedRows(
                {
                    name: each if isinstance(each, Ragged) else torch.from_numpy(each)
                    for name, each in self._decoded(positions).items()
                }
            )
        held: dict[str, torch.Tensor] = {}
        keep_alive(self.feature_set.storage, self.feature_set.recipe.fingerprint)
        for spec in self._specs:
            held[spec.name] = empty((len(positions), *spec.value_shape), self._held_as(spec))
        for shard, places in self._by_shard(positions):
            rows = self._rows[positions[places]]
            self._check_ids(shard, rows, positions[places])
            where = np.arange(len(positions))[places]
            for name, values in held.items():
                if isinstance(shard.features[name], CompressedArray):
                    for part in np.array_split(np.arange(len(rows)), -(-values[: len(rows)].nbytes // READ_BYTES)):
                        decoded = torch.from_numpy(np.asarray(shard.decoded(name, rows[part])))
                        values[torch.from_numpy(where[part])] = decoded.to(values.dtype)
                else:
                    shard.load(name, rows, where, self._plain(values), self._codec.name in AS_STORED, direct)
        return LoadedRows(held)

    def _plain(self, values: torch.Tensor) -> Array:
        """Return memory for rows as numpy knows its type: what is held as stored, as what it is stored as."""
        if values.dtype in HELD.values():
            plain: Array = values.view(torch.int16).numpy().view(self._codec.storage_dtype("float32"))
            return plain
        return values.numpy()

    def steps(self, positions: Array) -> int:
        """Return how many steps the rows at ``positions`` have in all, where samples vary in length."""
        return int(self.lengths(positions).sum()) if self._ragged else 0

    def lengths(self, positions: Array) -> Array:
        """Return how many steps the rows at ``positions`` have, of the first tensor that varies in length."""
        lengths = np.zeros(len(positions), dtype=np.int64)
        for shard, places in self._by_shard(positions):
            ends, rows = shard.ends[self._ragged[0]], self._rows[positions[places]]
            lengths[places] = ends[rows] - np.where(rows > 0, ends[rows - 1], 0)
        return lengths

    def _decoded(self, positions: Array) -> dict[str, Array | Ragged]:
        """Return the decoded rows at ``positions``, in fresh memory."""
        if not len(positions):
            return self._nothing()
        whole: dict[str, Array] = {}
        joined: dict[str, list[Ragged]] = {name: [] for name in self._ragged}
        order = []
        for shard, places in self._by_shard(positions):
            rows = self._rows[positions[places]]
            self._check_ids(shard, rows, positions[places])
            shard.check(rows)
            order.append(np.arange(len(positions))[places])
            for spec in self._specs:
                decoded = shard.decoded(spec.name, rows)
                if isinstance(decoded, Ragged):
                    joined[spec.name].append(decoded)
                elif len(rows) == len(positions):
                    whole[spec.name] = decoded
                else:
                    if spec.name not in whole:
                        whole[spec.name] = np.empty((len(positions), *decoded.shape[1:]), decoded.dtype)
                    whole[spec.name][places] = decoded
        back = np.argsort(np.concatenate(order))
        ragged = {
            name: parts[0] if len(parts) == 1 else Ragged.joined(parts).take(back) for name, parts in joined.items()
        }
        return {spec.name: ragged[spec.name] if spec.ragged else whole[spec.name] for spec in self._specs}

    def _check_ids(self, shard: Shard, rows: Array, positions: Array) -> None:
        """Raise ``CorruptError`` where rows are not those of the samples: the index may come from a damaged file."""
        same = np.array_equal(shard.ids.take(rows, 0), self._ids.take(positions, 0))  # four times as fast as an index
        if not same or not np.array_equal(shard.views[rows], self._views[positions]):
            url = self.feature_set.storage.url
            raise CorruptError(f"cache/index in {url} leads to wrong rows: delete that folder, it is made again.")

    def _by_shard(self, positions: Array) -> Iterator[tuple[Shard, Any]]:
        """Yield each shard that holds some of the rows, and which of them: a slice where they follow one another."""
        if not len(positions):
            return
        numbers = self._shards[positions]
        wanted = np.unique(numbers)
        self._open(wanted.tolist())
        changes = np.flatnonzero(np.diff(numbers)) + 1
        if len(wanted) == len(changes) + 1:  # as they lie, or all in one
            for start, stop in itertools.pairwise([0, *changes.tolist(), len(numbers)]):
                yield self._opened[int(numbers[start])], slice(start, stop)
            return
        order = np.argsort(numbers, kind="stable")
        for places in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1):
            yield self._opened[int(numbers[places[0]])], places

    def _nothing(self) -> dict[str, Array | Ragged]:
        made: dict[str, Array | Ragged] = {}
        for spec in self._specs:
            shape = spec.value_shape
            dtype = np.float32 if spec.dtype in FLOATING else self._codec.storage_dtype(spec.dtype)
            empty = np.empty((0, *shape), dtype)
            made[spec.name] = Ragged(empty, np.empty(0, dtype="<i8")) if spec.ragged else empty
        return made

    def _open(self, numbers: list[int]) -> list[Shard]:
        """Return shards, several of which are opened at once where they were not before."""
        new = [number for number in numbers if number not in self._opened]
        if new:
            with ThreadPoolExecutor(OPENED_AT_ONCE) as pool:
                opened = pool.map(lambda number: self.feature_set.open_shard(self._names[number]), new)
                self._opened.update(zip(new, opened, strict=True))
        return [self._opened[number] for number in numbers]
