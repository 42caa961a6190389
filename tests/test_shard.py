from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from featcache import CorruptError, Recipe, TensorSpec
from featcache.shard import Shard
from featcache.shardwriter import write_shard


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
