"""Which sets are in use: by this process, by others that live, and by none."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from featcache import FeatureStore
from featcache.errors import StoreError
from featcache.storages import LocalStorage, owner_name
from featcache.store import uses
from featcache.store.uses import EXPIRES_S, REFRESH_S, hold, in_use, keep_alive, last_uses


class Holder:
    """Holds a set as long as it lives."""


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    store = FeatureStore(str(tmp_path / "store"))
    store.create()
    return store.storage


def leases(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "store" / "active" / "uses").glob("*"))


def test_a_set_is_in_use_while_any_of_its_holders_lives(storage: LocalStorage, tmp_path: Path) -> None:
    assert not in_use(storage, "one")
    holders = [Holder(), Holder()]
    hold(storage, "one", holders[0])
    hold(storage, "one", holders[1])
    assert in_use(storage, "one")
    assert not in_use(storage, "another")
    assert not in_use(storage, "on")
    for left in (True, False):
        holders.pop()
        gc.collect()
        assert in_use(storage, "one") == left
    assert leases(tmp_path) == []
    assert abs(last_uses(storage)["one"] - time.time()) < EXPIRES_S


def test_a_folder_that_is_no_store_yet_gets_no_notes(tmp_path: Path) -> None:
    hold(LocalStorage(str(tmp_path / "store")), "one", holder := Holder())
    assert not (tmp_path / "store").exists()
    del holder


def lease(storage: LocalStorage, owner: str, age_s: float) -> None:
    path = f"active/uses/one~{owner}"
    storage.touch(path)
    touched_s = time.time() - age_s
    os.utime(storage.fetch(path), (touched_s, touched_s))


def dead_owner() -> str:
    process = os.fork()
    if not process:
        os._exit(0)
    os.waitpid(process, 0)
    return f"{owner_name().partition('~')[0]}~{process}"


def test_a_lease_of_a_dead_process_counts_for_nothing_and_is_removed(storage: LocalStorage, tmp_path: Path) -> None:
    lease(storage, dead_owner(), 0)
    assert not in_use(storage, "one")
    assert leases(tmp_path) == []


def test_a_lease_of_another_machine_counts_while_it_is_touched(storage: LocalStorage, tmp_path: Path) -> None:
    lease(storage, "elsewhere~1", EXPIRES_S - 60)
    assert in_use(storage, "one")
    assert not in_use(storage, "another")
    lease(storage, "elsewhere~1", EXPIRES_S + 60)
    assert not in_use(storage, "another")
    assert len(leases(tmp_path)) == 1
    assert not in_use(storage, "one")
    assert leases(tmp_path) == []


def test_a_lease_of_a_living_process_of_this_machine_counts_however_old_it_is(storage: LocalStorage) -> None:
    lease(storage, owner_name(), 10 * EXPIRES_S)
    assert in_use(storage, "one")


def test_a_lease_is_touched_again_after_some_minutes(storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold(storage, "one", holder := Holder())
    (path,) = leases(tmp_path)
    os.utime(path, (1000, 1000))
    started_s = time.monotonic()
    for passed_s, touched in ((REFRESH_S / 2, False), (REFRESH_S + 60, True), (REFRESH_S + 90, False)):
        clock = SimpleNamespace(monotonic=lambda now_s=started_s + passed_s: now_s)
        monkeypatch.setattr("featcache.store.uses.time", clock)
        keep_alive(storage, "one")
        assert (path.stat().st_mtime > 1000) == touched
        os.utime(path, (1000, 1000))
    keep_alive(storage, "another")
    assert leases(tmp_path) == [path]
    del holder


def test_a_forked_process_holds_nothing_of_its_parent(storage: LocalStorage, tmp_path: Path) -> None:
    hold(storage, "one", holder := Holder())
    (path,) = leases(tmp_path)
    process = os.fork()
    if not process:
        del holder
        gc.collect()
        in_use(storage, "another")
        os._exit(0 if leases(tmp_path) == [path] else 1)
    assert os.waitpid(process, 0)[1] == 0
    assert leases(tmp_path) == [path]
    assert in_use(storage, "one")


def test_the_end_of_the_process_takes_all_notes_away_but_not_while_another_thread_may_still_read(
    storage: LocalStorage, tmp_path: Path
) -> None:
    hold(storage, "one", one := Holder())
    hold(storage, "two", two := Holder())
    going_on = threading.Event()
    reader = threading.Thread(target=going_on.wait)
    reader.start()
    uses._end_early()
    assert len(leases(tmp_path)) == 2
    going_on.set()
    reader.join()
    uses._end_early()
    assert leases(tmp_path) == []
    del one, two
    gc.collect()
    assert not in_use(storage, "one")


class ReadOnly(LocalStorage):
    """A store that takes no notes."""

    def touch(self, path: str) -> None:
        raise StoreError("read-only")

    def remove(self, path: str, unless: Callable[[], bool] | None = None) -> bool:
        raise StoreError("read-only")


def test_a_store_that_may_only_be_read_is_used_without_notes(
    storage: LocalStorage, tmp_path: Path, monkeypatch
) -> None:
    only = ReadOnly(storage.url)
    hold(only, "one", holder := Holder())
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 2 * REFRESH_S, time=time.time)
    monkeypatch.setattr("featcache.store.uses.time", clock)
    keep_alive(only, "one")
    lease(storage, dead_owner(), 0)
    assert not in_use(only, "one")
    assert len(leases(tmp_path)) == 1
    del holder
    gc.collect()
    assert not in_use(only, "another")
