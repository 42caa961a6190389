"""gc, pins and the budget: what nothing refers to goes, and nothing else ever does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import featcache
from featcache import FeatureStore
from featcache.catalog.gc import Garbage, _delete
from featcache.errors import CorruptError, StoreError, UnknownNameError, UsageError
from featcache.storages.owner import owner_name
from featcache.store.claims import claim
from featcache.store.uses import hold

from ..conftest import CommandLine, SmallNet, TensorPairs


@pytest.fixture
def three_sets(net: SmallNet, pairs: TensorPairs, tmp_path: Path) -> FeatureStore:
    """Sets at stem, block and tail, used in that order, and no process that works with one."""
    store = FeatureStore(str(tmp_path / "store"))
    made = [featcache.extract(net, pairs, store, cut=cut, name="pairs").recipe for cut in ("stem", "block", "tail")]
    for number, recipe in enumerate(made):
        used_s = time.time() - 3000 + 1000 * number
        for path in (tmp_path / "store" / "sets" / recipe.fingerprint).iterdir():
            os.utime(path, (used_s, used_s))
        os.utime(tmp_path / "store" / "cache" / "used" / recipe.fingerprint, (used_s, used_s))
    return store


def cuts(store: FeatureStore) -> set[str]:
    return {info.cut for info in store.sets()}


def fingerprint(store: FeatureStore, cut: str) -> str:
    return next(info.recipe for info in store.sets() if info.cut == cut)


def test_gc_says_what_nothing_refers_to_and_deletes_only_when_told(three_sets: FeatureStore) -> None:
    report = three_sets.gc()
    assert not report.deleted
    assert [each.description.split(":")[0] for each in report.garbage] == ["stem", "block", "tail"]
    assert report.garbage[0].unused_s > 2900
    assert report.garbage_bytes == sum(each.size_bytes for each in report.garbage) > 0
    assert cuts(three_sets) == {"stem", "block", "tail"}
    assert three_sets.gc(delete=True).deleted
    assert cuts(three_sets) == set()
    assert three_sets.verify().damaged == []


def test_what_the_caller_names_a_pin_or_a_head_refers_to_is_kept(three_sets, net, pairs, tmp_path) -> None:
    made = featcache.split(net, "tail", (pairs.inputs[:2],))
    head = featcache.train_head(made, featcache.extract(made, pairs, three_sets, name="pairs"), epochs=1)
    head.save(tmp_path / "store" / "heads" / "mine")
    del head
    three_sets.pin(fingerprint(three_sets, "stem")[:8], "for the paper")
    report = three_sets.gc([fingerprint(three_sets, "block")], delete=True)
    assert report.garbage == []
    assert {each.reason for each in report.kept} == {"the configuration", "the head mine", "a pin (for the paper)"}
    three_sets.unpin(fingerprint(three_sets, "stem"))
    three_sets.gc(delete=True)
    assert cuts(three_sets) == {"tail"}


def test_a_head_that_cannot_be_read_stops_gc(three_sets: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "store" / "heads" / "odd").mkdir(parents=True)
    (tmp_path / "store" / "heads" / "odd" / "head.json").write_text("{")
    with pytest.raises(CorruptError, match="not known which set"):
        three_sets.gc(delete=True)
    assert len(cuts(three_sets)) == 3


def test_max_size_evicts_the_least_recently_used_until_the_rest_fits(three_sets: FeatureStore) -> None:
    sizes = {info.cut: info.size_bytes for info in three_sets.sets()}
    report = three_sets.gc(max_size=three_sets.gc().store_bytes - sizes["stem"] // 2)
    assert [each.description.split(":")[0] for each in report.garbage] == ["stem"]
    three_sets.gc(max_size=three_sets.gc().store_bytes - sizes["stem"] // 2, delete=True)
    assert cuts(three_sets) == {"block", "tail"}
    assert three_sets.gc(["block"], max_size="1 GB", delete=True).garbage == []
    report = three_sets.gc([fingerprint(three_sets, "tail")], max_size=10, delete=True)
    assert cuts(three_sets) == {"tail"}
    assert report.over_bytes > 0


def test_using_a_set_makes_it_the_last_to_be_evicted(three_sets, net, pairs) -> None:
    featcache.extract(net, pairs, three_sets, cut="stem", name="pairs").numpy()
    assert [each.description.split(":")[0] for each in three_sets.gc().garbage if each.kind == "set"] == [
        "block",
        "tail",
        "stem",
    ]


USER = """
import sys, torch, featcache
from tests.catalog.test_gc import SmallNet
store = featcache.FeatureStore(sys.argv[1])
from featcache.features.shard_rows import ShardRows
import numpy as np
rows = ShardRows(store.set(next(each for each in store.recipes() if each.cut == "block")), np.zeros((1, 16), np.uint8))
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.mark.slow
def test_what_a_living_process_works_with_is_kept_and_what_a_dead_one_did_is_not(three_sets, tmp_path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", USER, str(tmp_path / "store")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "ready\n"
        kept = three_sets.gc(delete=True).kept
        assert [each.reason for each in kept] == ["a process that uses it"]
        assert cuts(three_sets) == {"block"}
    finally:
        process.kill()
        process.wait()
    three_sets.gc(delete=True)
    assert cuts(three_sets) == set()


def test_features_that_are_at_hand_are_kept(three_sets, net, pairs) -> None:
    features = featcache.extract(net, pairs, three_sets, cut="stem", name="pairs")
    for delete in (False, True):
        kept = three_sets.gc(delete=delete).kept
        assert [(each.recipe, each.reason) for each in kept] == [
            (features.recipe.fingerprint, "a process that uses it")
        ]
    assert cuts(three_sets) == {"stem"}
    assert features.numpy()[0].shape[0] == 50
    del features
    three_sets.gc(delete=True)
    assert cuts(three_sets) == set()


class Reader:
    """Uses a set as long as it lives."""


def test_a_set_that_is_taken_into_use_after_gc_looked_is_kept(three_sets: FeatureStore, monkeypatch) -> None:
    name, readers = fingerprint(three_sets, "block"), [Reader()]

    def looked(store: FeatureStore, garbage: Garbage) -> bool:
        hold(three_sets.storage, name, readers[0])
        return _delete(store, garbage)

    monkeypatch.setattr("featcache.catalog.gc._delete", looked)
    kept = three_sets.gc(delete=True).kept
    assert [(each.recipe, each.reason) for each in kept] == [(name, "a process began to use it")]
    assert cuts(three_sets) == {"block"}
    monkeypatch.undo()
    readers.clear()
    three_sets.gc(delete=True)
    assert cuts(three_sets) == set()


def test_a_set_of_which_rows_are_being_computed_is_kept(three_sets: FeatureStore) -> None:
    name = fingerprint(three_sets, "tail")
    held = claim(three_sets.storage, [name], np.array([b"%020d" % 0], dtype="S20"), unit=1)
    for delete in (False, True):
        assert [(each.recipe, each.reason) for each in three_sets.gc(delete=delete).kept] == [
            (name, "a process that uses it")
        ]
    assert cuts(three_sets) == {"tail"}
    held.release()


def test_a_set_that_is_taken_into_use_while_it_is_deleted_is_put_back(three_sets: FeatureStore) -> None:
    name = fingerprint(three_sets, "stem")
    before = [entry.name for entry in three_sets.storage.list(f"sets/{name}")]
    assert not three_sets.storage.remove(f"sets/{name}", unless=lambda: True)
    assert [entry.name for entry in three_sets.storage.list(f"sets/{name}")] == before

    def begun_anew() -> bool:
        three_sets.storage.write_bytes(f"sets/{name}/recipe.json", b"new")
        return True

    assert not three_sets.storage.remove(f"sets/{name}", unless=begun_anew)
    assert [entry.name for entry in three_sets.storage.list(f"sets/{name}")] == before
    assert three_sets.storage.read_bytes(f"sets/{name}/recipe.json") == b"new"


def test_rows_of_deleted_samples_stay_in_a_set_that_is_kept(net, pairs, tmp_path) -> None:
    store = FeatureStore(str(tmp_path / "store"))
    featcache.extract(net, pairs, store, cut="stem", name="pairs")
    fewer = TensorPairs(pairs.inputs[:10], pairs.targets_of[:10])
    kept = featcache.extract(net, fewer, store, cut="stem", name="pairs").recipe
    report = store.gc([kept], delete=True)
    assert [each.kind for each in report.garbage] == ["snapshot"]
    assert store.sets()[0].rows == 50
    assert featcache.extract(net, pairs, store, cut="stem", name="pairs").report.computed == 0


def test_temporary_files_of_dead_writers_are_swept_and_those_of_living_ones_stay(three_sets, tmp_path) -> None:
    from featcache.storages.local import temporary_beside

    folder = tmp_path / "store" / "sets" / fingerprint(three_sets, "stem")
    living = temporary_beside(folder / "shard")
    living.write_bytes(b"half")
    gone = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, pathlib; from featcache.storages.local import temporary_beside;"
            "temporary_beside(pathlib.Path(sys.argv[1]) / 'shard').write_bytes(b'half')",
            str(folder),
        ],
        check=True,
    )
    assert gone.returncode == 0
    three_sets.pin(fingerprint(three_sets, "stem"))
    assert three_sets.gc().temporary_files == 1
    assert three_sets.gc(delete=True).temporary_files == 1
    assert [path.name for path in folder.glob(".tmp~*")] == [living.name]


def test_a_head_that_was_put_aside_when_its_writer_died_comes_back(three_sets, net, pairs, tmp_path) -> None:
    made = featcache.split(net, "tail", (pairs.inputs[:2],))
    head = featcache.train_head(made, featcache.extract(made, pairs, three_sets, name="pairs"), epochs=1)
    heads = tmp_path / "store" / "heads"
    head.save(heads / "mine")
    process = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    host = owner_name().partition("~")[0]
    aside = f".tmp~{host}~{process.stdout.strip()}~0~mine"
    (heads / "mine").rename(heads / aside)
    (heads / f".tmp~{host}~{process.stdout.strip()}~1~other").mkdir()
    three_sets.sweep()
    assert [path.name for path in heads.iterdir()] == ["mine"]
    assert featcache.load_head(heads / "mine", made).classes == head.classes


def test_pins_are_named_by_the_beginning_of_a_set(three_sets: FeatureStore) -> None:
    with pytest.raises(UnknownNameError, match="holds no set"):
        three_sets.pin("nothing")
    made = three_sets.pin(fingerprint(three_sets, "tail"))
    assert [each.recipe for each in three_sets.pins()] == [made.recipe]
    with pytest.raises(UnknownNameError, match="no pinned set"):
        three_sets.unpin(fingerprint(three_sets, "stem"))


def test_a_budget_stops_extract_before_it_is_passed_with_the_number_needed(net, pairs, tmp_path) -> None:
    store = FeatureStore(str(tmp_path / "store"))
    with pytest.raises(StoreError, match="store_budget to at least") as refused:
        featcache.extract(net, pairs, store, cut="stem", store_budget="40 kB")
    assert store.sets() == [] or store.sets()[0].rows == 0
    needed = int(str(refused.value).split("at least ")[1].split(" bytes")[0].replace(",", ""))
    featcache.extract(net, pairs, store, cut="stem", store_budget=needed)
    assert store.size_bytes() <= needed
    with pytest.raises(StoreError, match="gc"):
        featcache.extract(net, pairs, store, cut="block", store_budget=needed)
    with pytest.raises(UsageError, match="not a size"):
        featcache.extract(net, pairs, store, cut="block", store_budget="much")


def test_a_budget_holds_for_samples_that_vary_in_length(tmp_path: Path) -> None:
    class Texts(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 40

        def __getitem__(self, index: int):
            return torch.full((600 if index < 16 else 1800, 8), float(index)), 0

    store = FeatureStore(str(tmp_path / "store"))
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 2)).eval()
    budget_bytes = 2_000_000  # enough, by the samples that are looked at first
    with pytest.raises(StoreError, match="budget"):
        featcache.extract(model, Texts(), store, cut="0", batch_size=4, shard_bytes=80_000, store_budget=budget_bytes)
    assert budget_bytes / 2 < store.size_bytes() <= budget_bytes


@pytest.mark.slow
def test_gc_pin_and_budget_from_the_command_line(featcache_command: CommandLine, image_folder: Path) -> None:
    (featcache_command.folder / "featcache.toml").write_text(
        'backbone = "bundled:resnet-mini"\ndata = "folder:images"\ncut = ["layer4"]\nstore-budget = "1 MB"\n'
    )
    featcache_command("extract")
    featcache_command("extract", "--cut", "layer3")
    listed = json.loads(featcache_command("ls", "--json").stdout)
    layer3, layer4 = (next(each["recipe"] for each in listed if each["cut"] == cut) for cut in ("layer3", "layer4"))
    dry = featcache_command("gc")
    assert layer3 in dry.stdout
    assert "Nothing was deleted" in dry.stderr
    assert f"kept {layer4[:7]}: the configuration" in dry.stderr
    featcache_command("pin", layer3[:10], "--reason", "a paper")
    assert json.loads(featcache_command("gc", "--yes", "--json").stdout)["garbage"] == []
    featcache_command("unpin", layer3)
    assert len(json.loads(featcache_command("gc", "--yes", "--json").stdout)["garbage"]) == 1
    assert [each["cut"] for each in json.loads(featcache_command("ls", "--json").stdout)] == ["layer4"]
    refused = featcache_command("extract", "--cut", "layer3", "--store-budget", "1kB", expect=1)
    assert "store_budget" in refused.stderr


def test_a_disk_that_is_too_small_is_an_error_before_anything_is_computed(net, pairs, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("featcache.storages.local.LocalStorage.free_bytes", lambda self: 20_000)
    store = FeatureStore(str(tmp_path / "store"))
    with pytest.raises(StoreError, match=r"need .* free"):
        featcache.extract(net, pairs, store, cut="stem")
    assert store.sets() == []
