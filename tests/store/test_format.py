"""Stores of every format stay readable, by featcache and by readers that know only docs/format.md."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import featcache
from featcache import FeatureStore

from ..golden.make import Steps, network, pairs
from .independent_reader import read_store, read_values

GOLDEN = Path(__file__).parents[1] / "golden"
FORMATS = sorted(path.stem for path in GOLDEN.glob("format-*.json"))


@pytest.fixture(params=FORMATS)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return shutil.copytree(GOLDEN / request.param, tmp_path / request.param)


def expected(folder: Path) -> dict[str, str]:
    return json.loads((GOLDEN / f"{folder.name}.json").read_text())


def test_there_is_a_golden_store_of_the_present_format() -> None:
    from featcache.store.files import STORE_FORMAT

    assert f"format-{STORE_FORMAT}" in FORMATS
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()) < 100_000 * len(FORMATS)


def test_featcache_reads_every_row_of_a_golden_store(golden: Path) -> None:
    store = FeatureStore(str(golden))
    assert store.verify().damaged == []
    found = {}
    for recipe in store.recipes():
        feature_set = store.set(recipe)
        for name in feature_set.shard_names():
            shard = feature_set.open_shard(name)
            shard.check()
            for number in range(len(shard)):
                for tensor in shard.features:
                    row = shard.take(tensor, np.array([number]))
                    key = f"{recipe.fingerprint}/{shard.ids[number].tobytes().hex()}/{shard.views[number]}/{tensor}"
                    found[key] = (row if isinstance(row, np.ndarray) else row.values).tobytes().hex()
    assert found == expected(golden)
    assert len({key.split("/")[0] for key in found}) == 4
    assert store.snapshot("pairs").classes == ["a", "b", "c"]


def test_a_golden_store_is_used_and_not_computed_again(golden: Path) -> None:
    features = featcache.extract(network(), Steps(), str(golden), cut="0", batch_size=4, name="steps")
    assert (features.report.computed, features.report.reused) == (0, 6)
    weight = np.arange(12, dtype=np.float32).reshape(3, 4) - 5
    step = np.arange(4, dtype=np.float32) @ weight.T + np.arange(3, dtype=np.float32)
    assert np.array_equal(features[0][0]["0"].numpy()[0], step)


@pytest.mark.parametrize(
    "path", sorted(GOLDEN.glob("heads-*/*.json")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_a_golden_head_predicts_what_it_predicted_when_it_was_saved(path: Path) -> None:
    split = featcache.split(network(), "0", (pairs().inputs[:2],))
    head = featcache.load_head(path.with_suffix(""), split)
    with torch.no_grad():
        scores = head.model(pairs().inputs)
    torch.testing.assert_close(scores, torch.tensor(json.loads(path.read_text())))
    assert head.classes == ["a", "b", "c"]


def test_a_reader_that_knows_only_the_description_reads_and_checks_a_golden_store(golden: Path) -> None:
    rows = read_store(golden)
    assert {f"{name}/{key}": value.hex() for name, each in rows.items() for key, value in each.items()} == expected(
        golden
    )
    source = (Path(__file__).parent / "independent_reader.py").read_text()
    assert "import featcache" not in source
    assert "from featcache" not in source
    assert len(source.splitlines()) <= 90


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3", "float8_e5m2", "int8", "int4"])
def test_the_independent_reader_reads_each_precision_compressed(net, pairs, tmp_path: Path, dtype: str) -> None:
    import hdf5plugin  # noqa: F401

    features = featcache.extract(net, pairs, str(tmp_path / "s"), cut="block", dtype=dtype, codec="zstd")
    (name,) = read_store(tmp_path / "s")
    (path,) = (tmp_path / "s" / "sets" / name).glob("*.h5")
    values = read_values(path, "block", dtype, features.frontier[0].value_shape)
    assert np.allclose(values, features.numpy()[0], rtol=1e-6, atol=1e-6)


def test_the_independent_reader_sees_damage(golden: Path) -> None:
    path = sorted(golden.glob("sets/*/*.h5"))[0]
    with h5py.File(path, "r+") as file:
        file["features/0"][0, 0] += 1
    with pytest.raises(AssertionError):
        read_store(golden)


@pytest.mark.skipif(shutil.which("h5dump") is None, reason="h5dump is not installed")
def test_h5dump_reads_a_shard(golden: Path) -> None:
    for path in golden.glob("sets/*/*.h5"):
        done = subprocess.run(["h5dump", str(path)], capture_output=True, text=True, check=True)
        assert "features" in done.stdout


def test_nothing_of_this_machine_is_in_a_golden_store(golden: Path) -> None:
    for path in golden.glob("sets/*/*.h5"):
        with h5py.File(path) as file:
            assert json.loads(file.attrs["provenance"])["host"] == "example"
