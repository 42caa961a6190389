"""What is committed stays, whatever kills the process or fails beneath it; several processes share one store."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import featcache
from featcache import FeatCacheError, FeatureStore
from featcache.errors import StaleError, StoreError
from featcache.storages import LocalStorage, owner_name
from featcache.store.claims import claim, claimed_sets

from ..conftest import SmallNet, TensorPairs
from .kill_harness import Harness, rows_of


@pytest.mark.slow
def test_an_extraction_killed_at_random_moments_loses_nothing_and_shows_nothing_torn(tmp_path: Path) -> None:
    Harness(tmp_path, seed=1).run(kills=20)


class Faults:
    """Makes the n-th call of the operating system that changes something fail, and counts such calls."""

    def __init__(self) -> None:
        self.calls, self.fail_at, self.number, self.failed = 0, -1, errno.EIO, ""

    def wrapped(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls - 1 == self.fail_at:
                self.failed = real.__name__
                raise OSError(self.number, os.strerror(self.number))
            return real(*arguments, **options)

        return call

    @contextmanager
    def injected(self, fail_at: int, number: int = errno.EIO) -> Iterator[None]:
        self.calls, self.fail_at, self.number = 0, fail_at, number
        with pytest.MonkeyPatch.context() as patch:
            for owner, name in (
                (os, "fsync"),
                (os, "link"),
                (Path, "replace"),
                (Path, "rename"),
                (Path, "write_bytes"),
                (Path, "mkdir"),
                (Path, "touch"),
                (Path, "unlink"),
            ):
                patch.setattr(owner, name, self.wrapped(getattr(owner, name)))
            yield


@pytest.mark.slow
def test_every_write_fsync_and_rename_may_fail_with_a_clean_error_and_a_valid_store(net, tmp_path: Path) -> None:
    torch.manual_seed(0)
    pairs = TensorPairs(torch.randn(24, 3, 12, 12), torch.arange(24) % 4)
    split = featcache.split(net, "block", (pairs.inputs[:2],))

    def extract(name: str) -> FeatureStore:
        store = FeatureStore(str(tmp_path / name))
        featcache.extract(split, pairs, store, batch_size=8, shard_bytes=1, name="pairs")
        return store

    faults = Faults()
    with faults.injected(-1):
        whole = rows_of(extract("undisturbed"))
    calls, refused = faults.calls, 0
    assert calls > 30
    for fail_at in range(calls):
        number = (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EROFS, errno.EACCES)[fail_at % 5]
        name = f"failed{fail_at}"
        with faults.injected(fail_at, number):
            try:
                extract(name)
            except FeatCacheError as error:
                refused += 1
                said = str(error)
            else:
                said = name
        assert "\n" not in said
        assert name in said
        store = FeatureStore(str(tmp_path / name))
        assert store.verify().damaged == []
        assert rows_of(store).items() <= whole.items()
        assert rows_of(extract(name)) == whole
        # What could not be removed stays until its writer, which is this process, has ended.
        assert faults.failed == "unlink" or not list((tmp_path / name).rglob(".tmp~*"))
    assert refused > calls / 3


def test_a_shard_that_the_disk_does_not_take_is_a_clean_error(net, pairs, tmp_path: Path) -> None:
    split = featcache.split(net, "block", (pairs.inputs[:2],))
    store = FeatureStore(str(tmp_path / "store"))
    featcache.extract(split, TensorPairs(pairs.inputs[:8], pairs.targets_of), store, batch_size=8, name="pairs")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(StoreError, match=r"cannot write .*[Ff]ile too large"):
            featcache.extract(split, pairs, store, name="pairs")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert store.sets()[0].rows == 8
    assert store.verify().damaged == []
    assert featcache.extract(split, pairs, store, name="pairs").report.computed == 42
    assert not list((tmp_path / "store").rglob(".tmp~*"))


class SlowPairs(TensorPairs):
    """Samples that take a while, as images do."""

    def __getitem__(self, index: int):
        time.sleep(0.004)
        return super().__getitem__(index)


def _extract(start: Any, queue: Any, store: str, first: int, last: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    inputs, net = torch.randn(160, 3, 12, 12), SmallNet().eval()
    data = SlowPairs(inputs[first:last], torch.zeros(last - first))
    start.wait()
    report = featcache.extract(net, data, store, cut="block", batch_size=8, shard_bytes=1, name=f"d{first}").report
    queue.put(("computed", report.computed))


def _watch(start: Any, stop: Any, queue: Any, store: str, what: str) -> None:
    start.wait()
    looks = 0
    while not stop.is_set():
        opened = FeatureStore(store)
        if what == "verify":
            assert opened.verify().damaged == []
        elif what == "gc":
            opened.gc(delete=True)
        else:
            with suppress(StaleError):  # collected after the last process that used it had ended
                rows_of(opened)
        looks += 1
        time.sleep(0.05)
    queue.put((what, looks))


@pytest.mark.slow
def test_eight_processes_compute_each_row_about_once_while_others_read_verify_and_collect(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, stop, queue = context.Event(), context.Event(), context.Queue()
    store = str(tmp_path / "store")
    FeatureStore(store).create()
    ranges = [(0, 120), (40, 160), (0, 160), (0, 160), (20, 100), (80, 160), (0, 80), (0, 160)]
    workers = [context.Process(target=_extract, args=(start, queue, store, *each)) for each in ranges]
    watchers = [
        context.Process(target=_watch, args=(start, stop, queue, store, what)) for what in ("read", "verify", "gc")
    ]
    for process in [*workers, *watchers]:
        process.start()
    start.set()
    for process in workers:
        process.join(120)
    stop.set()
    for process in watchers:
        process.join(60)
    assert [process.exitcode for process in [*workers, *watchers]] == [0] * 11
    said = [queue.get(timeout=5) for _ in range(11)]
    computed = [number for what, number in said if what == "computed"]
    assert 160 <= sum(computed) <= 1.1 * 160
    assert sum(number > 0 for number in computed) >= 2  # one that starts late may find nothing left to do
    assert min(looks for what, looks in said if what != "computed") > 2


@pytest.mark.slow
def test_a_shard_that_is_removed_while_it_is_opened_is_gone_and_not_damaged(features, tmp_path: Path) -> None:
    store = FeatureStore(str(tmp_path / "store"))
    shard = next((tmp_path / "store" / "sets").glob("*/*.h5"))
    kept = tmp_path / "kept.h5"
    os.link(shard, kept)
    damaged = []

    def verify_often() -> None:
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            damaged.extend(store.verify().damaged)

    with ThreadPoolExecutor(1) as pool:
        verifying = pool.submit(verify_often)
        while not verifying.done():
            shard.unlink()
            time.sleep(0.0005)
            os.link(kept, shard)
            time.sleep(0.0005)
        verifying.result()
    assert damaged == []


def keys(*numbers: int) -> np.ndarray:
    return np.array([b"%020d" % number for number in numbers], dtype="S20")


def test_rows_that_another_claims_are_left_to_it_until_it_is_done(tmp_path: Path) -> None:
    one, other = LocalStorage(str(tmp_path)), LocalStorage(str(tmp_path))
    first = claim(one, ["set"], keys(*range(8)), unit=2)
    assert first.rows.tolist() == [0, 1, 2, 3]
    second = claim(other, ["set"], keys(*range(2, 10)), unit=2)
    assert second.others == 1
    assert set(second.rows.tolist()) <= {2, 3, 4, 5, 6, 7}
    assert len(claim(other, ["another"], keys(*range(8)), unit=8).rows) == 8
    assert claimed_sets(one) == {"set", "another"}
    first.release()
    assert claim(other, ["set"], keys(0, 1, 2, 3), unit=2).rows.tolist() == [0, 1]


def test_the_claim_and_the_lock_of_a_dead_process_do_not_count(tmp_path: Path, monkeypatch) -> None:
    storage = LocalStorage(str(tmp_path))
    process = os.fork()
    if not process:
        claim(storage, ["set"], keys(*range(8)), unit=8)
        storage.create_new("active/claims.lock", owner_name().encode())
        os._exit(0)
    os.waitpid(process, 0)
    assert len(list((tmp_path / "active" / "claims").iterdir())) == 1

    def paused(pause_s: float) -> None:
        assert not (tmp_path / "active" / "claims.lock").exists()  # taken away at once, and not when it has expired

    monkeypatch.setattr(
        "featcache.store.claims.time", SimpleNamespace(monotonic=time.monotonic, time=time.time, sleep=paused)
    )
    assert len(claim(storage, ["set"], keys(*range(8)), unit=8).rows) == 8


def test_a_claim_of_another_machine_counts_while_it_is_touched(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    claim(storage, ["set"], keys(*range(8)), unit=8)
    (path,) = (tmp_path / "active" / "claims").iterdir()
    other = path.rename(path.with_name(f"elsewhere~1~{path.name.rpartition('~')[2]}"))
    assert len(claim(storage, ["set"], keys(*range(8)), unit=8).rows) == 0
    stopped_s = time.time() - 100
    os.utime(other, (stopped_s, stopped_s))
    assert len(claim(storage, ["set"], keys(*range(8)), unit=8).rows) == 8


class Counted(LocalStorage):
    """Notes the operations that are asked of it."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.asked: list[str] = []

    def create_new(self, path: str, content: bytes) -> bool:
        self.asked.append("create_new")
        return super().create_new(path, content)

    def list(self, path: str) -> list[Any]:
        self.asked.append("list")
        return super().list(path)

    def read_bytes(self, path: str) -> bytes:
        self.asked.append("read_bytes")
        return super().read_bytes(path)

    def remove(self, path: str, **options: Any) -> bool:
        self.asked.append("remove")
        return super().remove(path, **options)

    def touch(self, path: str) -> None:
        self.asked.append("touch")
        super().touch(path)


def test_a_claim_costs_a_single_process_four_small_operations_however_many_rows_it_wants(tmp_path: Path) -> None:
    for rows in (8, 20_000):
        storage = Counted(str(tmp_path))
        made = claim(storage, ["set"], keys(*range(rows)), unit=4)
        assert storage.asked == ["create_new", "list", "create_new", "remove"]
        made.release()
        assert not list((tmp_path / "active" / "claims").iterdir())
