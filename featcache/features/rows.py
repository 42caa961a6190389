"""Where the rows of features come from: memory-mapped shards, or arrays in memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch

from ..codecs import FLOATING, MASK, load_codec
from ..errors import CorruptError
from ..hdf5 import CompressedArray, Ragged, gather
from ..store import FeatureSet, Shard, hold, keep_alive
from .memory import Empty, in_large_pages

__all__ = ["LoadedRows", "Rows", "ShardRows"]

HELD = {"float16": torch.float16, "bfloat16": torch.bfloat16}  # held in memory as they are stored
AS_STORED = ("float32", *HELD)  # precisions whose decoding changes no more than the type
PIECE_BYTES = 1 << 20  # of rows that are decoded at once, while they are in the processor's cache
READ_BYTES = 64 << 20  # of rows that are decoded at once on their way into memory

Array = np.ndarray[Any, Any]


class Rows(Protocol):
    """A source of rows, addressed by position."""

    def gather(self, positions: Array, empty: Empty = in_large_pages) -> dict[str, torch.Tensor]:
        """Return the decoded rows at ``positions``, by tensor name, in memory of ``empty`` where that can be."""

    def load(self, positions: Array) -> LoadedRows:
        """Return the decoded rows at ``positions``, held in memory."""

    def steps(self, positions: Array) -> int:
        """Return how many steps the rows at ``positions`` have in all, where samples vary in length."""


class LoadedRows:
    """Rows in memory: of each tensor one array, or where samples vary in length all their steps and where each ends.

    Half precisions are held as such, and given out as float32.
    """

    def __init__(self, values: Mapping[str, torch.Tensor | Ragged]) -> None:
        self.values = dict(values)

    def gather(self, positions: Array, empty: Empty = in_large_pages) -> dict[str, torch.Tensor]:
        """Return the rows at ``positions``; those that vary in length padded with zeros, and their mask."""
        gathered: dict[str, torch.Tensor] = {}
        masks = []
        for name, values in self.values.items():
            if isinstance(values, Ragged):
                gathered[name], mask = _padded(values.take(positions))
                masks.append(mask)
            elif values.dtype in HELD.values():
                gathered[name] = _take_upcast(values, positions, empty)
            else:
                gathered[name] = empty((len(positions), *values.shape[1:]), values.dtype)
                gather(values.numpy(), positions, gathered[name].numpy())
        return _with_mask(gathered, masks)

    def load(self, positions: Array) -> LoadedRows:
        """Return the rows at ``positions``, copied."""
        taken: dict[str, torch.Tensor | Ragged] = {}
        for name, values in self.values.items():
            if isinstance(values, Ragged):
                taken[name] = values.take(positions)
            else:
                taken[name] = values[torch.from_numpy(positions)]
        return LoadedRows(taken)

    def steps(self, positions: Array) -> int:
        """Return how many steps the rows at ``positions`` have in all, where samples vary in length."""
        for values in self.values.values():
            if isinstance(values, Ragged):
                return int(np.diff(values.ends, prepend=0)[positions].sum())
        return 0


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
        self._specs = feature_set.recipe.frontier
        self._ragged = [spec.name for spec in self._specs if spec.ragged]

    def __getstate__(self) -> dict[str, Any]:
        # Maps do not pickle; another process opens its own.
        return {**self.__dict__, "_opened": {}}

    def gather(self, positions: Array, empty: Empty = in_large_pages) -> dict[str, torch.Tensor]:
        """Return the decoded rows at ``positions``; those that vary in length padded with zeros, and their mask.

        Raises ``CorruptError`` for damaged ones.
        """
        keep_alive(self.feature_set.storage, self.feature_set.recipe.fingerprint)
        gathered: dict[str, torch.Tensor] = {}
        masks = []
        for name, values in self._decoded(positions).items():
            if isinstance(values, Ragged):
                gathered[name], mask = _padded(values)
                masks.append(mask)
            else:
                gathered[name] = torch.from_numpy(values)
        return _with_mask(gathered, masks)

    def load(self, positions: Array, empty: Empty = in_large_pages, direct: bool = False) -> LoadedRows:
        """Return the decoded rows at ``positions``, held in memory of ``empty``; those that vary in length without padding.

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
            dtype = getattr(torch, spec.dtype)
            if spec.dtype in FLOATING:
                dtype = HELD.get(self._codec.name, torch.float32)
            held[spec.name] = empty((len(positions), *spec.value_shape), dtype)
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
        changes = np.flatnonzero(np.diff(numbers)) + 1
        if len(np.unique(numbers)) == len(changes) + 1:  # as they lie, or all in one
            for start, stop in itertools.pairwise([0, *changes.tolist(), len(numbers)]):
                yield self._shard(int(numbers[start])), slice(start, stop)
            return
        order = np.argsort(numbers, kind="stable")
        for places in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1):
            yield self._shard(int(numbers[places[0]])), places

    def _nothing(self) -> dict[str, Array | Ragged]:
        made: dict[str, Array | Ragged] = {}
        for spec in self._specs:
            shape = spec.value_shape
            dtype = np.float32 if spec.dtype in FLOATING else self._codec.storage_dtype(spec.dtype)
            empty = np.empty((0, *shape), dtype)
            made[spec.name] = Ragged(empty, np.empty(0, dtype="<i8")) if spec.ragged else empty
        return made

    def _shard(self, number: int) -> Shard:
        shard = self._opened.get(number)
        if shard is None:
            shard = self._opened[number] = self.feature_set.open_shard(self._names[number])
        return shard


def _with_mask(gathered: dict[str, torch.Tensor], masks: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    # Behind the frontier, whose first tensor is the cut's own; a frontier that has a mask of that name keeps it.
    if masks and MASK not in gathered:
        gathered[MASK] = masks[0]
    return gathered


def _padded(rows: Ragged) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of varying length padded with zeros (rows, longest, …), and which steps are their own (rows, longest)."""
    lengths = np.diff(rows.ends, prepend=0)
    longest = int(lengths.max(initial=0))
    mask = np.arange(longest) < lengths[:, None]
    padded = np.zeros((len(lengths), longest, *rows.values.shape[1:]), dtype=rows.values.dtype)
    padded[mask] = rows.values
    return torch.from_numpy(padded), torch.from_numpy(mask)


def _take_upcast(values: torch.Tensor, rows: Array, empty: Empty) -> torch.Tensor:
    """Return rows of a half precision as float32, a few at a time: the conversion finds them in the processor's cache."""
    gathered = empty((len(rows), *values.shape[1:]), torch.float32)
    plain = values.view(torch.int16).numpy()  # numpy knows no bfloat16
    count = max(1, PIECE_BYTES // max(1, values[:1].nbytes))
    for start in range(0, len(rows), count):
        taken = torch.from_numpy(gather(plain, rows[start : start + count]))
        gathered[start : start + count] = taken.view(values.dtype)
    return gathered
