"""What lies in a store: feature sets, snapshots, heads; how they are found, read and committed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import CorruptError, NotAStoreError, StaleError, StoreError, StoreFormatError, UsageError
from ..hdf5 import Ragged
from ..identity import Recipe
from ..samples import Snapshot, read_snapshot, write_snapshot
from ..storages import Entry, Storage, open_storage
from .row_index import PIECE, RowIndex, RowKeys, first_rows, row_keys
from .shard import Shard
from .shard_ids import ids_of
from .shard_writer import write_shard

__all__ = ["STORE_FORMAT", "FeatureSet", "StoreFiles"]

STORE_FORMAT = 1
MANY_SHARDS = 64  # whose ids are kept in one file, which is read in a hundredth of the time
SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")

Array = np.ndarray[Any, Any]


@dataclass
class FeatureSet:
    """All rows of one recipe in a store: its shards, and where in them each row lies."""

    storage: Storage
    recipe: Recipe
    _index: RowIndex | None = field(default=None, repr=False)
    _indexed_shards: list[str] = field(default_factory=list, repr=False)
    _kept_shards: int = field(default=0, repr=False)  # in the file that the index was kept in

    @property
    def path(self) -> str:
        """Return the folder of the set inside the store."""
        return f"sets/{self.recipe.fingerprint}"

    def shard_entries(self) -> list[Entry]:
        """Return the files of the set's shards as they are now."""
        return [entry for entry in self.storage.list(self.path) if entry.name.endswith(".h5")]

    def index(self) -> RowIndex:
        """Return where every row lies now, reading the ids of the shards only."""
        entries = self.shard_entries()
        names = [entry.name for entry in entries]
        if self._index is None or names != self._indexed_shards:
            kept = self._kept_index() if self._index is None and len(names) >= MANY_SHARDS else None
            if kept is not None:
                self._index, self._indexed_shards = kept
                self._kept_shards = len(self._indexed_shards)
        if self._index is None or names != self._indexed_shards:
            known = self._keys_by_shard()
            self._index = None  # `known` holds the same, which would be there twice while the new one is made
            unknown = [entry for entry in entries if entry.name not in known]
            known |= {
                name: row_keys(ids, views)
                for name, ids, views in ids_of(self.storage, self.path, unknown, self.recipe.fingerprint)
            }
            self._indexed_shards = [name for name in names if name in known]
            keys = [known[name] for name in self._indexed_shards]
            del known
            self._index = RowIndex.build(keys)
            if len(unknown) >= MANY_SHARDS:
                self._keep(self._index)
        return self._index

    def keep_index(self) -> None:
        """Keep where every row lies in a file, if there are many shards that it does not know yet."""
        index = self.index()
        if len(self._indexed_shards) - self._kept_shards >= MANY_SHARDS:
            self._keep(index)

    def _keep(self, index: RowIndex) -> None:
        with suppress(StoreError):  # a store that may only be read is read without a cache
            with self.storage.create(f"cache/index/{self.recipe.fingerprint}") as temporary:
                index.write(temporary, self._indexed_shards)
            self._kept_shards = len(self._indexed_shards)

    def _kept_index(self) -> tuple[RowIndex, list[str]] | None:
        with suppress(FileNotFoundError, StoreError):
            return RowIndex.read(self.storage.fetch(f"cache/index/{self.recipe.fingerprint}"))
        return None

    def _keys_by_shard(self) -> dict[str, RowKeys]:
        if self._index is None:
            return {}
        return dict(zip(self._indexed_shards, self._index.keys_of(len(self._indexed_shards)), strict=True))

    def shard_names(self) -> list[str]:
        """Return the file names that the numbers in ``index`` stand for."""
        self.index()
        return list(self._indexed_shards)

    def open_shard(self, name: str) -> Shard:
        """Return one shard opened for reading."""
        try:
            return Shard.open(self.storage.fetch(f"{self.path}/{name}"), self.recipe)
        except FileNotFoundError:
            raise StaleError(
                f"{self.path}/{name} in {self.storage.url} was removed since it was looked up. "
                "Run `featcache extract` again; it recomputes what is missing."
            ) from None

    def missing(self, ids: Array, view: int = 0) -> Array:
        """Return the positions of the first occurrence of each id that has no row of the view."""
        lacking: Array = np.flatnonzero(~self.index().has(ids, view))
        return lacking[first_rows(ids if len(lacking) == len(ids) else ids[lacking])]

    def present(self, ids: Array, view: int = 0) -> Array:
        """Return for each id whether it has a row of the view, as booleans."""
        return self.index().has(ids, view)

    def holds(self, ids: Array, rows: Array) -> Array:
        """Return for each of some rows (position in the ids, view), (n, 2), whether it is there, as booleans."""
        index, present = self.index(), np.zeros(len(rows), dtype=bool)
        for start in range(0, len(rows), PIECE):
            piece = rows[start : start + PIECE]
            present[start : start + PIECE] = index.has(ids[piece[:, 0]], piece[:, 1])
        return present

    def skipped(self) -> dict[str, tuple[str, str]]:
        """Return the samples that could not be read: name and reason by hexadecimal id."""
        try:
            noted = json.loads(self.storage.read_bytes(f"{self.path}/skipped.json"))
            return {str(key): (str(name), str(reason)) for key, (name, reason) in noted.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            raise CorruptError(
                f"{self.path}/skipped.json in {self.storage.url} is damaged ({error}). Delete it; extract writes it again."
            ) from error

    def record_skipped(self, unreadable: Mapping[str, tuple[str, str]]) -> None:
        """Remember samples that could not be read, by hexadecimal id, so that the set counts as complete without them."""
        self.declare()
        noted = {**self.skipped(), **unreadable}
        self.storage.write_bytes(f"{self.path}/skipped.json", json.dumps(noted, indent=1, sort_keys=True).encode())

    def add(
        self,
        ids: Array,
        views: Array,
        features: Mapping[str, Array | Ragged],
        provenance: Mapping[str, Any],
        scales: Mapping[str, Array] | None = None,
        compression: str | None = None,
    ) -> str:
        """Commit encoded rows as one new shard and return its file name."""
        self.declare()
        views = views.astype("<u4")
        with self.storage.create(f"{self.path}/shard") as temporary:
            digest = write_shard(
                temporary, self.recipe, np.ascontiguousarray(ids), views, features, provenance, scales, compression
            )
            name = f"{digest}.h5"
            self.storage.commit(temporary, f"{self.path}/{name}")
        return name

    def declare(self) -> None:
        """Write the recipe beside the shards, unless it is there."""
        if not self.storage.exists(f"{self.path}/recipe.json"):
            self.storage.write_bytes(f"{self.path}/recipe.json", self.recipe.to_json().encode())


class StoreFiles:
    """A store at a path or URL, as files.

    The first thing that is written to a store creates it.

    Parameters
    ----------
    url : str
        A folder, or a URL such as ``"s3://bucket/features"``.

    Raises
    ------
    NotAStoreError
        If the folder holds something else.
    StoreFormatError
        If a newer featcache wrote the store.
    """

    def __init__(self, url: str) -> None:
        self.url = str(url)
        self.storage = open_storage(self.url)
        self._check_format()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def create(self) -> None:
        """Write the store's format version, unless it is there."""
        if not self.storage.exists("store.json"):
            note = {
                "format": STORE_FORMAT,
                "what": "a featcache store; see the file format in featcache's docs",
            }
            self.storage.write_bytes("store.json", (json.dumps(note, indent=1) + "\n").encode())

    def size_bytes(self) -> int:
        """Return the bytes of all sets, snapshots and heads.

        Returns
        -------
        int
            The bytes.
        """
        folders = [f"{top}/{each.name}" for top in ("sets", "snapshots", "heads") for each in self.storage.list(top)]
        return sum(entry.size_bytes for folder in folders for entry in self.storage.list(folder))

    def sweep(self, dry_run: bool = False) -> int:
        """Remove the temporary files that dead writers left anywhere in the store.

        Parameters
        ----------
        dry_run : bool, default False
            Only count them.

        Returns
        -------
        int
            The number of temporary files.
        """
        tops = ("sets", "snapshots", "cache", "active")
        below = [f"{top}/{each.name}" for top in tops for each in self.storage.list(top) if each.is_folder]
        return sum(self.storage.sweep(folder, dry_run) for folder in ("", "pins", "heads", *tops, *below))

    def set(self, recipe: Recipe) -> FeatureSet:
        """Return the set of a recipe, which may have no rows yet.

        Parameters
        ----------
        recipe : Recipe
            The recipe.

        Returns
        -------
        FeatureSet
            The set.
        """
        return FeatureSet(self.storage, recipe)

    def recipes(self) -> list[Recipe]:
        """Return the recipes of all sets in the store.

        Returns
        -------
        list of Recipe
            The recipes.

        Raises
        ------
        CorruptError
            If a recipe is damaged, or does not match the name of its set.
        """
        found = []
        for entry in self.storage.list("sets"):
            with suppress(FileNotFoundError):  # a set whose first shard is just being written
                recipe = Recipe.from_json(self.storage.read_bytes(f"sets/{entry.name}/recipe.json"))
                if recipe.fingerprint != entry.name:
                    raise CorruptError(
                        f"the recipe of set {entry.name} in {self.url} does not match its name: it was edited. "
                        "Delete that folder to have its rows recomputed."
                    )
                found.append(recipe)
        return found

    def save_snapshot(self, snapshot: Snapshot) -> None:
        """Record what a dataset holds; it becomes the dataset's latest snapshot.

        Parameters
        ----------
        snapshot : Snapshot
            What the dataset holds.
        """
        folder = f"snapshots/{check_name(snapshot.dataset, 'dataset')}"
        path = f"{folder}/{snapshot.digest}.h5"
        try:
            whole = self.storage.exists(path) and bool(read_snapshot(self.storage.fetch(path)))
        except CorruptError:
            whole = False
        if not whole:
            self._write_snapshot(path, snapshot)
        if self._pointer(folder) != snapshot.digest:
            self.storage.write_bytes(f"{folder}/latest.json", json.dumps({"latest": snapshot.digest}).encode())
            if not self.storage.exists(path):  # gc removed what was not yet the latest
                self._write_snapshot(path, snapshot)

    def _write_snapshot(self, path: str, snapshot: Snapshot) -> None:
        with self.storage.create(path) as temporary:
            write_snapshot(temporary, snapshot)

    def snapshot(self, dataset: str) -> Snapshot:
        """Return the latest snapshot of a dataset.

        Parameters
        ----------
        dataset : str
            The name of the dataset.

        Returns
        -------
        Snapshot
            What the dataset held.

        Raises
        ------
        StaleError
            If the store holds no snapshot of the dataset.
        CorruptError
            If the snapshot is damaged.
        """
        folder = f"snapshots/{check_name(dataset, 'dataset')}"
        digest = self.latest_digest(dataset)
        if digest is None:
            known = ", ".join(entry.name for entry in self.storage.list("snapshots")) or "none"
            raise StaleError(
                f"{self.url} holds no snapshot of the dataset {dataset!r} (it holds: {known}). "
                "Run `featcache extract` first."
            )
        return read_snapshot(self.storage.fetch(f"{folder}/{digest}.h5"))

    def latest_digest(self, dataset: str) -> str | None:
        """Return the digest of the latest snapshot of a dataset.

        Without the note that says which is the latest, it is that of the newest file.

        Parameters
        ----------
        dataset : str
            The name of the dataset.

        Returns
        -------
        str or None
            The digest. None if there is no snapshot.

        Raises
        ------
        CorruptError
            If the note names no snapshot that is there.
        """
        folder = f"snapshots/{check_name(dataset, 'dataset')}"
        files = {entry.name[: -len(".h5")]: entry for entry in self.storage.list(folder) if entry.name.endswith(".h5")}
        if not self.storage.exists(f"{folder}/latest.json"):
            return max(files, key=lambda name: files[name].modified_s) if files else None
        digest = self._pointer(folder)
        if digest not in files:
            # An older snapshot could have other labels, so it is not taken instead.
            raise CorruptError(
                f"{folder}/latest.json in {self.url} is damaged: it names no snapshot that is there. "
                "Run `featcache extract`, which writes it again."
            )
        return digest

    def _pointer(self, folder: str) -> str | None:
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
            return str(json.loads(self.storage.read_bytes(f"{folder}/latest.json"))["latest"])
        return None

    def _check_format(self) -> None:
        try:
            version = json.loads(self.storage.read_bytes("store.json"))["format"]
        except FileNotFoundError:
            if any(not entry.name.startswith(".") for entry in self.storage.list("")):
                raise NotAStoreError(
                    f"{self.url} is not a featcache store: it holds other files and no store.json. "
                    "Choose an empty or new folder with --store."
                ) from None
            return
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise NotAStoreError(
                f"{self.url} is not a featcache store: its store.json is damaged ({error}). "
                f'Restore it as {{"format": {STORE_FORMAT}}} if the sets in it are yours.'
            ) from error
        if not isinstance(version, int) or version > STORE_FORMAT:
            raise StoreFormatError(
                f"{self.url} has store format {version}, this featcache reads up to {STORE_FORMAT}: "
                "upgrade featcache (`pip install -U featcache`), or choose another --store."
            )


def check_name(name: str, noun: str) -> str:
    """Return ``name`` if it can name a folder of the store; raises ``UsageError`` otherwise."""
    if not SAFE_NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of a {noun}: use letters, digits, '.', '_' and '-', at most 100, "
            "and begin with a letter, digit or '_'."
        )
    return name
