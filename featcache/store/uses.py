"""Which feature sets are in use, and when each was used last: small files, written as well as can be.

``cache/used/<recipe>`` carries the time of the last use. ``active/uses/<recipe>~<host>~<pid>`` says that a process
works with the set; it counts while that process lives, or, of another machine, while it is touched. A store that may
only be read keeps no such notes.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401  # its end comes after ours if it is imported first
import os
import queue
import threading
import time
import weakref
from collections import deque
from contextlib import suppress

from ..errors import StoreError
from ..storages import Storage, is_dead, owner_name

__all__ = ["hold", "in_use", "keep_alive", "last_uses"]

USED, LEASES = "cache/used", "active/uses"
REFRESH_S = 300.0
EXPIRES_S = 3600.0  # of a process on another machine; no clock that both see runs this wrong

_lock = threading.Lock()
_held: dict[tuple[str, str], int] = {}
_storages: dict[tuple[str, str], Storage] = {}
_touched_s: dict[tuple[str, str], float] = {}
# Python may drop a holder in any thread at any moment, in that of an object store's client too, which must not wait for
# itself. So what is dropped is only noted, and another thread takes the notes away.
_dropped: deque[tuple[str, str]] = deque()
_wake: queue.SimpleQueue[None] = queue.SimpleQueue()
_sweeper: threading.Thread | None = None


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
        _storages[key], _touched_s[key] = storage, time.monotonic()
        _start_sweeper()
    weakref.finalize(holder, _drop, key).atexit = False


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
    _take_away()
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


def _drop(key: tuple[str, str]) -> None:
    _dropped.append(key)
    _wake.put(None)


def _take_away() -> None:
    """Remove the notes of what was dropped since."""
    with _lock:
        while _dropped:
            key = _dropped.popleft()
            if key in _held:  # a forked copy of the holder has none: the note is its parent's
                _held[key] -= 1
                if not _held[key]:
                    with suppress(StoreError):
                        _remove(key)


def _remove(key: tuple[str, str]) -> None:
    del _held[key], _touched_s[key]
    _storages.pop(key).remove(key[1])


def _start_sweeper() -> None:
    global _sweeper
    if _sweeper is None:
        _sweeper = threading.Thread(target=_sweep, name="featcache-uses", daemon=True)
        _sweeper.start()


def _sweep() -> None:
    while True:
        _wake.get()
        _take_away()


@atexit.register
def _end() -> None:
    with _lock, suppress(StoreError):  # an object store that does not answer is not asked once for each
        for key in list(_held):
            _remove(key)


def _end_early() -> None:
    # An object store's client needs threads, which cannot be had any more when atexit comes. Other threads may still read.
    if all(each.daemon or each is threading.main_thread() for each in threading.enumerate()):
        _end()


getattr(threading, "_register_atexit", atexit.register)(_end_early)


def _forget() -> None:
    global _lock, _wake, _sweeper
    _lock, _wake, _sweeper = threading.Lock(), queue.SimpleQueue(), None
    for known in (_held, _storages, _touched_s, _dropped):
        known.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
