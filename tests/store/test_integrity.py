"""Damage of any kind to any file of a store is seen, named, and mended by recomputing just what it concerns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import featcache
from featcache import FeatCacheError, Features, FeatureStore
from featcache.extraction.example import stored_example

from ..conftest import CommandLine, SmallNet, TensorPairs


class Bench:
    """A small store with one set of several shards, a snapshot and a head, and what is read from them when they are whole."""

    def __init__(self, folder: Path, net: SmallNet, pairs: TensorPairs) -> None:
        self.folder, self.net, self.pairs = folder, net, pairs
        self.split = featcache.split(net, "block", (pairs.inputs[:2],))
        features = self.extract()
        self.head = featcache.train_head(self.split, features, epochs=1)
        self.head.save(folder / "heads" / "mine")
        self.values, self.targets = features.numpy()
        self.predicted = self.logits()

    def extract(self) -> Features:
        return featcache.extract(
            self.split, self.pairs, str(self.folder), batch_size=8, shard_bytes=8 * 8 * 36 * 4, name="pairs"
        )

    def logits(self) -> torch.Tensor:
        with torch.no_grad():
            return featcache.load_head(self.folder / "heads" / "mine", self.split).model(self.pairs.inputs[:4])

    def served_rightly(self) -> bool:
        """Return whether everything that is read back is as it was; False where damage is reported instead."""
        try:
            store = FeatureStore(str(self.folder))
            snapshot = store.snapshot("pairs")
            features = Features.join(store.set(store.recipes()[0]), snapshot)
            values, targets = features.numpy()
            predicted = self.logits()
        except FeatCacheError:
            return False
        assert np.array_equal(values, self.values)
        assert np.array_equal(targets, self.targets)
        assert torch.equal(predicted, self.predicted)
        return True


@pytest.fixture
def bench(net: SmallNet, pairs: TensorPairs, tmp_path: Path) -> Bench:
    return Bench(tmp_path / "store", net, pairs)


def files_of(folder: Path) -> list[Path]:
    kept = ("sets", "snapshots", "heads")
    named = [path for top in kept for path in sorted((folder / top).rglob("*")) if path.is_file()]
    return [folder / "store.json", *[path for path in named if path.suffix != ".svg"]]


def flip(path: Path, bit: int) -> bytes:
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    return content


@pytest.mark.slow
def test_a_flipped_bit_in_any_file_of_a_store_is_noticed_or_harmless(bench: Bench) -> None:
    generator = np.random.default_rng(20)
    files = files_of(bench.folder)
    noticed = 0
    for number in range(300):
        # Files in turn, since large ones would otherwise take nearly all of the bits.
        path = files[number % len(files)]
        content = flip(path, int(generator.integers(path.stat().st_size * 8)))
        noticed += not bench.served_rightly()
        path.write_bytes(content)
    assert noticed > 60
    assert bench.served_rightly()


@pytest.mark.slow
def test_verify_finds_every_flipped_bit_that_matters(bench: Bench) -> None:
    generator = np.random.default_rng(21)
    files = files_of(bench.folder)
    for number in range(200):
        path = files[number % len(files)]
        content = flip(path, int(generator.integers(path.stat().st_size * 8)))
        try:
            found = bool(FeatureStore(str(bench.folder)).verify().damaged)
        except FeatCacheError:
            found = True
        if not found:
            assert bench.served_rightly(), path
        path.write_bytes(content)


def data_of(path: Path) -> tuple[int, int]:
    with h5py.File(path) as file:
        dataset = file["features/block"]
        return dataset.id.get_offset(), dataset.id.get_storage_size()


def test_damage_is_named_by_shard_and_rows_and_repair_drops_just_those(bench: Bench) -> None:
    shards = sorted(bench.folder.glob("sets/*/*.h5"))
    assert len(shards) > 3
    start, _ = data_of(shards[0])
    flip(shards[0], start * 8 + 5)
    store = FeatureStore(str(bench.folder))
    (damage,) = store.verify().damaged
    assert damage.path.endswith(shards[0].name)
    (first, last), rows = damage.rows[0], 50
    assert store.verify(repair=True).unrepaired == []
    assert store.verify().damaged == []
    assert store.sets()[0].rows == rows - (last - first)
    again = bench.extract()
    assert again.report.computed == last - first
    assert np.array_equal(again.numpy()[0], bench.values)


def test_every_flipped_bit_of_an_examples_values_is_noticed_and_it_comes_back_with_new_rows(bench: Bench) -> None:
    (path,) = bench.folder.glob("sets/*/example.safetensors")
    whole, store = path.read_bytes(), FeatureStore(str(bench.folder))
    begin = 8 + int.from_bytes(whole[:8], "little")
    for position in range(begin * 8, len(whole) * 8, 997):
        flip(path, position)
        assert [each.path.rpartition("/")[2] for each in store.verify().damaged] == ["example.safetensors"]
        assert stored_example(store.set(store.recipes()[0])) is None
        path.write_bytes(whole)
    flip(path, begin * 8)
    assert store.verify(repair=True).unrepaired == []
    assert not path.exists()
    shard = next(bench.folder.glob("sets/*/*.h5"))
    shard.unlink()
    assert bench.extract().report.computed > 0
    assert store.verify().damaged == []
    assert stored_example(store.set(store.recipes()[0])) is not None


def test_repair_keeps_the_good_rows_of_a_shard_of_many_blocks(tmp_path: Path) -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 40_000), nn.Linear(40_000, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x))

    torch.manual_seed(0)
    split = featcache.split(Wide().eval(), "first", (torch.zeros(2, 4),))
    data = TensorPairs(torch.randn(12, 4), torch.zeros(12))
    whole = featcache.extract(split, data, str(tmp_path / "s"), batch_size=4).numpy()[0]
    (path,) = (tmp_path / "s").glob("sets/*/*.h5")
    with h5py.File(path) as file:
        start = file["features/first"].id.get_offset()
    flip(path, (start + 5 * 160_000) * 8)
    store = FeatureStore(str(tmp_path / "s"))
    assert store.verify().damaged[0].rows == ((5, 6),)
    store.verify(repair=True)
    assert store.sets()[0].rows == 11
    again = featcache.extract(split, data, store, batch_size=4)
    assert again.report.computed == 1
    assert np.array_equal(again.numpy()[0], whole)


def test_repair_of_a_compressed_set_keeps_its_precision_and_its_compression(net, pairs, tmp_path: Path) -> None:
    def extract() -> Features:
        return featcache.extract(
            net, Repeated(), str(tmp_path / "s"), cut="block", batch_size=8, dtype="int8", codec="zstd"
        )

    class Repeated(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 1200

        def __getitem__(self, index: int):
            return pairs.inputs[index % 50] * (1 + index), 0

    before = extract().numpy()[0]
    (path,) = (tmp_path / "s").glob("sets/*/*.h5")
    with h5py.File(path) as file:
        dataset = file["features/block"]
        assert dataset.id.get_num_chunks() > 1
        flip(path, (dataset.id.get_chunk_info(0).byte_offset + 20) * 8)
    store = FeatureStore(str(tmp_path / "s"))
    ((first, last),) = store.verify(repair=True).damaged[0].rows
    assert 0 < last - first < 1200
    feature_set = store.set(store.recipes()[0])
    assert [feature_set.open_shard(name).compression for name in feature_set.shard_names()] == ["zstd"]
    again = extract()
    assert again.report.computed == last - first
    assert np.abs(again.numpy()[0] - before).max() <= np.ptp(before) / 255
    assert store.verify().damaged == []


def test_repair_of_samples_that_vary_in_length_keeps_the_others(tmp_path: Path) -> None:
    class Texts(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 12

        def __getitem__(self, index: int):
            return torch.randn(300 + index, 32, generator=torch.Generator().manual_seed(index)), 0

    model = nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 2)).eval()
    store = FeatureStore(str(tmp_path / "s"))
    whole = featcache.extract(model, Texts(), store, cut="0", batch_size=4)
    expected = [whole[number][0]["0"] for number in range(12)]
    (path,) = (tmp_path / "s").glob("sets/*/*.h5")
    with h5py.File(path) as file:
        start = file["features/0"].id.get_offset()
    flip(path, (start + 500 * 256) * 8)
    ((first, last),) = store.verify().damaged[0].rows
    assert 0 < last - first < 12
    store.verify(repair=True)
    again = featcache.extract(model, Texts(), store, cut="0", batch_size=4)
    assert again.report.computed == last - first
    for number in range(12):
        assert torch.equal(again[number][0]["0"], expected[number])


def test_a_damaged_recipe_costs_no_row(bench: Bench) -> None:
    (path,) = bench.folder.glob("sets/*/recipe.json")
    path.write_text(path.read_text().replace('"cut": "block"', '"cut": "stem!"'))
    store = FeatureStore(str(bench.folder))
    assert store.verify(repair=True).damaged[0].repair
    assert bench.extract().report.computed == 0
    assert store.verify().damaged == []


def test_a_damaged_snapshot_is_not_replaced_by_an_older_one_and_extract_mends_it(bench: Bench) -> None:
    older = TensorPairs(bench.pairs.inputs, bench.pairs.targets_of + 1)
    featcache.extract(bench.split, older, str(bench.folder), name="pairs")
    bench.extract()
    store = FeatureStore(str(bench.folder))
    digest = store.snapshot("pairs").digest
    (bench.folder / "snapshots" / "pairs" / f"{digest}.h5").write_bytes(b"no file")
    store.verify(repair=True)
    with pytest.raises(featcache.errors.CorruptError, match="featcache extract"):
        store.snapshot("pairs")
    bench.extract()
    assert np.array_equal(store.snapshot("pairs").targets, bench.targets)
    (bench.folder / "snapshots" / "pairs" / "latest.json").write_text('{"latest": "../../x"}')
    with pytest.raises(featcache.errors.CorruptError, match=r"latest\.json"):
        store.snapshot("pairs")
    bench.extract()
    assert store.snapshot("pairs").digest == digest


def test_repair_never_drops_what_only_cannot_be_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = sorted(bench.folder.glob("sets/*/*.h5"))[0]
    real = Path.open

    def failing(self: Path, *arguments, **options):
        if self.name == shard.name:
            raise OSError(5, "Input/output error")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", failing)
    report = FeatureStore(str(bench.folder)).verify(repair=True)
    assert [each.repair for each in report.damaged] == [None]
    assert "Input/output error" in report.damaged[0].reason
    assert shard.is_file()


def test_rows_compare_equal_with_fresh_ones_and_wrong_ones_show(bench: Bench) -> None:
    store = FeatureStore(str(bench.folder))
    (same,) = store.recompute(bench.split, bench.pairs, 20, batch_size=8)
    assert (same.rows, same.largest_difference, same.provenance) == (20, 0.0, {})
    (other,) = store.recompute(bench.split, bench.pairs, 20, batch_size=1)
    assert other.within_rounding
    assert other.provenance["batch_size"] == [8, 1]
    feature_set = store.set(store.recipes()[0])
    shard = feature_set.open_shard(feature_set.shard_names()[0])
    wrong = {"block": np.array(shard.features["block"]) + np.float32(1)}
    ids, views = shard.ids.copy(), shard.views.copy()
    shutil.rmtree(bench.folder / "sets")
    feature_set.add(ids, views, wrong, shard.provenance)
    (found,) = store.recompute(bench.split, bench.pairs, 50, batch_size=8)
    assert found.largest_difference == pytest.approx(1, rel=1e-5)
    assert not found.within_rounding
    assert found.sample is not None


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3", "int8", "int4"])
def test_rows_of_every_precision_compare_as_if_they_were_not_rounded(bench: Bench, tmp_path: Path, dtype: str) -> None:
    store = FeatureStore(str(tmp_path / "rounded"))
    featcache.extract(bench.split, bench.pairs, store, batch_size=8, dtype=dtype)
    (same,) = store.recompute(bench.split, bench.pairs, 20, batch_size=8, dtype=dtype)
    (other,) = store.recompute(bench.split, bench.pairs, 20, batch_size=1, dtype=dtype)
    assert max(same.relative_difference, other.relative_difference) < 1e-5
    feature_set = store.set(store.recipes()[0])
    shard = feature_set.open_shard(feature_set.shard_names()[0])
    shutil.rmtree(tmp_path / "rounded" / "sets")
    turned = {"block": np.array(shard.features["block"])[::-1]}
    feature_set.add(shard.ids, shard.views, turned, shard.provenance, shard.scales)
    (found,) = store.recompute(bench.split, bench.pairs, 50, batch_size=8, dtype=dtype)
    assert found.relative_difference > 0.1


@pytest.mark.slow
def test_verify_repairs_and_recomputes_from_the_command_line(
    featcache_command: CommandLine, image_folder: Path
) -> None:
    (featcache_command.folder / "featcache.toml").write_text(
        'backbone = "bundled:resnet-mini"\ndata = "folder:images"\ncut = ["layer4"]\n'
    )
    featcache_command("extract")
    compared = json.loads(featcache_command("verify", "--recompute", "5", "--json").stdout)["recomputed"]
    assert compared[0]["largest_difference"] == 0
    (shard,) = featcache_command.folder.glob("features/sets/*/*.h5")
    shard.write_bytes(shard.read_bytes()[:-100])
    assert "--repair" in featcache_command("verify", expect=1).stderr
    assert "Repaired: removed" in featcache_command("verify", "--repair").stdout
    assert json.loads(featcache_command("extract", "--json").stdout)[0]["computed"] == 18
