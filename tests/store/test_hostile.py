"""A stranger's file is a clear error within bounded time and memory; nothing else is opened, and no code is loaded."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import featcache
from featcache import FeatCacheError, FeatureStore, Recipe, TensorSpec
from featcache.errors import CorruptError, UsageError
from featcache.extraction.example import stored_example
from featcache.hdf5 import open_file, read_attributes
from featcache.project.heads import load_saved_head
from featcache.samples.snapshot import Snapshot, read_snapshot, write_snapshot
from featcache.storages.storage import safe_path
from featcache.store.shard import Ragged, Shard
from featcache.store.shard_writer import shard_digest, write_shard

from . import hostile

EXTRA_BYTES = 400 << 20
LIMIT_S = 20


def recipe(ragged: bool = False) -> Recipe:
    shape = (None, 2) if ragged else (3, 2)
    return Recipe("layer1", "structure", {"w": "1"}, (TensorSpec("layer1", shape, "float32"),), None, {})


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    path = tmp_path / "store" / "new"
    values = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    ids = np.arange(32, dtype=np.uint8).reshape(2, 16)
    digest = write_shard(path, recipe(), ids, np.zeros(2, "<u4"), {"layer1": values}, {})
    return path.rename(path.with_name(f"{digest}.h5"))


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir(exist_ok=True)
    made = Snapshot("d", np.zeros((2, 16), np.uint8), ["a", "b"], np.arange(2), ["train", "test"], ["x"])
    path = tmp_path / "store" / f"{made.digest}.h5"
    write_snapshot(path, made)
    return path


def read_shard(path: Path) -> None:
    Shard.open(path, recipe()).check()


def refused(read: Callable[[Path], object], path: Path) -> str:
    """Return what reading a file in a process of little memory and time leads to."""
    process = os.fork()
    if not process:
        code = 3
        try:
            size_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size_bytes + EXTRA_BYTES, -1))
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(LIMIT_S)
            read(path)
            code = 1
        except CorruptError:
            code = 0
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            code = 2
        finally:
            os._exit(code)
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status):
        return f"killed by signal {os.WTERMSIG(status)}"
    return {0: "CorruptError", 1: "it was read", 2: "another error"}.get(os.WEXITSTATUS(status), "unknown")


class Watch:
    """Says whether anything in a folder was opened."""

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = libc.inotify_init1(os.O_NONBLOCK)
        assert libc.inotify_add_watch(self.descriptor, os.fsencode(folder), 0x21) > 0  # IN_ACCESS | IN_OPEN

    def opened(self) -> list[str]:
        try:
            content = os.read(self.descriptor, 1 << 16)
        except BlockingIOError:
            return []
        found = []
        while content:
            _, _, _, length = struct.unpack("iIII", content[:16])
            found.append(content[16 : 16 + length].rstrip(b"\0").decode())
            content = content[16 + length :]
        return found


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    folder = tmp_path / "outside"
    folder.mkdir()
    with h5py.File(folder / "secret.h5", "w") as file:
        file["x"] = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    (folder / "libplugin.so").write_bytes(b"\x7fELF")
    monkeypatch.setenv("HDF5_PLUGIN_PATH", str(folder))
    watch = Watch(folder)
    yield watch
    os.close(watch.descriptor)  # a user may have few of them


SHARD_PLACES = {"features/layer1": hostile.DATASETS, "features": hostile.GROUPS, "checksums": hostile.GROUPS}


@pytest.mark.slow
@pytest.mark.parametrize(("place", "what"), [(place, what) for place, each in SHARD_PLACES.items() for what in each])
def test_what_a_stranger_puts_into_a_shard_is_refused_unread(
    shard: Path, outside: Watch, place: str, what: str
) -> None:
    hostile.replaced(shard, place, SHARD_PLACES[place][what])
    outside.opened()
    assert refused(read_shard, shard) == "CorruptError"
    assert outside.opened() == []


@pytest.mark.slow
@pytest.mark.parametrize("place", ["ids", "views", "checksums/layer1"])
def test_every_other_dataset_of_a_shard_is_as_guarded(shard: Path, outside: Watch, place: str) -> None:
    for number, (what, change) in enumerate(hostile.DATASETS.items()):
        (shard.parent / str(number)).mkdir()
        path = Path(shutil.copy(shard, shard.parent / str(number) / shard.name))
        hostile.replaced(path, place, change)
        outside.opened()
        assert refused(read_shard, path) == "CorruptError", what
        assert outside.opened() == [], what


@pytest.mark.slow
@pytest.mark.parametrize("what", ["none", "another shape", "another rank", *hostile.DATASETS])
def test_scales_that_lie_are_refused(tmp_path: Path, outside: Watch, what: str) -> None:
    asked = replace(recipe(), dtype="int8")
    values, scales = np.ones((2, 3, 2), np.uint8), np.ones((2, 2), np.float32)
    if what.startswith("another"):
        scales = scales.reshape(-1, 1) if what == "another shape" else scales[0]
    ids, views = np.arange(32, dtype=np.uint8).reshape(2, 16), np.zeros(2, "<u4")
    digest = write_shard(
        tmp_path / "new", asked, ids, views, {"layer1": values}, {}, {"layer1": scales} if what != "none" else {}
    )
    path = (tmp_path / "new").rename(tmp_path / f"{digest}.h5")
    if what in hostile.DATASETS:
        hostile.replaced(path, "scales/layer1", hostile.DATASETS[what])
    outside.opened()
    assert refused(lambda each: Shard.open(each, asked).check(), path) == "CorruptError"
    assert outside.opened() == []


@pytest.mark.parametrize("what", [*hostile.ATTRIBUTES])
def test_attributes_that_lie_are_refused(shard: Path, what: str) -> None:
    with h5py.File(shard, "r+") as file:
        hostile.ATTRIBUTES[what](file.attrs)
    assert refused(read_shard, shard) == "CorruptError"


@pytest.mark.parametrize("what", [*hostile.BYTES])
def test_bytes_that_are_no_shard_are_refused(shard: Path, what: str) -> None:
    shard.write_bytes(hostile.BYTES[what](shard.read_bytes()))
    assert refused(read_shard, shard) == "CorruptError"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["ids", "targets", "names", "name_ends", "split_codes"])
def test_what_a_stranger_puts_into_a_snapshot_is_refused_unread(snapshot: Path, outside: Watch, place: str) -> None:
    for number, (what, change) in enumerate(hostile.DATASETS.items()):
        (snapshot.parent / str(number)).mkdir()
        path = Path(shutil.copy(snapshot, snapshot.parent / str(number) / snapshot.name))
        hostile.replaced(path, place, change)
        outside.opened()
        assert refused(read_snapshot, path) == "CorruptError", what
        assert outside.opened() == [], what
    for what, change in hostile.BYTES.items():
        if what != "dimensions that lie":
            path.write_bytes(change(snapshot.read_bytes()))
            assert refused(read_snapshot, path) == "CorruptError", what


BIG = 2**63 - 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "ends",
    [[5, 3], [-1, 4], [2, BIG], [4], [1, 2, 4], [BIG, 4], [3, 5], [0, 3]],
    ids=str,
)
def test_ends_that_lie_are_refused_even_where_the_name_fits(tmp_path: Path, ends: list[int]) -> None:
    asked = recipe(ragged=True)
    values = np.arange(8, dtype=np.float32).reshape(4, 2)
    ids, views = np.arange(32, dtype=np.uint8).reshape(2, 16), np.zeros(2, "<u4")
    lying = np.array(ends, dtype="<i8")
    digest = write_shard(tmp_path / "new", asked, ids, views, {"layer1": Ragged(values, lying)}, {})
    path = (tmp_path / "new").rename(tmp_path / f"{digest}.h5")
    assert refused(lambda each: Shard.open(each, asked).check(), path) == "CorruptError"


def test_ends_that_rise_only_because_numbers_overflow_are_refused(tmp_path: Path) -> None:
    asked, values = recipe(ragged=True), np.arange(8, dtype=np.float32).reshape(4, 2)
    ids, views = np.arange(80, dtype=np.uint8).reshape(5, 16), np.zeros(5, "<u4")
    lying = np.array([1, BIG, -BIG - 1, -5, 4], dtype="<i8")
    digest = write_shard(tmp_path / "new", asked, ids, views, {"layer1": Ragged(values, lying)}, {})
    path = (tmp_path / "new").rename(tmp_path / f"{digest}.h5")
    assert refused(lambda each: Shard.open(each, asked).check(), path) == "CorruptError"


@pytest.mark.parametrize("size", [0, -1, 2**64 - 1, 2**50])
def test_a_block_size_that_lies_is_refused(shard: Path, size: int) -> None:
    with h5py.File(shard, "r+") as file:
        file.attrs["block_rows"] = np.array(size, dtype="u8" if size > 0 else "i8")[()]
        blocks, checksums = {"layer1": size}, {"layer1": file["checksums/layer1"][:]}
        ids, views = file["ids"][:], file["views"][:]
    name = shard_digest(recipe().fingerprint, ids, views, blocks, checksums, {})
    assert refused(read_shard, shard.rename(shard.with_name(f"{name}.h5"))) == "CorruptError"


def test_names_that_ask_for_the_same_text_again_and_again_are_refused(tmp_path: Path) -> None:
    count, text = 20_000, np.full(1 << 20, 97, dtype=np.uint8)
    ends = np.where(np.arange(count) % 2, 0, len(text)).astype("<i8")
    made = Snapshot("d", np.zeros((count, 16), np.uint8), ["a"] * count, np.zeros(count), [""] * count, None)
    path = tmp_path / f"{made.digest}.h5"
    write_snapshot(path, made)
    with h5py.File(path, "r+") as file:
        del file["names"], file["name_ends"]
        file["names"], file["name_ends"] = text, ends
    assert refused(read_snapshot, path) == "CorruptError"


@pytest.mark.parametrize(
    "content",
    ["", "null", "[]", "[" * 200_000, '{"recipe_version": 1}', '{"format": 1}', "\xff", '{"a": NaN}', "1e999", '"x"'],
    ids=range(10),
)
def test_json_that_is_something_else_is_a_clear_error(tmp_path: Path, content: str) -> None:
    store = FeatureStore(str(tmp_path / "s"))
    store.create()
    folder = tmp_path / "s" / "sets" / ("0" * 32)
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_bytes(content.encode("latin1"))
    with pytest.raises(CorruptError):
        store.recipes()
    (tmp_path / "s" / "store.json").write_bytes(content.encode("latin1"))
    if content != '{"format": 1}':
        with pytest.raises(FeatCacheError):
            FeatureStore(str(tmp_path / "s"))


def test_a_recipe_of_types_that_do_not_exist_is_a_clear_error(shard: Path) -> None:
    odd = Recipe("layer1", "structure", {"w": "1"}, (TensorSpec("layer1", (3, 2), "float99"),), None, {})
    with pytest.raises(CorruptError, match="float99"):
        Shard.open(shard, odd)


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "/etc", "..", ".", "", "a\\b", "a\0b", "~", "x" * 101, "-x", "a b", "é"]
)
def test_names_from_outside_cannot_leave_the_folder_of_the_store(tmp_path: Path, name: str) -> None:
    store = FeatureStore(str(tmp_path / "s"))
    store.create()
    made = Snapshot(name, np.zeros((1, 16), np.uint8), ["../../x"], np.zeros(1), ["../y"], ["../z"])
    with pytest.raises(UsageError, match="cannot be the name"):
        store.save_snapshot(made)
    with pytest.raises(UsageError):
        store.snapshot(name)
    if name not in ("~", "x" * 101, "-x", "a b", "é", "a/b"):
        with pytest.raises(FeatCacheError):
            safe_path(f"sets/{name}/recipe.json")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["s", "store.json"]


LINKED_LISTED = ("sets/*/*.h5", "snapshots/*", "snapshots/*/*.h5", "heads/*")  # what is found by listing is left out
LINKED_NAMED = (
    *("store.json", "sets", "sets/*", "sets/*/recipe.json", "sets/*/example.safetensors"),
    *("snapshots", "snapshots/*/latest.json", "heads"),
)


@pytest.mark.slow
@pytest.mark.parametrize("linked", [*LINKED_LISTED, *LINKED_NAMED])
def test_a_symbolic_link_in_a_store_is_never_followed(features, pairs, made, tmp_path: Path, linked: str) -> None:
    featcache.train_head(made, features, head="linear", epochs=1).save(tmp_path / "store" / "heads" / "mine")
    inside = next((tmp_path / "store").glob(linked))
    (tmp_path / "outside").mkdir()
    aside = tmp_path / "outside" / inside.name
    inside.rename(aside)
    inside.symlink_to(aside, target_is_directory=aside.is_dir())
    watched = [Watch(each) for each in (aside.parent, aside) if each.is_dir()]

    def refused_or_done(action: Callable[[], object]) -> str:
        try:
            action()
        except FeatCacheError as error:
            return str(error)
        return ""

    store = str(tmp_path / "store")
    damaged: list[object] = []
    said = refused_or_done(lambda: damaged.extend(FeatureStore(store).verify().damaged))
    said += refused_or_done(lambda: FeatureStore(store).gc(delete=True))
    said += refused_or_done(lambda: featcache.extract(made, pairs, store))
    said += refused_or_done(lambda: stored_example(FeatureStore(store).set(features.recipe)))
    said += refused_or_done(lambda: load_saved_head(store, "mine"))
    assert "is a symbolic link" in f"{said}{damaged}" or linked in LINKED_LISTED
    assert not any(watch.opened() for watch in watched)
    assert aside.exists()


def test_names_of_samples_classes_and_splits_are_only_text(tmp_path: Path) -> None:
    store = FeatureStore(str(tmp_path / "s"))
    store.create()
    store.save_snapshot(Snapshot("d", np.zeros((1, 16), np.uint8), ["../../x"], np.zeros(1), ["/y"], ["../z"]))
    back = store.snapshot("d")
    assert (list(back.names), list(back.splits), back.classes) == (["../../x"], ["/y"], ["../z"])
    assert all((tmp_path / "s") in path.parents for path in tmp_path.rglob("*.h5"))


def test_an_attribute_whose_name_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        text = h5py.h5t.C_S1.copy()
        text.set_size(4)
        h5py.h5a.create(file.id, b"cut\x80", text, h5py.h5s.create(h5py.h5s.SCALAR))
    with open_file(tmp_path / "x.h5") as file, pytest.raises(CorruptError, match="not named by text"):
        read_attributes(file)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_random_changes_of_bytes_are_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    values = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    ids = np.arange(32, dtype=np.uint8).reshape(2, 16)
    digest = write_shard(folder / "new", recipe(), ids, np.zeros(2, "<u4"), {"layer1": values}, {})
    content = bytearray((folder / "new").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=16))
        content[at : at + len(piece)] = piece
    path = folder / f"{digest}.h5"
    path.write_bytes(content)
    try:
        opened = Shard.open(path, recipe())
        opened.check()
    except CorruptError:
        return
    assert np.array_equal(opened.features["layer1"], values)
    assert np.array_equal(opened.ids, ids)


def test_no_pickle_is_ever_read() -> None:
    root = Path(__file__).parents[2] / "featcache"
    ours = {
        *(root / "testing").iterdir(),
        *(root / "engines").iterdir(),
    }  # what a job and its own workers send to each other
    for path in set(root.rglob("*.py")) - ours:
        words = path.read_text(encoding="utf-8")
        assert "pickle.load" not in words, path
        assert "allow_pickle=True" not in words, path
    assert json.loads((root / "backbones" / "resnet_mini.json").read_text())


def test_a_head_cannot_have_code_run_that_came_with_the_store(tmp_path: Path) -> None:
    from featcache.errors import HeadError
    from featcache.project.heads import load_saved_head

    folder = tmp_path / "s" / "heads" / "mine"
    folder.mkdir(parents=True)
    (folder.parent / "evil.py").write_text("raise SystemExit\n")
    described = {
        "format": 1,
        "cut": "layer1",
        "recipe": recipe().to_dict(),
        "origin": {"backbone": f"{folder.parent}/evil.py:make", "data": "folder:x"},
    }
    (folder / "head.json").write_text(json.dumps(described))
    (tmp_path / "s" / "store.json").write_text('{"format": 1}')
    with pytest.raises(HeadError, match="nothing in a store is run"):
        load_saved_head(str(tmp_path / "s"), "mine")
