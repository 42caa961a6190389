"""A snapshot: the ordered list of (sample id, name, target, split) of a dataset as extract saw it."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .errors import CorruptError
from .hdf5 import open_file, read_array, read_attributes
from .newhdf5 import create_file

__all__ = ["Snapshot", "read_snapshot", "write_snapshot"]

SNAPSHOT_FORMAT = "featcache-snapshot-1"

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What a dataset held: aligned ``ids`` (n, 16), ``names``, ``targets`` (n, …) and ``splits``; and its ``classes``."""

    dataset: str
    ids: Array
    names: Sequence[str]
    targets: Array
    splits: Sequence[str]
    classes: Sequence[str] | None = None

    def __post_init__(self) -> None:
        # Maps of class numbers take a byte a pixel, not eight.
        if self.targets.ndim > 2 and self.targets.dtype.kind in "iu":
            object.__setattr__(self, "targets", _narrowed(self.targets))

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def digest(self) -> str:
        """Return the name of the snapshot: 32 hexadecimal characters over all that it holds."""
        digest = hashlib.sha256(SNAPSHOT_FORMAT.encode())
        for name, values in _arrays(self).items():
            digest.update(f"\0{name}\0{values.dtype.str}\0{values.shape}\0".encode())
            digest.update(values.tobytes())
        digest.update(_notes(self).encode())
        return digest.hexdigest()[:32]


def write_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot to a new HDF5 file."""
    attributes = {"format": SNAPSHOT_FORMAT, "dataset": snapshot.dataset, "notes": _notes(snapshot)}
    with create_file(path, attributes) as file:
        for name, values in _arrays(snapshot).items():
            file.array(name, values)


def read_snapshot(path: Path) -> Snapshot:
    """Return the snapshot in a file; raises :class:`CorruptError` if it is not whole, or not what its name says."""
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
        names = _unpack(read_array(file, "names", np.dtype("u1"), 1), read_array(file, "name_ends", np.dtype("<i8"), 1))
    try:
        splits = [notes["splits"][code] for code in split_codes.tolist()]
        snapshot = Snapshot(str(attributes["dataset"]), ids, names, targets, splits, notes["classes"])
        aligned = ids.shape[1] == 16 and len(ids) == len(names) == len(targets) == len(splits)
        if not aligned or snapshot.digest != path.stem:
            raise CorruptError(
                f"{path} is damaged: it does not match its name. Run `featcache extract` to write it anew."
            )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise CorruptError(f"{path} is damaged ({error!r}). Run `featcache extract` to write it anew.") from error
    return snapshot


def _narrowed(values: Array) -> Array:
    """Return whole numbers in the smallest type that holds them all."""
    least, most = (values.min(), values.max()) if values.size else (0, 0)
    kinds = (np.uint8, np.int16, np.int32, np.int64)
    return values.astype(next(kind for kind in kinds if np.iinfo(kind).min <= least and most <= np.iinfo(kind).max))


def _arrays(snapshot: Snapshot) -> dict[str, Array]:
    names = [name.encode("utf-8", "surrogateescape") for name in snapshot.names]
    known = _split_names(snapshot)
    return {
        "ids": np.ascontiguousarray(snapshot.ids, dtype=np.uint8),
        "name_ends": np.cumsum([len(name) for name in names], dtype="<i8"),
        "names": np.frombuffer(b"".join(names), dtype=np.uint8),
        "split_codes": np.array([known[split] for split in snapshot.splits], dtype=np.uint8),
        "targets": np.ascontiguousarray(snapshot.targets),
    }


def _split_names(snapshot: Snapshot) -> dict[str, int]:
    return {name: code for code, name in enumerate(sorted(set(snapshot.splits)))}


def _notes(snapshot: Snapshot) -> str:
    classes = None if snapshot.classes is None else list(snapshot.classes)
    return json.dumps({"classes": classes, "splits": list(_split_names(snapshot))}, sort_keys=True)


def _unpack(text: Array, ends: Array) -> list[str]:
    # Ends that fall could ask for the same text again and again, beyond any memory.
    if (len(ends) and (ends[0] < 0 or (ends[1:] < ends[:-1]).any())) or (ends[-1] if len(ends) else 0) != len(text):
        raise ValueError("the ends of its names do not rise to the end of the text")
    content = text.tobytes()
    starts = [0, *ends.tolist()]
    return [content[a:b].decode("utf-8", "surrogateescape") for a, b in itertools.pairwise(starts)]
