"""A snapshot: the ordered list of (sample id, name, target, split) of a dataset as extract saw it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CorruptError
from ..hdf5 import create_file, open_file, read_array, read_attributes
from .columns import CodedColumn, TextColumn

__all__ = ["Snapshot", "read_snapshot", "write_snapshot"]

SNAPSHOT_FORMAT = "featcache-snapshot-1"

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What a dataset held: aligned ``ids`` (n, 16), ``names``, ``targets`` (n, …) and ``splits``; and its ``classes``.

    Names and splits are given as any texts, and become columns, which read like lists.
    """

    dataset: str
    ids: Array
    names: Sequence[str]
    targets: Array
    splits: Sequence[str]
    classes: Sequence[str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", TextColumn.of(self.names))
        object.__setattr__(self, "splits", CodedColumn.of(self.splits))
        # Maps of class numbers take a byte a pixel, not eight.
        if self.targets.ndim > 2 and self.targets.dtype.kind in "iu":
            object.__setattr__(self, "targets", _narrowed(self.targets))

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def digest(self) -> str:
        """Return the name of the snapshot: 32 hexadecimal characters over all that it holds."""
        digest = hashlib.sha256(SNAPSHOT_FORMAT.encode())
        for name, values in _arrays(self):
            digest.update(f"\0{name}\0{values.dtype.str}\0{values.shape}\0".encode())
            digest.update(values.reshape(-1).view(np.uint8).data)
        digest.update(_notes(self).encode())
        return digest.hexdigest()[:32]


def write_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot to a new HDF5 file."""
    attributes = {"format": SNAPSHOT_FORMAT, "dataset": snapshot.dataset, "notes": _notes(snapshot)}
    with create_file(path, attributes) as file:
        for name, values in _arrays(snapshot):
            file.array(name, values)


def read_snapshot(path: Path) -> Snapshot:
    """Return the snapshot in a file; raises ``CorruptError`` if it is not whole, or not what its name says."""
    with open_file(path) as file:
        attributes = read_attributes(file)
        if attributes.get("format") != SNAPSHOT_FORMAT:
            raise CorruptError(
                f"{path} is not a snapshot that this featcache reads (format {attributes.get('format')!r}). "
                "Upgrade featcache, or delete the file and run `featcache extract` again."
            )
        try:
            notes = json.loads(attributes.get("notes", "{}"))
        except RecursionError as error:
            raise CorruptError(f"{path} is damaged: its notes are nested beyond measure. Delete the file.") from error
        ids = read_array(file, "ids", np.dtype("u1"), rank=2)
        targets = read_array(file, "targets")
        split_codes = read_array(file, "split_codes", np.dtype("u1"), rank=1)
        names = TextColumn.packed(
            read_array(file, "names", np.dtype("u1"), 1), read_array(file, "name_ends", np.dtype("<i8"), 1)
        )
    try:
        splits = CodedColumn(split_codes, notes["splits"])
        snapshot = Snapshot(str(attributes["dataset"]), ids, names, targets, splits, notes["classes"])
        aligned = ids.shape[1] == 16 and len(ids) == len(names) == len(targets) == len(splits)
        if not aligned or snapshot.digest != path.stem:
            raise CorruptError(
                f"{path} is damaged: it does not match its name. Run `featcache extract` to write it again."
            )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise CorruptError(f"{path} is damaged ({error!r}). Run `featcache extract` to write it again.") from error
    return snapshot


def _narrowed(values: Array) -> Array:
    """Return whole numbers in the smallest type that holds them all."""
    least, most = (values.min(), values.max()) if values.size else (0, 0)
    kinds = (np.uint8, np.int16, np.int32, np.int64)
    return values.astype(next(kind for kind in kinds if np.iinfo(kind).min <= least and most <= np.iinfo(kind).max))


def _arrays(snapshot: Snapshot) -> Iterator[tuple[str, Array]]:
    """Yield name and values of each array of a snapshot's file; one after another, since they are copies."""
    names, splits = TextColumn.of(snapshot.names), CodedColumn.of(snapshot.splits)
    yield "ids", np.ascontiguousarray(snapshot.ids, dtype=np.uint8)
    yield "name_ends", names.ends.astype("<i8")
    yield "names", names.content
    yield "split_codes", splits.codes.astype(np.uint8, casting="safe")
    yield "targets", np.ascontiguousarray(snapshot.targets)


def _notes(snapshot: Snapshot) -> str:
    classes = None if snapshot.classes is None else list(snapshot.classes)
    return json.dumps({"classes": classes, "splits": list(CodedColumn.of(snapshot.splits).table)}, sort_keys=True)
