"""Reading every byte of a store and comparing it with its checksums; dropping what is damaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..errors import CorruptError, FeatCacheError, StaleError
from ..extraction import EXAMPLE_FILE, check_example
from ..identity import Recipe
from ..samples import read_snapshot
from ..store import FeatureSet, Shard, StoreFiles, check_seal
from ..tables import Records

__all__ = ["Damage", "VerifyReport", "verify"]


@dataclass(frozen=True)
class Damage:
    """A file that is not what it was when it was committed.

    Attributes
    ----------
    path : str
        The path in the store.
    rows : tuple of tuple of int
        The damaged rows, as (first, behind the last). Empty if the whole file is damaged.
    reason : str
        What is wrong.
    repair : str, optional
        What was done about it. None if nothing was.
    """

    path: str
    rows: tuple[tuple[int, int], ...]
    reason: str
    repair: str | None = None


@dataclass
class VerifyReport:
    """How much of a store was read, and what of it is damaged.

    Attributes
    ----------
    sets : int
        The number of sets.
    shards : int
        The number of shards.
    rows : int
        The number of rows.
    snapshots : int
        The number of snapshots.
    heads : int
        The number of heads.
    size_bytes : int
        The bytes of the shards and snapshots.
    damaged : list of Damage
        What is damaged.
    """

    sets: int = 0
    shards: int = 0
    rows: int = 0
    snapshots: int = 0
    heads: int = 0
    size_bytes: int = 0
    damaged: list[Damage] = field(default_factory=Records)

    @property
    def unrepaired(self) -> list[Damage]:
        """The damage that is still there."""
        return [each for each in self.damaged if each.repair is None]


def verify(store: StoreFiles, repair: bool = False) -> VerifyReport:
    """Return what is damaged in a store; every block of every shard, every snapshot and every head is read.

    With ``repair`` damaged rows and files are dropped, so that the next extract makes just those again. A head cannot be
    made again by it and stays. What cannot be read for another reason than damage stays, too.
    """
    checking = _Checking(store, VerifyReport(), repair)
    store.storage.reread()
    for entry in store.storage.list("sets"):
        checking.set(entry.name)
    for folder in store.storage.list("snapshots"):
        checking.snapshots(folder.name)
    for entry in store.storage.list("heads"):
        if entry.is_folder:
            checking.head(entry.name)
    return checking.report


@dataclass
class _Checking:
    store: StoreFiles
    report: VerifyReport
    repair: bool

    def set(self, name: str) -> None:
        """Check a set's recipe, and each of its shards."""
        path = f"sets/{name}/recipe.json"
        recipe: list[Recipe] = []

        def read() -> None:
            recipe.append(Recipe.from_json(self.store.storage.read_bytes(path)))
            if recipe[0].fingerprint != name:
                raise CorruptError("the recipe does not match the name of its set")

        # The shards say themselves whose they are: with the recipe written again, their rows count again.
        if not self.tried(path, read, lambda: self._drop(path)):
            return
        self.report.sets += 1
        feature_set = self.store.set(recipe[0])
        for entry in feature_set.shard_entries():
            self.report.shards += 1
            self.report.size_bytes += entry.size_bytes
            self._shard(feature_set, entry.name)
        skipped = f"{feature_set.path}/skipped.json"
        self.tried(skipped, feature_set.skipped, lambda: self._drop(skipped))
        example = f"{feature_set.path}/{EXAMPLE_FILE}"
        self.tried(example, lambda: check_example(feature_set), lambda: self._drop(example, "with the next new rows"))

    def snapshots(self, dataset: str) -> None:
        """Check each snapshot of a dataset, and the note that says which is the latest."""
        storage, folder = self.store.storage, f"snapshots/{dataset}"
        files = [entry for entry in storage.list(folder) if entry.name.endswith(".h5")]
        for entry in files:
            self.report.snapshots += 1
            self.report.size_bytes += entry.size_bytes
            self._snapshot(f"{folder}/{entry.name}")
        pointer = f"{folder}/latest.json"
        # With one snapshot only there is no doubt which is the latest.
        mend = (lambda: self._drop(pointer)) if len(files) == 1 else None
        self.tried(pointer, lambda: self.store.latest_digest(dataset), mend)

    def head(self, name: str) -> None:
        """Check the files of a head."""
        self.report.heads += 1
        folder = self.store.storage.fetch(f"heads/{name}")
        self.tried(f"heads/{name}", lambda: check_seal(folder))

    def _snapshot(self, path: str) -> None:
        self.tried(path, lambda: read_snapshot(self.store.storage.fetch(path)), lambda: self._drop(path))

    def _shard(self, feature_set: FeatureSet, name: str) -> None:
        path = f"{feature_set.path}/{name}"
        opened: list[Shard] = []
        if not self.tried(path, lambda: opened.append(feature_set.open_shard(name)), lambda: self._drop(path)):
            return
        shard = opened[0]
        self.report.rows += len(shard)
        rows = shard.damaged_rows()
        if rows:
            done = self._rewrite(feature_set, name, shard, rows) if self.repair else None
            self.report.damaged.append(Damage(path, tuple(rows), "rows do not match their checksum", done))

    def tried(self, path: str, check: Callable[[], object], mend: Callable[[], str] | None = None) -> bool:
        """Return whether a file passes a check; report it, and mend it if that was asked for, where it does not."""
        try:
            check()
        except (FileNotFoundError, StaleError):
            return False  # removed meanwhile by another process, which is not damage
        except CorruptError as error:
            done = mend() if self.repair and mend is not None else None
            self.report.damaged.append(Damage(path, (), str(error), done))
            return False
        except FeatCacheError as error:
            self.report.damaged.append(Damage(path, (), str(error)))
            return False
        return True

    def _drop(self, path: str, when: str = "by the next extract") -> str:
        self.store.storage.remove(path)
        return f"removed; it is written again {when}"

    def _rewrite(self, feature_set: FeatureSet, name: str, shard: Shard, damaged: list[tuple[int, int]]) -> str:
        """Write the good rows of a shard as a new one, then remove the damaged one; no row is without a shard between."""
        good = np.ones(len(shard), dtype=bool)
        for first, last in damaged:
            good[first:last] = False
        rows = np.flatnonzero(good)
        if len(rows):
            features = {each: shard.take(each, rows) for each in shard.features}
            made_by = {**shard.provenance, "repaired_from": name}
            ids, views = shard.ids[rows], shard.views[rows]
            feature_set.add(ids, views, features, made_by, shard.scales, shard.compression)
        self.store.storage.remove(f"{feature_set.path}/{name}")
        return f"{len(shard) - len(rows)} rows dropped, {len(rows)} kept; the next extract recomputes what was dropped"
