"""Pins: feature sets that gc keeps because someone said so."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass

from ..errors import UnknownNameError, near_names
from ..store import StoreFiles
from ..tables import Records

__all__ = ["Pin", "find_set", "list_pins", "pin", "unpin"]


@dataclass(frozen=True)
class Pin:
    """A set that is kept, why and since when.

    Attributes
    ----------
    recipe : str
        The fingerprint of the set.
    reason : str
        Why it is kept.
    pinned_s : float
        When it was pinned, in seconds since 1970.
    """

    recipe: str
    reason: str
    pinned_s: float


def pin(store: StoreFiles, recipe: str, reason: str = "") -> Pin:
    """Return the pin that now keeps a set; raises ``UnknownNameError`` for a set that is not there."""
    made = Pin(find_set(store, recipe), reason, time.time())
    note = {"reason": reason, "pinned_s": made.pinned_s}
    store.storage.write_bytes(f"pins/{made.recipe}.json", (json.dumps(note) + "\n").encode())
    return made


def unpin(store: StoreFiles, recipe: str) -> str:
    """Return the set that is no longer pinned; raises ``UnknownNameError`` where no pin names it."""
    pinned = [each.recipe for each in list_pins(store)]
    found = _named(recipe, pinned, "pinned set", store)
    store.storage.remove(f"pins/{found}.json")
    return found


def list_pins(store: StoreFiles) -> list[Pin]:
    """Return every pin; one whose reason is damaged still counts."""
    found = Records[Pin]()
    for entry in store.storage.list("pins"):
        if not entry.name.endswith(".json"):
            continue
        reason, pinned_s = "", entry.modified_s
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            note = json.loads(store.storage.read_bytes(f"pins/{entry.name}"))
            reason, pinned_s = str(note["reason"]), float(note["pinned_s"])
        found.append(Pin(entry.name[: -len(".json")], reason, pinned_s))
    return found


def find_set(store: StoreFiles, recipe: str) -> str:
    """Return the fingerprint of the set that is so called, or begins so; raises ``UnknownNameError`` for none."""
    return _named(recipe, [entry.name for entry in store.storage.list("sets") if entry.is_folder], "set", store)


def _named(asked: str, known: list[str], noun: str, store: StoreFiles) -> str:
    found = [name for name in known if name.startswith(asked)] if asked else []
    if len(found) == 1:
        return found[0]
    if found:
        raise UnknownNameError(
            f"{asked!r} names {len(found)} sets of {store.url}: {', '.join(found)}. Give more of it."
        )
    raise UnknownNameError(
        f"{store.url} holds no {noun} {asked!r}.{near_names(asked, known)} It holds: {', '.join(known) or 'none'}."
    )
