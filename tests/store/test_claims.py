"""Claims: how many rows a process takes, and whose claims count."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from featcache.storages import LocalStorage, owner_name
from featcache.store.claims import EXPIRES_S, HEARTBEAT_S, LOCK_EXPIRES_S, claim, claimed_sets


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(str(tmp_path))


def keys(*numbers: int) -> np.ndarray:
    return np.array([b"%020d" % number for number in numbers], dtype="S20")


@pytest.mark.parametrize(
    ("rows", "unit", "most", "taken"),
    [
        (8, 2, None, 4),
        (7, 2, None, 4),
        (1, 4, None, 1),
        (9, 4, None, 8),
        (8, 2, 1, 2),
        (8, 2, 9, 4),
        (0, 2, None, 0),
        (8, 2, 0, 0),
    ],
)
def test_a_single_process_takes_half_of_what_is_left_by_whole_units(storage, rows, unit, most, taken) -> None:
    made = claim(storage, ["set"], keys(*range(rows)), unit, most)
    assert (made.rows.tolist(), made.others) == (list(range(taken)), 0)
    assert claimed_sets(storage) == ({"set"} if taken else set())
    made.release()
    assert claimed_sets(storage) == set()


def test_the_more_others_there_are_the_less_is_taken_and_never_what_they_have(storage: LocalStorage) -> None:
    made = [claim(storage, ["set"], keys(*range(64)), unit=1) for _ in range(3)]
    assert [(len(each.rows), each.others) for each in made] == [(32, 0), (8, 1), (4, 2)]
    assert np.concatenate([each.rows for each in made]).tolist() == list(range(44))
    apart = claim(storage, ["another"], keys(*range(64)), unit=1)
    assert (len(apart.rows), apart.others) == (32, 0)
    both = claim(storage, ["another", "set"], keys(*range(44), 70), unit=1)
    assert (both.rows.tolist(), both.others) == ([44], 4)
    assert claimed_sets(storage) == {"set", "another"}
    for each in (*made, apart, both):
        each.release()


def test_keys_that_end_in_zeros_are_claimed_as_they_are(storage: LocalStorage) -> None:
    wanted = np.array([b"a" * 16 + bytes(4), b"b" * 16 + b"\0\0\0\1", b"c" * 20], dtype="S20")
    first = claim(storage, ["set"], wanted, unit=2)
    assert first.rows.tolist() == [0, 1]
    assert claim(storage, ["set"], wanted, unit=2).rows.tolist() == [2]


def of_another_machine(storage: LocalStorage, content: bytes, age_s: float) -> Path:
    path = storage.fetch("active/claims/elsewhere~1~0")
    storage.remove("active/claims/elsewhere~1~0")
    storage.create_new("active/claims/elsewhere~1~0", content)
    touched_s = time.time() - age_s
    os.utime(path, (touched_s, touched_s))
    return path


def claimed(*numbers: int, **header: object) -> bytes:
    return json.dumps({"sets": ["set"], "bytes": 20, **header}).encode() + b"\n" + keys(*numbers).tobytes()


def test_a_claim_of_another_machine_counts_until_it_expires(storage: LocalStorage) -> None:
    path = of_another_machine(storage, claimed(0, 1), EXPIRES_S - 30)
    assert claimed_sets(storage) == {"set"}
    assert claim(storage, ["set"], keys(0, 1, 2), unit=9).rows.tolist() == [2]
    of_another_machine(storage, claimed(0, 1), EXPIRES_S + 30)
    assert claimed_sets(storage) == {"set"}  # this process's own
    assert not path.exists()


@pytest.mark.parametrize(
    "content",
    [
        *(
            b"",
            b"{",
            b"5\n",
            b"{}\n",
            b"[" * 100_000,
            b'{"sets": ["set"]}\nabc',
            b'{"bytes": 20}\nabc',
            claimed(0, sets=5),
        ),
        *(claimed(0, bytes=width) for width in ("x", 0, -1, 1 << 40, float("inf"), [20])),
    ],
)
def test_a_claim_that_says_nothing_takes_nothing(storage: LocalStorage, content: bytes) -> None:
    of_another_machine(storage, content, 0)
    assert claimed_sets(storage) == set()
    assert claim(storage, ["set"], keys(0, 1), unit=9).rows.tolist() == [0, 1]


def test_a_claim_that_was_cut_short_holds_its_whole_keys(storage: LocalStorage) -> None:
    of_another_machine(storage, claimed(0, 1)[:-1], 0)
    assert claim(storage, ["set"], keys(0, 1), unit=9).rows.tolist() == [1]


def comes_true(condition: Callable[[], bool]) -> bool:
    """Wait for what another thread does."""
    for _ in range(2000):
        if condition():
            return True
        time.sleep(0.005)
    return False


def test_a_claim_is_touched_while_it_is_held_and_gone_afterwards(storage, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("featcache.store.claims.HEARTBEAT_S", 0.01)
    assert HEARTBEAT_S < EXPIRES_S / 3
    before = set(threading.enumerate())
    made = claim(storage, ["set"], keys(0, 1), unit=9)
    (path,) = (tmp_path / "active" / "claims").iterdir()
    assert path.name.startswith(f"{owner_name()}~")
    os.utime(path, (1000, 1000))
    assert comes_true(lambda: path.stat().st_mtime > 2000)
    made.release()
    assert comes_true(lambda: set(threading.enumerate()) <= before)
    assert not any((tmp_path / "active" / "claims").iterdir())


def lock(storage: LocalStorage, owner: str, age_s: float) -> Path:
    storage.create_new("active/claims.lock", owner.encode())
    touched_s = time.time() - age_s
    path = storage.fetch("active/claims.lock")
    os.utime(path, (touched_s, touched_s))
    return path


class Clock:
    """Time that passes only where someone waits."""

    def __init__(self) -> None:
        self.now_s, self.pauses = 0.0, []

    def sleep(self, pause_s: float) -> None:
        self.pauses.append(pause_s)
        assert len(self.pauses) < 10_000
        self.now_s += pause_s

    def put_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = SimpleNamespace(monotonic=lambda: self.now_s, time=time.time, sleep=self.sleep)
        monkeypatch.setattr("featcache.store.claims.time", clock)


def test_a_lock_that_is_held_is_waited_for_and_then_passed_by(storage: LocalStorage, monkeypatch) -> None:
    path, clock = lock(storage, "elsewhere~1", 0), Clock()
    clock.put_in(monkeypatch)
    assert claim(storage, ["set"], keys(0, 1), unit=9).rows.tolist() == [0, 1]
    assert 2 * LOCK_EXPIRES_S <= clock.now_s < 2 * LOCK_EXPIRES_S + 1
    assert clock.pauses[:3] == [0.002, 0.004, 0.008]
    assert max(clock.pauses) == 0.1
    assert path.read_bytes() == b"elsewhere~1"  # it is another's to remove


def test_an_old_lock_of_another_machine_is_taken_away_and_a_young_one_is_not(storage, monkeypatch) -> None:
    clock = Clock()
    clock.put_in(monkeypatch)
    path = lock(storage, "elsewhere~1", LOCK_EXPIRES_S + 5)
    assert claim(storage, ["set"], keys(0, 1), unit=9).rows.tolist() == [0, 1]
    assert len(clock.pauses) == 1
    assert not path.exists()


def test_a_lock_is_given_back_after_an_error(storage: LocalStorage, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        claim(storage, ["set"], keys(0, 1), unit=0)
    assert not (tmp_path / "active" / "claims.lock").exists()


def test_the_clock_of_the_storage_leaves_nothing_behind(storage: LocalStorage, tmp_path: Path) -> None:
    of_another_machine(storage, claimed(0), 0)
    claimed_sets(storage)
    assert [path.name for path in (tmp_path / "active").iterdir()] == ["claims"]
