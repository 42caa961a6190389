"""Stores on object stores: a real S3-protocol server in a process of its own, with faults, and fsspec's memory."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import featcache
from featcache.storages.copies import Copies
from featcache.storages.remote import RemoteStorage
from featcache.storages.storage import open_storage

from ..conftest import TensorPairs

pytest.importorskip("fsspec")
ROOT = Path(__file__).parents[2]


class Server:
    """The server's address, and what it is told to do wrong."""

    def __init__(self, url: str) -> None:
        self.url = url

    def fails(self, kind: str, method: str, times: int, within: str = "/", seconds: float = 4) -> None:
        fault = [{"kind": kind, "method": method, "times": times, "in": within, "seconds": seconds}]
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/_faults", json.dumps(fault).encode())).read()

    @property
    def failed(self) -> int:
        return json.load(urllib.request.urlopen(f"{self.url}/_faults"))["seen"]

    def asked(self, method: str, path: str) -> int:
        return json.load(urllib.request.urlopen(f"{self.url}/_faults"))["asked"].get(f"{method} {path}", 0)


@pytest.fixture(autouse=True)
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEATCACHE_COPIES", str(tmp_path / "copies"))
    return tmp_path / "copies"


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, Path(__file__).parent / "faulty_s3.py", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{url}/_faults").read()
            break
        except OSError:
            time.sleep(0.1)
    set_before = {name: os.environ.get(name) for name in (*CREDENTIALS, "AWS_ENDPOINT_URL")}
    os.environ.update(CREDENTIALS, AWS_ENDPOINT_URL=url)
    yield Server(url)
    process.kill()
    process.wait()
    for name, value in set_before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIAVERYSECRETKEYID0",
    "AWS_SECRET_ACCESS_KEY": "verysecretverysecret",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture
def bucket(server: Server, request: pytest.FixtureRequest) -> str:
    import s3fs

    name = f"b{abs(hash(request.node.name)) % 10**12}"
    s3fs.S3FileSystem().mkdir(name)
    server.fails("500", "GET", 0)
    return f"s3://{name}/features"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featcache.storages.retries.FIRST_PAUSE_S", 0.01)


def test_features_in_memory_equal_those_in_a_folder(made, pairs, tmp_path: Path) -> None:
    there = featcache.extract(made, pairs, "memory://one/features", shard_bytes=1)
    here = featcache.extract(made, pairs, str(tmp_path / "store"), shard_bytes=1)
    assert np.array_equal(there.numpy()[0], here.numpy()[0])
    assert featcache.extract(made, pairs, "memory://one/features").report.reused == 50


@pytest.mark.slow
def test_features_on_s3_are_extracted_trained_from_verified_and_listed(server, bucket, made, pairs) -> None:
    features = featcache.extract(made, pairs, bucket, shard_bytes=1, batch_size=10)
    store = featcache.FeatureStore(bucket)
    (info,) = store.sets()
    assert (info.rows, info.shards) == (50, 5)
    assert store.status(made, pairs).fresh
    assert not store.verify().damaged
    trained = featcache.train_head(made, features, epochs=1, seed=0)
    assert torch.isfinite(trained.model(pairs.inputs[:2])).all()
    again = featcache.extract(made, pairs, bucket)
    assert (again.report.computed, again.report.reused) == (0, 50)


@pytest.mark.slow
def test_readers_of_one_machine_that_start_together_download_an_object_once(server, bucket, copies, quick) -> None:
    RemoteStorage(bucket).write_bytes("sets/a/rows.h5", os.urandom(20 << 20))
    shutil.rmtree(copies)  # what was written is a copy already
    readers = [RemoteStorage(bucket) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        places = set(pool.map(lambda storage: storage.fetch("sets/a/rows.h5"), readers))
    parts = server.asked("GET", f"/{bucket.removeprefix('s3://')}/sets/a/rows.h5")
    assert (len(places), parts) == (1, 3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["500", "truncated", "broken"])
def test_reads_that_fail_for_the_moment_are_tried_again(server, bucket, made, pairs, copies, quick, kind: str) -> None:
    expected = featcache.extract(made, pairs, bucket, shard_bytes=1, batch_size=25).numpy()[0]
    for copy in copies.rglob("*.h5"):
        copy.unlink()
    server.fails(kind, "GET", 3, ".h5")
    assert np.array_equal(featcache.extract(made, pairs, bucket).numpy()[0], expected)
    assert server.failed == 3


@pytest.mark.slow
def test_writes_that_fail_for_the_moment_lose_nothing(server, bucket, made, pairs, quick) -> None:
    server.fails("500", "PUT", 4)
    features = featcache.extract(made, pairs, bucket, shard_bytes=1, batch_size=25)
    assert server.failed == 4
    assert features.report.computed == len(features) == 50
    assert not featcache.FeatureStore(bucket).verify().damaged


@pytest.mark.slow
def test_a_store_that_stays_down_is_one_clear_error_and_what_was_committed_is_used_afterwards(
    server, bucket, made, pairs, quick
) -> None:
    featcache.FeatureStore(bucket).create()
    features = featcache.extract(made, pairs, bucket, shard_bytes=1, batch_size=25)
    shards = featcache.FeatureStore(bucket).sets()[0].shards
    assert shards == 2
    server.fails("500", "GET", 1000)
    with pytest.raises(featcache.errors.StoreError, match="tried 6 times") as raised:
        featcache.FeatureStore(bucket).sets()
    assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in str(raised.value)
    server.fails("500", "GET", 0)
    assert featcache.extract(made, pairs, bucket).report.reused == len(features)


def test_denied_access_is_not_tried_again_and_names_the_environment(server, bucket, quick) -> None:
    server.fails("403", "GET", 1000)
    with pytest.raises(featcache.errors.StorePermissionError, match="AWS_PROFILE"):
        RemoteStorage(bucket).list("sets")
    assert server.failed == 1


@pytest.mark.slow
def test_a_request_without_an_answer_ends_and_is_tried_again(server, bucket, quick, monkeypatch) -> None:
    import fsspec

    RemoteStorage(bucket).write_bytes("a.json", b"{}")
    patience = {"retries": {"total_max_attempts": 1}, "read_timeout": 1}
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": patience})
    server.fails("hang", "GET", 1, "a.json")
    assert RemoteStorage(bucket).read_bytes("a.json") == b"{}"
    assert server.failed == 1


def test_a_bucket_that_does_not_exist_is_named(server, made, pairs, quick) -> None:
    with pytest.raises(featcache.errors.StoreError, match="s3://no-such-bucket/x"):
        featcache.extract(made, pairs, "s3://no-such-bucket/x")


@pytest.mark.slow
def test_the_command_line_works_on_s3_from_extract_to_predict(server, bucket, image_folder, featcache_command) -> None:
    options = ["--backbone", "bundled:resnet-mini", "--data", f"folder:{image_folder}", "--store", bucket]
    done = featcache_command("extract", *options, "--cut", "layer3", "--json")
    assert json.loads(done.stdout)[0]["computed"] == 18
    assert "trying again" not in done.stderr
    assert RemoteStorage(bucket).list("active/uses") == []  # taken away before the client's threads ended
    featcache_command("status", *options, "--cut", "layer3")
    featcache_command("train-head", *options, "--cut", "layer3", "--epochs", "1")
    done = featcache_command("predict", image_folder / "ant" / "0.png", "--store", bucket, "--json")
    assert "ant" in done.stdout
    done = featcache_command("verify", "--store", bucket)
    said = done.stdout + done.stderr
    assert not any(secret in said for secret in CREDENTIALS.values() if "secret" in secret.lower())


def test_copies_are_read_once_kept_to_the_limit_and_read_again_to_verify(server, bucket, copies: Path) -> None:
    writer = RemoteStorage(bucket, Copies(copies / "writer"))
    for number in range(4):
        writer.write_bytes(f"sets/{number}.h5", bytes([number]) * 1000)
    reader = RemoteStorage(bucket, Copies(copies / "reader", limit_bytes=2500))
    for number in range(4):
        assert reader.fetch(f"sets/{number}.h5").read_bytes() == bytes([number]) * 1000
    assert len(list((copies / "reader").rglob("*.h5"))) == 2
    server.fails("500", "GET", 1, "3.h5")
    reader.fetch("sets/3.h5")
    assert server.failed == 0  # it was here
    reader.reread()
    reader.fetch("sets/3.h5")
    assert server.failed == 1


@pytest.mark.slow
def test_listing_and_status_read_the_beginnings_of_large_shards_only(server, bucket, net, copies: Path) -> None:
    large = TensorPairs(torch.randn(160, 3, 48, 48, generator=torch.Generator().manual_seed(0)), torch.arange(160) % 4)
    features = featcache.extract(net, large, bucket, cut="stem", shard_bytes=1_200_000, batch_size=40)
    shards = {Path(shard).name for shard in features.report.shards}
    assert len(shards) == 2
    for copy in copies.rglob("*.h5"):
        copy.unlink()
    store = featcache.FeatureStore(bucket)
    (info,) = store.sets()
    assert (info.rows, info.shards) == (160, 2)
    assert store.status(net, large, cut="stem").fresh
    assert featcache.extract(net, large, store, cut="stem").report.reused == 160
    assert not shards & {copy.name for copy in copies.rglob("*.h5")}
    (first, *_) = store.set(features.recipe).shard_entries()
    server.fails("truncated", "GET", 2, first.name)
    assert featcache.FeatureStore(bucket).sets()[0].rows == 160
    assert server.failed == 2
    assert np.array_equal(features.numpy()[0], featcache.extract(net, large, bucket, cut="stem").numpy()[0])


def test_what_was_just_put_is_listed_even_where_the_store_does_not_list_it_yet(monkeypatch) -> None:
    storage = RemoteStorage("memory://late")
    storage.write_bytes("sets/a.h5", b"1")
    monkeypatch.setattr(type(storage.files), "ls", lambda *arguments, **options: [])
    assert [entry.name for entry in storage.list("sets")] == ["a.h5"]


@pytest.mark.slow
def test_features_may_be_dropped_in_the_thread_of_the_client_while_it_is_waited_for(
    server, bucket, made, pairs
) -> None:
    """Python collects garbage wherever it happens to be; what is done then must not wait for the client."""
    import fsspec.asyn

    held = [featcache.extract(made, pairs, bucket)]
    server.fails("hang", "PUT", 1, "active/uses", seconds=0.5)
    worker = threading.Thread(target=lambda: held.append(featcache.extract(made, pairs, bucket)), daemon=True)
    worker.start()
    while not server.failed:
        time.sleep(0.01)

    def drop() -> None:
        held.clear()
        gc.collect()

    fsspec.asyn.get_loop().call_soon_threadsafe(drop)
    worker.join(30)
    assert [len(features) for features in held] == [50]
    held.clear()
    gc.collect()
    kept = featcache.FeatureStore(bucket).gc(delete=True).kept
    assert not [each for each in kept if "process" in each.reason]


@pytest.mark.slow
def test_a_storage_goes_to_worker_processes(server, bucket, made, pairs) -> None:
    features = featcache.extract(made, pairs, bucket)
    again = pickle.loads(pickle.dumps(features))
    assert torch.equal(again[3][0], features[3][0])
    loaded = torch.utils.data.DataLoader(features, batch_size=25, num_workers=2, multiprocessing_context="spawn")
    assert torch.equal(torch.cat([frontier for frontier, _ in loaded]), torch.from_numpy(features.numpy()[0]))


def test_of_two_who_create_a_file_in_the_same_moment_one_succeeds(server, bucket, quick) -> None:
    found: list[bool] = []
    server.fails("hang", "PUT", 1, "active/lock", seconds=0.5)
    slow = threading.Thread(target=lambda: found.append(RemoteStorage(bucket).create_new("active/lock", b"slow")))
    slow.start()
    while not server.failed:
        time.sleep(0.01)
    assert RemoteStorage(bucket).create_new("active/lock", b"quick")
    slow.join()
    assert found == [False]
    assert RemoteStorage(bucket).read_bytes("active/lock") == b"quick"


def reused(net, pairs, bucket: str) -> int:
    return featcache.extract(net, pairs, bucket, cut="block").report.reused


@pytest.mark.slow
def test_a_forked_process_has_a_client_of_its_own(server, bucket, net, pairs) -> None:
    featcache.extract(net, pairs, bucket, cut="block")
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that of forking a process with threads
        assert pool.submit(reused, net, pairs, bucket).result(60) == 50


def test_things_are_put_once_touched_and_removed() -> None:
    storage = open_storage("memory://things")
    assert storage.create_new("claims/a", b"me")
    assert not storage.create_new("claims/a", b"you")
    storage.touch("claims/b")
    assert [entry.name for entry in storage.list("claims")] == ["a", "b"]
    assert not storage.remove("claims", unless=lambda: True)
    assert storage.remove("claims")
    assert not storage.exists("claims")
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("claims/a")


@pytest.mark.parametrize("url", ["s3://key:secret@bucket/x", "az://box/x?sig=secret", "s3://"])
def test_a_url_with_credentials_or_without_a_bucket_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(featcache.errors.UsageError) as raised:
        featcache.FeatureStore(url)
    assert "secret" not in str(raised.value)


def test_a_missing_client_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(featcache.errors.MissingDependencyError, match="remote"):
        featcache.FeatureStore("gs://bucket/x")
