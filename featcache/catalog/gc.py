"""Garbage: feature sets and snapshots that nothing refers to, and temporary files of dead writers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import CorruptError
from ..identity import Recipe
from ..store import StoreFiles, claimed_sets, in_use, last_uses
from ..tables import Records
from .pins import list_pins

__all__ = ["Garbage", "GcReport", "Kept", "described_heads", "gc", "sets_of"]


@dataclass(frozen=True)
class Garbage:
    """A set or snapshot that nothing refers to.

    Attributes
    ----------
    path : str
        The path in the store.
    kind : str
        ``"set"`` or ``"snapshot"``.
    description : str
        What it is, in words.
    size_bytes : int
        The bytes that it takes.
    age_s : float
        The seconds since it was written.
    unused_s : float
        The seconds since it was written or used last.
    """

    path: str
    kind: str
    description: str
    size_bytes: int
    age_s: float
    unused_s: float


@dataclass(frozen=True)
class Kept:
    """A set that stays, and what refers to it.

    Attributes
    ----------
    recipe : str
        The fingerprint of the set.
    reason : str
        What refers to it, in words.
    """

    recipe: str
    reason: str


@dataclass
class GcReport:
    """What nothing refers to, least recently used first, and what stays.

    Attributes
    ----------
    deleted : bool
        Whether the garbage is deleted.
    garbage : list of Garbage
        The sets and snapshots that nothing refers to.
    kept : list of Kept
        The sets that stay.
    temporary_files : int
        The number of temporary files that dead writers left.
    store_bytes : int
        The bytes of sets and snapshots before.
    garbage_bytes : int
        The bytes of the garbage.
    over_bytes : int
        How far the rest is above the size that was asked for, in bytes.
    """

    deleted: bool = False
    garbage: list[Garbage] = field(default_factory=Records)
    kept: list[Kept] = field(default_factory=Records)
    temporary_files: int = 0
    store_bytes: int = 0
    garbage_bytes: int = 0
    over_bytes: int = 0


def gc(
    store: StoreFiles, keep: Iterable[Recipe | str] = (), *, delete: bool = False, max_size_bytes: int | None = None
) -> GcReport:
    """Return what nothing refers to, having deleted it if that was asked for.

    ``keep`` are the sets of the configuration. With ``max_size_bytes`` only the least recently used garbage counts, until
    the rest fits. Raises ``CorruptError`` where a head cannot be read: what it refers to is not known then.
    """
    reasons = _references(store, keep)
    report = GcReport(deleted=delete)
    found = [*_sets(store, reasons, report), *_snapshots(store, report)]
    found.sort(key=lambda each: (-each.unused_s, each.path))
    left_bytes = report.store_bytes
    for each in found:
        if max_size_bytes is not None and left_bytes <= max_size_bytes:
            break
        if delete and not _delete(store, each):
            report.kept.append(Kept(each.path.removeprefix("sets/"), "a process began to use it"))
            continue
        report.garbage.append(each)
        left_bytes -= each.size_bytes
    report.garbage_bytes = report.store_bytes - left_bytes
    report.over_bytes = 0 if max_size_bytes is None else max(0, left_bytes - max_size_bytes)
    report.temporary_files = store.sweep(dry_run=not delete)
    return report


def _references(store: StoreFiles, keep: Iterable[Recipe | str]) -> dict[str, str]:
    """Return what refers to each set that something refers to."""
    reasons: dict[str, str] = {}
    followed: list[Recipe] = []
    for recipe in keep:
        if isinstance(recipe, Recipe):
            followed.append(recipe)
        reasons.setdefault(recipe if isinstance(recipe, str) else recipe.fingerprint, "the configuration")
    recipes = dict(_readable(store))
    lasting = []  # what heads and pins refer to, whose random views stay with them
    for head, described in described_heads(store):
        lasting += [(each, f"the head {head}") for each in sets_of(described)]
    lasting += [(each.recipe, f"a pin{f' ({each.reason})' if each.reason else ''}") for each in list_pins(store)]
    for fingerprint, reason in lasting:
        reasons.setdefault(fingerprint, reason)
        plain = recipes.get(fingerprint)
        for other, recipe in recipes.items():
            if plain is not None and recipe.views is not None and replace(recipe, views=None) == plain:
                reasons.setdefault(other, f"{reason}, as its views")
    followed += [recipes[each] for each in list(reasons) if each in recipes]
    for recipe in followed:
        if recipe.derived_from:
            reasons.setdefault(str(recipe.derived_from["recipe"]), f"the set {recipe.fingerprint}, derived from it")
    return reasons


def described_heads(store: StoreFiles, *, damaged: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of each head and its description.

    Raises ``CorruptError`` where one is damaged, or with ``damaged`` leaves it out.
    """
    for entry in store.storage.list("heads"):
        path = f"heads/{entry.name}/head.json"
        try:
            described = json.loads(store.storage.read_bytes(path))
            sets_of(described), str(described["snapshot"])
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError) as error:
            if damaged:
                continue
            raise CorruptError(
                f"{path} in {store.url} is damaged ({error!r}), so it is not known which set the head needs. "
                "Delete that folder, or train the head again."
            ) from error
        yield entry.name, described


def sets_of(described: dict[str, Any]) -> list[str]:
    """Return the fingerprints of the sets that a head was trained from: one, or that of each of its cuts."""
    if len(described.get("cuts", ())) > 1:
        return [str(each) for each in described["recipe"]["derived_from"]["recipes"]]
    return [str(described["recipe_fingerprint"])]


def _readable(store: StoreFiles) -> Iterator[tuple[str, Recipe]]:
    for entry in store.storage.list("sets"):
        try:
            yield entry.name, Recipe.from_json(store.storage.read_bytes(f"sets/{entry.name}/recipe.json"))
        except (FileNotFoundError, CorruptError):
            continue


def _sets(store: StoreFiles, reasons: dict[str, str], report: GcReport) -> Iterator[Garbage]:
    now_s, used = time.time(), last_uses(store.storage)
    claimed = claimed_sets(store.storage)
    recipes = dict(_readable(store))
    for entry in store.storage.list("sets"):
        name = entry.name
        files = store.storage.list(f"sets/{name}")
        size_bytes = sum(each.size_bytes for each in files)
        report.store_bytes += size_bytes
        if name in reasons:
            report.kept.append(Kept(name, reasons[name]))
        elif name in claimed or in_use(store.storage, name):
            report.kept.append(Kept(name, "a process that uses it"))
        else:
            written_s = max([each.modified_s for each in files], default=entry.modified_s)
            description = _in_words(recipes[name]) if name in recipes else "a set whose recipe is missing or damaged"
            unused_s = now_s - max(written_s, used.get(name, 0.0))
            yield Garbage(f"sets/{name}", "set", description, size_bytes, now_s - written_s, unused_s)


def _snapshots(store: StoreFiles, report: GcReport) -> Iterator[Garbage]:
    needed = {str(described["snapshot"]) for _, described in described_heads(store)}
    now_s = time.time()
    for folder in store.storage.list("snapshots"):
        files = [each for each in store.storage.list(f"snapshots/{folder.name}") if each.name.endswith(".h5")]
        report.store_bytes += sum(each.size_bytes for each in files)
        try:
            latest = store.latest_digest(folder.name)
        except CorruptError:
            continue  # which of them is the latest is not known, so all stay
        written_s = {each.name[: -len(".h5")]: each.modified_s for each in files}
        for each in files:
            digest = each.name[: -len(".h5")]
            # What is newer than the latest is just about to become it.
            if digest != latest and digest not in needed and each.modified_s < written_s.get(str(latest), 0.0):
                age_s = now_s - each.modified_s
                description = f"an earlier state of the dataset {folder.name}"
                yield Garbage(
                    f"snapshots/{folder.name}/{each.name}", "snapshot", description, each.size_bytes, age_s, age_s
                )


def _delete(store: StoreFiles, garbage: Garbage) -> bool:
    if garbage.kind == "snapshot":
        store.storage.remove(garbage.path)
        return True
    name = garbage.path.removeprefix("sets/")

    def used_now() -> bool:
        return name in claimed_sets(store.storage) or in_use(store.storage, name)

    # Whoever begins to use the set either is seen here, or comes after the set is out of sight and finds nothing.
    if used_now() or not store.storage.remove(garbage.path, unless=used_now):
        return False
    store.storage.remove(f"cache/used/{name}")
    return True


def _in_words(recipe: Recipe) -> str:
    shapes = " + ".join("×".join("…" if n is None else str(n) for n in spec.shape) for spec in recipe.frontier)
    said = [f"{recipe.cut}: {shapes} as {recipe.dtype}"]
    if recipe.pool:
        said.append(f"pooled ({recipe.pool})")
    if recipe.views is not None:
        said.append("random views")
    if recipe.derived_from:
        said.append(f"derived from {recipe.derived_from['cut']} ({recipe.derived_from['dtype']})")
    return ", ".join([*said, f"{len(recipe.weights)} weights, structure {recipe.structure[:8]}"])
