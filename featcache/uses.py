"""Which feature sets are in use, and when each was used last: small files, written as well as can be.

``cache/used/<recipe>`` carries the time of the last use. ``active/uses/<recipe>~<host>~<pid>`` says that a process
works with the set; it counts while that process lives, or, of another machine, while it is touched. A store that may
only be read keeps no such notes.
"""

from __future__ import annotations

import threading
import time
import weakref
from contextlib import suppress

from .errors import StoreError
from .owner import is_dead, owner_name
from .storages import Storage

__all__ = ["hold", "in_use", "keep_alive", "last_uses"]

USED, LEASES = "cache/used", "active/uses"
REFRESH_S = 300.0
EXPIRES_S = 3600.0  # of a process on another machine; no clock that both see runs this wrong

_lock = threading.RLock()
_held: dict[tuple[str, str], int] = {}
_touched_s: dict[tuple[str, str], float] = {}


def hold(storage: Storage, fingerprint: str, holder: object) -> None:
    """Note that this process uses a set, for as long as ``holder`` lives."""
    path = f"{LEASES}/{fingerprint}~{owner_name()}"
    key = (storage.url, path)
    with _lock:
        with suppress(StoreError):
            if not storage.exists("store.json"):
                return
            storage.touch(path)
            storage.touch(f"{USED}/{fingerprint}")
        _held[key] = _held.get(key, 0) + 1
        _touched_s[key] = time.monotonic()
    weakref.finalize(holder, _release, storage, path)


def keep_alive(storage: Storage, fingerprint: str) -> None:
    """Note again, if some minutes have passed, that this process uses a set."""
    path = f"{LEASES}/{fingerprint}~{owner_name()}"
    key = (storage.url, path)
    now_s = time.monotonic()
    if now_s - _touched_s.get(key, now_s) > REFRESH_S:
        _touched_s[key] = now_s
        with suppress(StoreError):
            storage.touch(path)


def in_use(storage: Storage, fingerprint: str) -> bool:
    """Return whether a process works with a set now."""
    now_s = time.time()
    for entry in storage.list(LEASES):
        recipe, _, owner = entry.name.partition("~")
        if recipe != fingerprint:
            continue
        if not is_dead(owner) and (_is_local(owner) or now_s - entry.modified_s < EXPIRES_S):
            return True
        with suppress(StoreError):
            storage.remove(f"{LEASES}/{entry.name}")
    return False


def last_uses(storage: Storage) -> dict[str, float]:
    """Return when each set was used last, in seconds since 1970."""
    return {entry.name: entry.modified_s for entry in storage.list(USED)}


def _is_local(owner: str) -> bool:
    return owner.partition("~")[0] == owner_name().partition("~")[0]


def _release(storage: Storage, path: str) -> None:
    if not path.endswith(owner_name()):  # a forked copy of the holder: the note is its parent's
        return
    key = (storage.url, path)
    with _lock:
        _held[key] -= 1
        if not _held[key]:
            del _held[key], _touched_s[key]
            with suppress(StoreError):
                storage.remove(path)
