from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as arrays

import featcache
from featcache import FeatureStore, Recipe, TensorSpec
from featcache.errors import CorruptError
from featcache.hdf5 import checksum
from featcache.store.row_index import RowIndex, row_keys
from featcache.store.shard import Shard, read_ids
from featcache.store.shard_writer import write_shard

from ..conftest import TensorPairs


def recipe(shape: tuple[int, ...] = (3, 2), dtype: str = "float32") -> Recipe:
    return Recipe("layer1", "structure", {"w": "1"}, (TensorSpec("layer1", shape, "float32"),), None, {}, dtype)


def written(folder: Path, values: np.ndarray, ids: np.ndarray | None = None) -> Path:
    made = recipe(values.shape[1:], values.dtype.name)
    ids = np.random.default_rng(0).integers(0, 256, (len(values), 16), dtype=np.uint8) if ids is None else ids
    views = np.zeros(len(values), dtype="<u4")
    digest = write_shard(folder / "new", made, ids, views, {"layer1": values}, {"host": "here"})
    return (folder / "new").rename(folder / f"{digest}.h5")


@settings(max_examples=30, deadline=None)
@given(
    arrays.arrays(
        st.sampled_from([np.dtype("float32"), np.dtype("float16")]),
        st.tuples(st.integers(1, 40), st.integers(1, 5), st.integers(1, 5)),
    )
)
def test_what_is_written_is_read_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, values: np.ndarray) -> None:
    path = written(tmp_path_factory.mktemp("shard"), values)
    shard = Shard.open(path, recipe(values.shape[1:], values.dtype.name))
    shard.check()
    assert shard.features["layer1"].tobytes() == values.tobytes()
    assert shard.provenance == {"host": "here"}


def test_plain_h5py_reads_a_shard(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    with h5py.File(written(tmp_path, values)) as file:
        assert np.array_equal(file["features/layer1"][:], values)
        assert file["ids"].shape == (2, 16)
        assert set(file.attrs) == {"format", "recipe", "block_rows", "provenance"}


def test_equal_rows_make_a_shard_of_equal_name_whatever_the_provenance(tmp_path: Path) -> None:
    values, ids = np.ones((2, 3, 2), np.float32), np.zeros((2, 16), np.uint8)
    views = np.zeros(2, "<u4")
    names = {
        write_shard(tmp_path / str(host), recipe(), ids, views, {"layer1": values}, {"host": host}) for host in range(2)
    }
    assert len(names) == 1


def test_every_flipped_bit_of_the_features_is_noticed_before_it_is_read(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(50, 3, 2)).astype(np.float32)
    path = written(tmp_path, values)
    content = path.read_bytes()
    start = content.index(values.tobytes())
    for bit in np.random.default_rng(2).choice(values.nbytes * 8, 40, replace=False).tolist():
        damaged = bytearray(content)
        damaged[start + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(CorruptError, match="damaged"):
            Shard.open(path, recipe()).check(np.arange(50))


@pytest.mark.slow
def test_a_flipped_bit_anywhere_is_noticed_or_harmless(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(5, 3, 2)).astype(np.float32)
    path = written(tmp_path, values)
    content, ids = path.read_bytes(), Shard.open(path, recipe()).ids.copy()
    for bit in np.random.default_rng(3).choice(len(content) * 8, 200, replace=False).tolist():
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            shard = Shard.open(path, recipe())
            shard.check()
        except CorruptError:
            continue
        assert np.array_equal(shard.features["layer1"], values)
        assert np.array_equal(shard.ids, ids)


def hostile(path: Path, make) -> Path:
    """Replace /features/layer1 of a good shard by something a stranger could put there."""
    with h5py.File(path, "r+") as file:
        del file["features/layer1"]
        make(file)
    return path


def test_external_links_storage_and_virtual_datasets_are_refused_unread(tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.ones((2, 3, 2), np.float32)
    (tmp_path / "secret.bin").write_bytes(b"s" * 48)

    def external_link(file: h5py.File) -> None:
        file["features/layer1"] = h5py.ExternalLink(str(secret), "x")

    def soft_link(file: h5py.File) -> None:
        file["features/layer1"] = h5py.SoftLink("/features/layer1")

    def external_storage(file: h5py.File) -> None:
        file.create_dataset("features/layer1", (2, 3, 2), "f4", external=[(str(tmp_path / "secret.bin"), 0, 48)])

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((2, 3, 2), "f4")
        layout[:] = h5py.VirtualSource(str(secret), "x", (2, 3, 2))
        file.create_virtual_dataset("features/layer1", layout)

    def lying_shape(file: h5py.File) -> None:
        file.create_dataset("features/layer1", (2, 1 << 40), "f4")

    def filtered(file: h5py.File) -> None:
        file.create_dataset("features/layer1", data=np.ones((2, 3, 2), "f4"), compression="gzip")

    def objects(file: h5py.File) -> None:
        file.create_dataset("features/layer1", (2,), h5py.ref_dtype)

    def a_group(file: h5py.File) -> None:
        file.create_group("features/layer1")

    for number, make in enumerate(
        (external_link, soft_link, external_storage, virtual, lying_shape, filtered, objects, a_group)
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = hostile(written(folder, np.ones((2, 3, 2), np.float32)), make)
        with pytest.raises(CorruptError, match="cannot be trusted"):
            Shard.open(path, recipe())


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, np.ones((50, 3, 2), np.float32))
    content = path.read_bytes()
    for length in (0, 10, 600, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(CorruptError):
            Shard.open(path, recipe()).check()


def test_a_shard_of_another_recipe_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, np.ones((2, 3, 2), np.float32))
    other = Recipe("layer2", "structure", {"w": "1"}, (TensorSpec("layer1", (3, 2), "float32"),), None, {})
    with pytest.raises(CorruptError, match="belongs to the recipe"):
        Shard.open(path, other)


def test_a_shard_that_the_caller_has_open_in_h5py_is_read_all_the_same(tmp_path: Path) -> None:
    values = np.ones((2, 3, 2), np.float32)
    path = written(tmp_path, values)
    with h5py.File(path):
        assert np.array_equal(Shard.open(path, recipe()).features["layer1"], values)


@pytest.fixture
def many(net, pairs, tmp_path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    """A store whose set has so many shards that its index is kept in a file."""
    monkeypatch.setattr("featcache.store.files.MANY_SHARDS", 3)
    store = FeatureStore(str(tmp_path / "s"))
    featcache.extract(net, pairs, store, cut="block", batch_size=8, shard_bytes=1)
    assert store.sets()[0].shards == 7
    return store


@pytest.mark.slow
def test_the_index_that_is_kept_of_many_shards_is_only_a_cache(net, pairs, many: FeatureStore, tmp_path) -> None:
    expected = featcache.extract(net, pairs, many, cut="block", batch_size=8).numpy()[0]
    (kept,) = (tmp_path / "s" / "cache" / "index").iterdir()
    whole = kept.read_bytes()
    for content in (whole, b"", b"{}\n", whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b"[" * 10_000, None):
        kept.write_bytes(content) if content is not None else kept.unlink()
        again = featcache.extract(net, pairs, FeatureStore(str(tmp_path / "s")), cut="block", batch_size=8)
        assert again.report.computed == 0
        assert np.array_equal(again.numpy()[0], expected)


def test_an_index_that_leads_to_other_rows_is_refused(net, pairs, many: FeatureStore, tmp_path) -> None:
    (kept,) = (tmp_path / "s" / "cache" / "index").iterdir()
    index, names = RowIndex.read(kept)
    for lying in (replace(index, rows=index.rows[::-1]), replace(index, shards=(index.shards + 1) % 6)):
        lying.write(tmp_path / "lying", names)
        (tmp_path / "lying").replace(kept)
        features = featcache.extract(net, pairs, FeatureStore(str(tmp_path / "s")), cut="block", batch_size=8)
        with pytest.raises((CorruptError, IndexError)):
            features.numpy()


def test_a_shard_that_is_new_or_gone_since_the_index_was_kept_counts(net, pairs, many: FeatureStore, tmp_path) -> None:
    shard = sorted((tmp_path / "s").glob("sets/*/*.h5"))[2]
    content = shard.read_bytes()
    shard.unlink()
    assert FeatureStore(str(tmp_path / "s")).sets()[0].rows == 42
    shard.write_bytes(content)
    assert FeatureStore(str(tmp_path / "s")).sets()[0].rows == 50


def test_extractions_that_add_a_few_shards_each_keep_the_index_too(net, pairs, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("featcache.store.files.MANY_SHARDS", 3)
    for rows in (16, 32):
        some = TensorPairs(pairs.inputs[:rows], pairs.targets_of[:rows])
        featcache.extract(net, some, str(tmp_path / "s"), cut="block", batch_size=8, shard_bytes=1)
    (kept,) = (tmp_path / "s" / "cache" / "index").iterdir()
    index, names = RowIndex.read(kept)
    assert (len(index), sorted(names)) == (32, sorted(path.name for path in (tmp_path / "s").glob("sets/*/*.h5")))


@pytest.mark.parametrize("order", ["big", "little"])
def test_rows_are_found_where_a_dataset_numbers_its_samples(order: str) -> None:
    numbers = b"".join(number.to_bytes(16, order) for number in range(5000))
    ids = np.frombuffer(numbers, np.uint8).reshape(-1, 16)
    index = RowIndex.build([row_keys(ids[:2000]), row_keys(ids[2000:4000])])
    present, shards, rows = index.find(ids)
    assert np.array_equal(present, np.arange(5000) < 4000)
    assert np.array_equal(shards[:4000] * 2000 + rows[:4000], np.arange(4000))


def test_rows_are_found_by_id_and_view_also_where_hashes_agree() -> None:
    ids = np.random.default_rng(0).integers(0, 256, (300, 16), dtype=np.uint8)
    views = np.arange(300) % 3
    halves = ids.view("<u8")
    halves[:100:3, 0] = halves[:100:3, 1] * np.uint64(0x9E3779B97F4A7C15)  # what the hash makes of the other half
    parts = [row_keys(ids[:150], views[:150]), row_keys(ids[100:], views[100:])]
    index = RowIndex.build(parts)
    assert len(index) == 300
    present, shards, rows = index.find(ids, views)
    assert present.all()
    assert [(int(s), int(r)) for s, r in zip(shards, rows, strict=True)] == [
        (0, n) if n < 150 else (1, n - 100) for n in range(300)
    ]
    assert not index.find(ids, views + 7)[0].any()


def test_a_shard_of_any_other_name_or_recipe_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, np.ones((2, 3, 2), np.float32))
    for name in ("0" * 32, "f" * 32):
        (tmp_path / f"{name}.h5").write_bytes(path.read_bytes())
        with pytest.raises(CorruptError, match="do not match its name"):
            Shard.open(tmp_path / f"{name}.h5", recipe())
    for fingerprint in ("0" * 32, "f" * 32):
        with pytest.raises(CorruptError, match="belongs to the recipe"):
            read_ids(path, fingerprint)
    ids, views = read_ids(path, recipe().fingerprint)
    assert (ids.shape, views.tolist()) == ((2, 16), [0, 0])


def test_each_block_is_checked_once_however_often_its_rows_are_read(tmp_path: Path, monkeypatch) -> None:
    path = written(tmp_path, np.arange(6 * 50_000, dtype=np.float32).reshape(50_000, 3, 2))
    shard = Shard.open(path, recipe())
    size, checked = shard.blocks["layer1"], []
    monkeypatch.setattr(
        "featcache.store.shard.checksum", lambda values: checked.append(len(values)) or checksum(values)
    )
    shard.check(np.array([0, 1, size]))
    assert checked == [size, size]
    shard.check(np.array([2 * size - 1, size]))
    assert len(checked) == 2
    shard.check()
    assert sum(checked) == 50_000


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_damage_is_named_by_the_rows_of_its_block_compressed_or_not(tmp_path: Path, compression: str | None) -> None:
    values = np.random.default_rng(1).normal(size=(30_000, 3, 2)).astype(np.float32)
    ids = np.random.default_rng(0).integers(0, 256, (len(values), 16), dtype=np.uint8)
    views = np.zeros(len(values), "<u4")
    digest = write_shard(tmp_path / "new", recipe(), ids, views, {"layer1": values}, {}, compression=compression)
    path = (tmp_path / "new").rename(tmp_path / f"{digest}.h5")
    shard = Shard.open(path, recipe())
    assert shard.compression == compression
    size = shard.blocks["layer1"]
    rows = np.array([size + 5, 2, 29_999])
    assert np.array_equal(shard.take("layer1", rows), values[rows])
    assert np.array_equal(shard.decoded("layer1", rows), values[rows])
    with h5py.File(path) as file:
        stored = file["features/layer1"]
        offset = stored.id.get_chunk_info(1).byte_offset if compression else stored.id.get_offset() + 24 * size
    content = bytearray(path.read_bytes())
    content[offset + 40] ^= 1
    path.write_bytes(content)
    damaged = Shard.open(path, recipe())
    assert damaged.damaged_rows() == [(size, 2 * size)]
    with pytest.raises(CorruptError, match=f"rows {size} to {2 * size - 1} "):
        damaged.check()
    if compression:
        with pytest.raises(CorruptError, match=f"rows {size} to {2 * size - 1} "):
            damaged.take("layer1", rows)
    last = np.array([29_999])
    assert np.array_equal(damaged.take("layer1", last), values[last])


def test_rows_are_loaded_from_the_file_checked_once_as_stored_or_decoded(tmp_path: Path, monkeypatch) -> None:
    values = np.random.default_rng(1).normal(size=(30_000, 3, 2)).astype(np.float16)
    path = written(tmp_path, values)
    shard = Shard.open(path, recipe(dtype="float16"))
    assert "_checked" not in repr(shard)
    size, checked = shard.blocks["layer1"], []
    monkeypatch.setattr("featcache.store.shard.checksum", lambda block: checked.append(len(block)) or checksum(block))
    rows, places = np.array([size + 5, 2, 3]), np.array([0, 3, 1])
    for as_stored, dtype in ((True, np.float16), (False, np.float32)):
        out = np.full((4, 3, 2), 7, dtype)
        shard.load("layer1", rows, places, out, as_stored)
        assert np.array_equal(out[places], values[rows].astype(dtype))
        assert (out[2] == 7).all()
    assert checked == [size, 30_000 - size]
    path.unlink()
    gone = np.zeros((4, 3, 2), np.float32)
    shard.load("layer1", np.array([29_999, 1]), np.array([1, 2]), gone, False)
    assert np.array_equal(gone[1:3], values[[29_999, 1]].astype(np.float32))


def test_a_damaged_row_is_refused_when_it_is_loaded_and_others_are_not(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(30_000, 3, 2)).astype(np.float32)
    path = written(tmp_path, values)
    size = Shard.open(path, recipe()).blocks["layer1"]
    content = bytearray(path.read_bytes())
    content[content.index(values[:2].tobytes()) + 24 * size + 5] ^= 1
    path.write_bytes(content)
    shard, out = Shard.open(path, recipe()), np.zeros((1, 3, 2), np.float32)
    shard.load("layer1", np.array([2]), np.array([0]), out, False)
    assert np.array_equal(out[0], values[2])
    for _ in range(2):
        with pytest.raises(CorruptError, match=f"rows {size} to {2 * size - 1} "):
            shard.load("layer1", np.array([size + 9]), np.array([0]), out, False)
    shard.load("layer1", np.array([2 * size]), np.array([0]), out, False)
    assert np.array_equal(out[0], values[2 * size])


def test_each_of_several_tensors_is_checked_also_where_another_one_was(tmp_path: Path) -> None:
    specs = tuple(TensorSpec(name, (3, 2), "float32") for name in ("a", "b"))
    two = Recipe("a", "structure", {"w": "1"}, specs, None, {})
    values = {
        name: np.random.default_rng(number).normal(size=(5, 3, 2)).astype(np.float32)
        for number, name in enumerate("ab")
    }
    ids = np.arange(80, dtype=np.uint8).reshape(5, 16)
    digest = write_shard(tmp_path / "new", two, ids, np.zeros(5, "<u4"), values, {})
    path = (tmp_path / "new").rename(tmp_path / f"{digest}.h5")
    content = bytearray(path.read_bytes())
    content[content.index(values["b"].tobytes())] ^= 1
    path.write_bytes(content)
    rows = np.arange(5)
    for loaded in (False, True):
        shard = Shard.open(path, two)
        if loaded:
            shard.load("a", rows, rows, np.zeros((5, 3, 2), np.float32), False)
        assert shard.damaged_rows() == [(0, 5)]
        for asked in (rows, None):
            with pytest.raises(CorruptError, match="rows 0 to 4"):
                shard.check(asked)
