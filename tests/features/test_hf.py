"""``Features.to_hf``: cached rows as a dataset of Hugging Face's library."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest
import torch

import featcache
from featcache.errors import MissingDependencyError, UsageError
from featcache.features import hf

from ..conftest import Items

datasets = pytest.importorskip("datasets")


def test_rows_targets_names_and_splits_come_back_in_order(made, pairs, tmp_path, monkeypatch) -> None:
    pairs.classes = ["ant", "bee", "cat", "dog"]
    features = featcache.extract(made, pairs, str(tmp_path / "store")).with_splits(["train"] * 40 + ["test"] * 10)
    monkeypatch.setattr(hf, "BLOCK_BYTES", 7 * features.size_bytes // len(features))
    found = features.to_hf()
    values, targets = features.numpy()
    assert found.column_names == ["features", "target", "name", "split"]
    assert found.features["target"] == datasets.ClassLabel(names=pairs.classes)
    arrays = found.with_format("numpy")[:]
    assert arrays["features"].dtype == np.float32
    assert np.array_equal(arrays["features"], values)
    assert np.array_equal(arrays["target"], targets)
    assert found["name"][:] == features.names
    assert found["split"][:] == features.splits.tolist()
    again = pickle.loads(pickle.dumps(found.filter(lambda row: row["split"] == "test")))
    assert torch.equal(again.with_format("torch")[0]["features"], features[40][0])


def test_rows_that_were_mapped_are_the_mapped_ones(features) -> None:
    plain, mapped = features.to_hf(), features.map(torch.nn.Flatten()).to_hf()
    assert np.array_equal(mapped.with_format("numpy")[3]["features"], features[3][0].numpy().ravel())
    assert plain.features["features"] != mapped.features["features"]


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_targets_that_are_no_classes_are_values(made, pairs, tmp_path, dtype) -> None:
    targets = np.arange(100).reshape(50, 2).astype(dtype)
    features = featcache.extract(made, Items(pairs.inputs, targets), str(tmp_path / "store"))
    found = features.to_hf()
    assert np.array_equal(found.with_format("numpy")["target"][:], targets)
    assert found.features["target"].feature.dtype == np.dtype(dtype).name


def test_several_tensors_have_a_column_each_and_no_rows_give_no_rows(features) -> None:
    both = features.map(lambda rows: {"deep": rows.mean((2, 3)), "name": rows[:, 0, 0, 0] > 0})
    found = both.to_hf()
    assert found.column_names == ["deep", "features.name", "target", "name", "split"]
    assert found["features.name"][:] == both.numpy()[0]["name"].tolist()
    empty = features[:0].to_hf()
    assert (len(empty), empty.column_names) == (0, ["features", "target", "name", "split"])


class Tagged(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = torch.nn.Embedding(9, 5), torch.nn.Linear(5, 2)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        kept = self.embed(ids) * mask[..., None]
        return self.out(kept.sum(1))


def test_samples_that_vary_in_length_keep_their_own_steps(tmp_path) -> None:
    lengths = [3, 5, 2, 4]
    inputs = [{"ids": torch.arange(n), "mask": torch.ones(n, dtype=torch.int64)} for n in lengths]
    features = featcache.extract(
        Tagged().eval(), list(zip(inputs, [0, 1, 0, 1], strict=True)), str(tmp_path), cut="embed"
    )
    found = features.to_hf()
    assert [len(row) for row in found["embed"]] == lengths
    for number, row in enumerate(found.with_format("numpy")):
        assert np.array_equal(row["embed"], features[number][0]["embed"][: lengths[number]].numpy())


def test_without_the_library_one_line_says_what_to_install(features, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'featcache\[hf-data\]'"):
        features.to_hf()


def test_values_without_a_column_type_are_refused(features) -> None:
    with pytest.raises(UsageError, match="complex64"):
        features.map(lambda rows: rows.to(torch.complex64)).to_hf()
