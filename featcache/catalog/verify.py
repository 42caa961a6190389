"""Reading every byte of a store and comparing it with its checksums."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import CorruptError, FeatCacheError
from ..recipe import Recipe
from ..snapshot import read_snapshot
from ..store import FeatureSet, StoreFiles

__all__ = ["Damage", "VerifyReport", "verify"]


@dataclass(frozen=True)
class Damage:
    """A file that is not what it was when it was committed, the rows concerned (all if none is named), and why."""

    path: str
    rows: tuple[tuple[int, int], ...]
    reason: str


@dataclass
class VerifyReport:
    """How much was read, and what of it is damaged."""

    sets: int = 0
    shards: int = 0
    rows: int = 0
    snapshots: int = 0
    size_bytes: int = 0
    damaged: list[Damage] = field(default_factory=list)


def verify(store: StoreFiles) -> VerifyReport:
    """Return what is damaged in a store; every block of every shard and every snapshot is read."""
    report = VerifyReport()
    store.storage.reread()
    for entry in store.storage.list("sets"):
        path = f"sets/{entry.name}/recipe.json"
        try:
            recipe = Recipe.from_json(store.storage.read_bytes(path))
        except FileNotFoundError:
            continue  # a set that another process is just beginning
        except CorruptError as error:
            report.damaged.append(Damage(path, (), str(error)))
            continue
        if recipe.fingerprint != entry.name:
            report.damaged.append(Damage(path, (), "the recipe does not match the name of its set"))
            continue
        report.sets += 1
        _verify_set(store.set(recipe), report)
    for folder in store.storage.list("snapshots"):
        for entry in store.storage.list(f"snapshots/{folder.name}"):
            if entry.name.endswith(".h5"):
                path = f"snapshots/{folder.name}/{entry.name}"
                report.snapshots += 1
                report.size_bytes += entry.size_bytes
                try:
                    read_snapshot(store.storage.fetch(path))
                except (FeatCacheError, FileNotFoundError) as error:
                    report.damaged.append(Damage(path, (), str(error)))
    return report


def _verify_set(feature_set: FeatureSet, report: VerifyReport) -> None:
    for entry in feature_set.shard_entries():
        path = f"{feature_set.path}/{entry.name}"
        report.shards += 1
        report.size_bytes += entry.size_bytes
        try:
            shard = feature_set.open_shard(entry.name)
        except (FeatCacheError, FileNotFoundError) as error:
            report.damaged.append(Damage(path, (), str(error)))
            continue
        report.rows += len(shard)
        rows = shard.damaged_rows()
        if rows:
            report.damaged.append(Damage(path, tuple(rows), "rows do not match their checksum"))
