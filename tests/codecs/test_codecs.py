"""Stored precisions, and compression that changes no value."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as arrays

import featcache
from featcache import FeatureStore, Recipe, TensorSpec
from featcache.codecs.codec import codecs, load_codec
from featcache.errors import CorruptError, NonFiniteError, UsageError
from featcache.store.shard import Shard
from featcache.store.shard_writer import write_shard

from ..features.test_ragged import Encoder, Texts

PRECISIONS = ("float16", "bfloat16", "float8_e4m3", "float8_e5m2", "int8", "int4")
# The largest error of a value, as a share of it (floating) or of its channel's span (whole numbers).
ERRORS = {
    "float16": 2**-11,
    "bfloat16": 2**-8,
    "float8_e4m3": 2**-4,
    "float8_e5m2": 2**-3,
    "int8": 1 / 255,
    "int4": 1 / 15,
}
SMALLEST = {"float16": 2**-24, "float8_e4m3": 2**-9, "float8_e5m2": 2**-16}

shapes = st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))


def values_of(shape: st.SearchStrategy) -> st.SearchStrategy:
    return arrays.arrays(np.float32, shape, elements=st.floats(-400, 400, width=32))


def read_back(name: str, values: np.ndarray, dtype: str = "float32") -> np.ndarray:
    codec = load_codec(name)
    scales = codec.scales(values, dtype)
    stored = codec.encode(values, scales)
    assert stored.dtype == codec.storage_dtype(dtype)
    assert stored.shape == (len(values), *codec.storage_shape(values.shape[1:], dtype))
    return codec.decode(stored, values.shape[1:], dtype, scales)


@pytest.mark.parametrize("name", PRECISIONS)
@settings(max_examples=40, deadline=None)
@given(
    values=st.one_of(
        values_of(shapes),
        values_of(st.tuples(st.integers(1, 9))),
        values_of(st.tuples(st.integers(1, 5), st.integers(1, 9))),
    )
)
def test_every_value_is_read_back_as_float32_within_the_error_of_its_precision(name: str, values: np.ndarray) -> None:
    found = read_back(name, values)
    assert found.dtype == np.float32
    assert found.shape == values.shape
    if name.startswith("int"):
        axis = {1: None, 2: 0}.get(values.ndim, (0, *range(2, values.ndim)))
        channels_last = values.ndim == 4 and values.shape[1] == values.shape[2] != values.shape[3]
        axis = (0, 1, 2) if channels_last else axis
        low = np.minimum(values.min(axis=axis, keepdims=True), 0)
        span = np.maximum(values.max(axis=axis, keepdims=True), 0) - low
        allowed = span * ERRORS[name] * 1.001 + 1e-30
        assert not found[values == 0].any()
    else:
        allowed = np.abs(values) * ERRORS[name] + SMALLEST.get(name, 1e-38)
    assert (np.abs(found - values) <= allowed).all()


@pytest.mark.parametrize("name", PRECISIONS)
def test_tensors_that_are_not_floating_are_kept_as_they_are(name: str) -> None:
    values = np.arange(12).reshape(3, 4)
    assert np.array_equal(read_back(name, values, "int64"), values)
    assert load_codec(name).is_exact("int64")
    assert not load_codec(name).is_exact("float32")


def test_all_precisions_are_known_by_name() -> None:
    assert set(codecs.names()) == {"float32", *PRECISIONS}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("codec", [None, "zstd"])
def test_a_set_of_each_precision_is_read_alike_in_batches_in_memory_and_over_shards(
    net, pairs, tmp_path, dtype, codec
) -> None:
    exact = featcache.extract(net, pairs, str(tmp_path / "exact"), cut="block").numpy()[0]
    features = featcache.extract(
        net, pairs, str(tmp_path / "s"), cut="block", dtype=dtype, codec=codec, batch_size=8, shard_bytes=8 * 8 * 36
    )
    assert FeatureStore(str(tmp_path / "s")).sets()[0].shards > 1
    order = np.random.default_rng(0).permutation(50)
    whole = features.numpy()[0]
    assert np.abs(whole - exact).max() <= np.ptp(exact) * ERRORS[dtype]
    assert np.array_equal(features.batch(order)[0].numpy(), whole[order])
    assert np.array_equal(features.load().batch(order)[0].numpy(), whole[order])
    again = featcache.extract(net, pairs, str(tmp_path / "s"), cut="block", dtype=dtype)
    assert again.report.computed == 0
    assert FeatureStore(str(tmp_path / "s")).verify().damaged == []


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "int8", "int4", "float8_e4m3"])
@pytest.mark.parametrize("codec", [None, "zstd"])
def test_samples_of_varying_length_come_back_at_each_precision(tmp_path, dtype, codec) -> None:
    torch.manual_seed(0)
    encoder, texts = Encoder().eval(), Texts()
    exact = featcache.extract(encoder, texts, str(tmp_path / "s"), cut="layers.1").batch(np.arange(40))[0]
    features = featcache.extract(
        encoder, texts, str(tmp_path / "t"), cut="layers.1", dtype=dtype, codec=codec, batch_size=4, shard_bytes=1
    )
    span = float(exact["layers.1"].max() - exact["layers.1"].min())
    for found in (features.batch(np.arange(40))[0], features.load().batch(np.arange(40))[0]):
        assert torch.equal(found["mask"], exact["mask"])
        assert torch.equal(found["attention_mask"], exact["attention_mask"])
        assert (found["layers.1"] - exact["layers.1"]).abs().max() <= span * ERRORS[dtype]
        assert not found["layers.1"][~found["mask"]].any()


def test_views_are_compressed_and_rounded_as_the_plain_samples_are(net, pairs, tmp_path) -> None:
    made = {}
    for codec in (None, "zstd"):
        features = featcache.extract(
            net, pairs, str(tmp_path / str(codec)), cut="block", dtype="int8", codec=codec, views=2, augment=Noise()
        )
        made[codec] = features.batch(np.arange(50), np.arange(50) % 3)[0]
    assert torch.equal(made[None], made["zstd"])


class Noise:
    featcache_identity = "noise"

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn(x.shape)


@pytest.mark.parametrize(("dtype", "limit"), [("float16", "65504"), ("float8_e4m3", "448"), ("float8_e5m2", "57344")])
def test_a_value_beyond_the_precision_is_refused_with_the_limit(net, pairs, tmp_path, dtype, limit) -> None:
    class Times(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 1e9

    net.block.register_module("times", Times())
    with pytest.raises(NonFiniteError, match=f"{limit}.*{dtype}"):
        featcache.extract(net, pairs, str(tmp_path / "s"), cut="block", dtype=dtype)


def test_a_rounded_set_is_never_what_an_exact_one_is_derived_from(net, pairs, tmp_path) -> None:
    featcache.extract(net, pairs, str(tmp_path / "s"), cut="stem", dtype="int8")
    deeper = featcache.extract(net, pairs, str(tmp_path / "s"), cut="block")
    assert (deeper.report.derived, deeper.report.computed) == (0, 50)


def test_compression_makes_no_other_set_and_changes_no_value(net, pairs, tmp_path) -> None:
    plain = featcache.extract(net, pairs, str(tmp_path / "plain"), cut="block")
    packed = featcache.extract(net, pairs, str(tmp_path / "packed"), cut="block", codec="zstd")
    assert packed.recipe == plain.recipe
    assert torch.equal(packed.batch(np.arange(50))[0], plain.batch(np.arange(50))[0])
    assert featcache.extract(net, pairs, str(tmp_path / "packed"), cut="block").report.computed == 0
    files = [next((tmp_path / name).glob("sets/*/*.h5")) for name in ("plain", "packed")]
    assert files[0].name == files[1].name
    assert packed.report.size_bytes == files[1].stat().st_size < files[0].stat().st_size
    with pytest.raises(UsageError, match="zstd"):
        featcache.extract(net, pairs, str(tmp_path / "packed"), cut="block", codec="gzip")


def packed(folder: Path, values: np.ndarray) -> tuple[Path, Recipe]:
    recipe = Recipe("a", "s", {}, (TensorSpec("a", values.shape[1:], "float32"),), None, {}, values.dtype.name)
    ids = np.random.default_rng(0).integers(0, 256, (len(values), 16), dtype=np.uint8)
    views = np.zeros(len(values), "<u4")
    digest = write_shard(folder / "new", recipe, ids, views, {"a": values}, {}, compression="zstd")
    return (folder / "new").rename(folder / f"{digest}.h5"), recipe


@settings(max_examples=25, deadline=None)
@given(
    arrays.arrays(
        st.sampled_from([np.dtype("float32"), np.dtype("float16")]), st.tuples(st.integers(1, 40), st.integers(1, 9))
    ),
    st.integers(1, 60_000),
)
def test_what_is_compressed_is_read_back_bit_for_bit(tmp_path_factory, values: np.ndarray, width: int) -> None:
    values = np.tile(values, (1, -(-width // values.shape[1])))[:, :width]  # rows of several, or of one to a chunk
    path, recipe = packed(tmp_path_factory.mktemp("shard"), values)
    shard = Shard.open(path, recipe)
    shard.check()
    rows = np.random.default_rng(1).integers(0, len(values), 20)
    assert shard.features["a"].take(rows).tobytes() == values[rows].tobytes()


def filters(path: Path) -> list[int]:
    with h5py.File(path) as file:
        properties = file["features/a"].id.get_create_plist()
        return [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]


def test_bytes_are_shuffled_where_that_makes_them_fewer(tmp_path) -> None:
    dense = np.random.default_rng(0).normal(size=(300, 700)).astype(np.float16)
    sparse = np.where(np.random.default_rng(1).random(dense.shape) < 0.9, np.float16(0), dense)
    for name, values in (("dense", dense), ("sparse", sparse)):
        (tmp_path / name).mkdir()
        path, recipe = packed(tmp_path / name, values)
        assert filters(path) == ([h5py.h5z.FILTER_SHUFFLE, 32015] if name == "dense" else [32015])
        shard = Shard.open(path, recipe)
        shard.check()
        assert np.array_equal(shard.features["a"].take(np.arange(300)), values)


@pytest.mark.parametrize("share_of_zeros", [0.0, 0.9])
def test_plain_h5py_reads_a_compressed_shard_with_the_zstd_filter(tmp_path, share_of_zeros: float) -> None:
    values = np.random.default_rng(0).normal(size=(300, 700)).astype(np.float32)
    values[np.random.default_rng(1).random(values.shape) < share_of_zeros] = 0
    path, _ = packed(tmp_path, values)
    np.save(tmp_path / "values.npy", values)
    script = (
        "import sys, h5py, hdf5plugin, numpy as np\n"
        "with h5py.File(sys.argv[1]) as file:\n"
        "    assert np.array_equal(file['features/a'][:], np.load(sys.argv[2]))\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path), str(tmp_path / "values.npy")], check=True)


def test_every_flipped_bit_of_compressed_features_is_noticed_or_harmless(tmp_path) -> None:
    values = np.random.default_rng(0).normal(size=(60, 30)).astype(np.float32)
    path, recipe = packed(tmp_path, values)
    content = path.read_bytes()
    for bit in np.random.default_rng(2).choice(len(content) * 8, 300, replace=False).tolist():
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            shard = Shard.open(path, recipe)
            found = shard.features["a"].take(np.arange(60))
            shard.check()
        except CorruptError:
            continue
        assert np.array_equal(found, values)


def test_other_filters_and_chunks_that_claim_too_much_are_refused(tmp_path) -> None:
    values = np.zeros((50, 100), np.float32)

    def gzip(file: h5py.File) -> None:
        file.create_dataset("features/a", data=values, chunks=(50, 100), compression="gzip", shuffle=True)

    def huge_chunk(file: h5py.File) -> None:
        file.create_dataset("features/a", data=values, chunks=(50, 100), shuffle=True)

    def bomb(file: h5py.File) -> None:
        import zstandard

        from featcache.hdf5.writing import NewFile

        chunk = zstandard.ZstdCompressor().compress(bytes(1 << 26))
        NewFile(file, None).chunks("features/a", values.shape, values.dtype, 50, True, [chunk])

    for number, make in enumerate((gzip, huge_chunk, bomb)):
        folder = tmp_path / str(number)
        folder.mkdir()
        path, recipe = packed(folder, values)
        with h5py.File(path, "r+") as file:
            del file["features/a"]
            make(file)
        with pytest.raises(CorruptError):
            Shard.open(path, recipe).check()
