"""Claims: which rows a process is computing, so that others that extract into the same store compute other ones.

A claim is a small file in ``active/claims`` with the keys of the rows. It counts while its owner touches it. Whether rows
overlap is decided while holding ``active/claims.lock``, which is a file that only one process can create; one that
was left by a dead process is taken away after a while. Nothing depends on claims but the work that they save: rows that two
processes compute all the same are equal, and either one is read. So no lock of the operating system is needed, which
network file systems do not all give.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from ..errors import StoreError
from ..storages import Storage, is_dead, owner_name

__all__ = ["Claim", "claim", "claimed_sets"]

FOLDER, LOCK = "active/claims", "active/claims.lock"
HEARTBEAT_S = 10.0
EXPIRES_S = 90.0
LOCK_EXPIRES_S = 20.0

Array = np.ndarray[Any, Any]


class Claim:
    """Some of the wanted rows, by number in ``rows``, that this process computes until ``release``.

    ``others`` is how many other processes work on the same sets.
    """

    def __init__(self, storage: Storage, path: str | None, rows: Array, others: int) -> None:
        self.rows, self.others = rows, others
        self._storage, self._path = storage, path
        self._stop = threading.Event()
        if path is not None:
            threading.Thread(target=self._beat, name="featcache-claim", daemon=True).start()

    def release(self) -> None:
        """Give the rows free: they are committed by now, or were given up."""
        self._stop.set()
        if self._path is not None:
            with suppress(StoreError):
                self._storage.remove(self._path)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            with suppress(StoreError):
                self._storage.touch(str(self._path))
        # A beat that ran beside the release would leave an empty file behind.
        with suppress(StoreError):
            self._storage.remove(str(self._path))


def claim(storage: Storage, sets: Sequence[str], keys: Array, unit: int, most: int | None = None) -> Claim:
    """Return a claim on some of the rows with these keys in these sets, none where others work on all of them.

    Rows are taken ``unit`` at a time, from the first that is free: half of what is left where nobody else works, else a
    share, and at most ``most`` units.
    """
    with _locked(storage):
        taken: set[bytes] = set()
        others = 0
        for others_sets, claimed in _claims(storage):
            if others_sets & set(sets):
                others += 1
                taken.update(claimed.tolist())
        free = np.array([key not in taken for key in keys.tolist()], dtype=bool) if taken else np.ones(len(keys), bool)
        positions = np.flatnonzero(free)
        units = -(-len(positions) // unit)
        share = -(-units // (2 * (others + 1)))
        chosen = positions[: unit * (share if most is None else min(share, most))]
        if not len(chosen):
            return Claim(storage, None, chosen, others)
        path = f"{FOLDER}/{owner_name()}~{secrets.token_hex(4)}"
        header = json.dumps({"sets": list(sets), "bytes": keys.dtype.itemsize}).encode()
        storage.create_new(path, b"".join([header, b"\n", keys[chosen].data]))
    return Claim(storage, path, chosen, others)


def claimed_sets(storage: Storage) -> set[str]:
    """Return the sets of which rows are being computed now."""
    return {name for sets, _ in _claims(storage) for name in sets}


def _claims(storage: Storage) -> Iterator[tuple[set[str], Array]]:
    entries = storage.list(FOLDER)
    if not entries:
        return
    now_s = _storage_time_s(storage)
    for entry in entries:
        path = f"{FOLDER}/{entry.name}"
        if is_dead(entry.name.rpartition("~")[0]) or now_s - entry.modified_s > EXPIRES_S:
            with suppress(StoreError):
                storage.remove(path)
            continue
        # Whatever else lies there claims nothing.
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
            header, _, content = storage.read_bytes(path).partition(b"\n")
            described = json.loads(header)
            sets, width = {str(name) for name in described["sets"]}, int(described["bytes"])
            claimed = np.frombuffer(content[: len(content) // width * width], dtype=f"S{width}")
            yield sets, claimed


def _storage_time_s(storage: Storage) -> float:
    # By the clock that also stamps the claims: on a network file system it is not this machine's.
    path = f"active/clock~{owner_name()}"
    storage.touch(path)
    found = [entry.modified_s for entry in storage.list("active") if entry.name == path.removeprefix("active/")]
    with suppress(StoreError):
        storage.remove(path)
    return found[0] if found else time.time()


@contextmanager
def _locked(storage: Storage) -> Iterator[None]:
    deadline_s = time.monotonic() + 2 * LOCK_EXPIRES_S
    pause_s = 0.002
    content = owner_name().encode()
    while not storage.create_new(LOCK, content):
        _break_lock(storage)
        if time.monotonic() > deadline_s:  # someone is stuck; at worst some rows are computed twice
            yield
            return
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.1)
    try:
        yield
    finally:
        with suppress(StoreError):
            storage.remove(LOCK)


def _break_lock(storage: Storage) -> None:
    """Take away a lock whose owner is dead, or that is older than any claim takes to be made."""
    with suppress(FileNotFoundError, StoreError):
        owner = storage.read_bytes(LOCK).decode(errors="replace")
        held = [entry for entry in storage.list("active") if f"active/{entry.name}" == LOCK]
        if is_dead(owner) or (held and _storage_time_s(storage) - held[0].modified_s > LOCK_EXPIRES_S):
            storage.remove(LOCK)
