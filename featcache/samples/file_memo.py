"""Remembers the ids of files by their path, size, times and inode, so that unchanged files are not read again."""

from __future__ import annotations

import hashlib
import io
import os
import time
import zipfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..identity import encoded_id, file_id

__all__ = ["FileMemo"]

RACY_NS = 2_000_000_000  # a file that was just written could be written again within one tick of its time stamp
MEMO_VERSION = 1
UNKNOWN_STATE = (-1, -1, -1, -1)

Array = np.ndarray[Any, Any]
State = tuple[int, int, int, int]


class FileMemo:
    """Known file ids; ``ids`` reads only files that are new or changed. ``hashed`` counts those since it was last set to 0.

    ``unread`` are the ids that it gave to what it could not read.

    The change time (ctime) is remembered too: unlike size and modification time, no program can set it back.
    """

    def __init__(self) -> None:
        self.hashed = 0
        self.unread: set[bytes] = set()
        self._keys = np.empty(0, dtype="S16")
        self._states = np.empty((0, 4), dtype=np.int64)
        self._ids = np.empty((0, 16), dtype=np.uint8)

    @classmethod
    def from_bytes(cls, content: bytes) -> FileMemo:
        """Return the memo that ``to_bytes`` wrote; an empty one if it is damaged."""
        memo = cls()
        try:
            body, checksum = content[:-32], content[-32:]
            if hashlib.sha256(body).digest() != checksum:
                return memo
            with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
                if int(arrays["version"]) == MEMO_VERSION:
                    memo._keys, memo._states, memo._ids = arrays["keys"], arrays["states"], arrays["ids"]
            count = len(memo._keys)
            if memo._states.shape != (count, 4) or memo._ids.shape != (count, 16) or memo._keys.dtype.kind != "S":
                return cls()
        except (ValueError, OSError, KeyError, EOFError, TypeError, zipfile.BadZipFile):
            return cls()
        return memo

    def to_bytes(self) -> bytes:
        """Return the memo as bytes that end with their own checksum."""
        out = io.BytesIO()
        np.savez(out, version=np.array(MEMO_VERSION), keys=self._keys, states=self._states, ids=self._ids)
        return out.getvalue() + hashlib.sha256(out.getvalue()).digest()

    def ids(self, root: Path, names: Sequence[str]) -> Array:
        """Return the 16-byte ids (files, 16) of the named files below ``root``, reading those that changed.

        A file that cannot be read gets an id that no content has: it is missing until it can be read, and opening it says
        why.
        """
        prefix = os.path.join(root.resolve(), "")  # noqa: PTH118
        paths = [prefix + name for name in names]
        return self._known_or_read(paths, [_state(path) for path in paths], lambda row: file_id(paths[row]), _state)

    def part_ids(self, files: Sequence[str], parts: Sequence[str], read: Callable[[int], bytes]) -> Array:
        """Return the 16-byte ids of named parts of files; ``read(row)`` gives the content of those that are not known.

        Any change of any of the files makes all of them unknown.
        """
        joined = "\0".join(files)
        state = _joint_state(files)
        return self._known_or_read(
            [f"{joined}\0{part}" for part in parts],
            [state] * len(parts),
            lambda row: encoded_id(read(row)),
            lambda _: _joint_state(files),
        )

    def unreadable_id(self, place: str) -> bytes:
        """Return the id of what cannot be read at a place, which no content has, and note that it was given."""
        made = hashlib.sha256(b"featcache: unreadable\0" + os.fsencode(place)).digest()[:16]
        self.unread.add(made)
        return made

    def forget(self, ids: Collection[bytes]) -> None:
        """Read the files again that were taken for some ids."""
        wrong = np.isin(self._ids.view("V16").reshape(-1), np.array(list(ids), dtype="V16"))
        self._keys, self._states, self._ids = self._keys[~wrong], self._states[~wrong], self._ids[~wrong]
        self.hashed += int(wrong.sum())  # so that it is kept without them

    def _known_or_read(
        self,
        places: Sequence[str],
        found: Sequence[State],
        read: Callable[[int], bytes],
        state_now: Callable[[str], State],
    ) -> Array:
        states = np.array(found, dtype=np.int64).reshape(-1, 4)
        keys = np.array([_key(place) for place in places], dtype="S16")
        ids = np.zeros((len(places), 16), dtype=np.uint8)
        known = np.zeros(len(places), dtype=bool)
        if len(self._keys):
            rows = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            known = (self._keys[rows] == keys) & (self._states[rows] == states).all(axis=1)
            ids[known] = self._ids[rows[known]]
        trusted = np.zeros(len(places), dtype=bool)
        for row in np.flatnonzero(~known).tolist():
            started_ns = time.time_ns()
            try:
                content = read(row)
            except OSError:
                ids[row] = np.frombuffer(self.unreadable_id(places[row]), dtype=np.uint8)
                continue
            ids[row] = np.frombuffer(content, dtype=np.uint8)
            self.hashed += 1
            # Trusted next time only if nobody can have written it since within the same tick.
            newest = max(states[row][1], states[row][2])
            trusted[row] = newest + RACY_NS < started_ns and tuple(states[row]) == state_now(places[row])
        if trusted.any():
            self._remember(keys[trusted], states[trusted], ids[trusted])
        return ids

    def _remember(self, keys: Array, states: Array, ids: Array) -> None:
        old = ~np.isin(self._keys, keys)
        keys = np.concatenate([keys, self._keys[old]])
        states = np.concatenate([states, self._states[old]])
        ids = np.concatenate([ids, self._ids[old]])
        self._keys, order = np.unique(keys, return_index=True)
        self._states, self._ids = states[order], ids[order]


def _key(path: str) -> bytes:
    return hashlib.blake2b(os.fsencode(path), digest_size=16).digest()


def _joint_state(paths: Sequence[str]) -> State:
    """Return what changes whenever one of the files does."""
    if len(paths) == 1:
        return _state(paths[0])
    digest = hashlib.sha256(repr([_state(path) for path in paths]).encode()).digest()
    newest = max((max(_state(path)[1:3]) for path in paths), default=-1)
    return int.from_bytes(digest[:8], "little", signed=True), newest, newest, int.from_bytes(digest[8:12], "little")


def _state(path: str) -> State:
    try:
        state = os.stat(path)  # noqa: PTH116
    except OSError:
        return UNKNOWN_STATE
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino
