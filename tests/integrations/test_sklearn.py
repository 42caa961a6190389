from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import featcache
from featcache import FrozenFeatures
from featcache.errors import DataError, UnknownCutError

from ..extraction.test_several_cuts import count_calls


def test_the_transformer_gives_the_pooled_features_that_extract_gives(net, pairs, tmp_path) -> None:
    frozen = FrozenFeatures(net, "block", str(tmp_path / "a"))
    found = frozen.fit_transform(pairs.inputs.numpy())
    expected = featcache.extract(net, pairs, str(tmp_path / "b"), cut="block", pool="auto").numpy()[0]
    assert found.shape == (50, 8)
    assert np.array_equal(found, expected)
    assert np.array_equal(frozen.transform(pairs.inputs), expected)
    assert list(frozen.get_feature_names_out()[:2]) == ["block_0", "block_1"]


def test_samples_that_were_seen_are_not_computed_again_whatever_their_order(net, pairs, tmp_path) -> None:
    frozen = FrozenFeatures(net, "block", str(tmp_path / "s")).fit(pairs.inputs)
    first = frozen.transform(pairs.inputs)
    order = np.random.default_rng(0).permutation(50)
    assert np.array_equal(frozen.transform(pairs.inputs[order]), first[order])
    assert (frozen.report_.computed, frozen.report_.reused) == (0, 50)
    with torch.no_grad():
        net.stem[0].weight += 0.1
    assert not np.array_equal(frozen.transform(pairs.inputs), first)
    assert frozen.report_.computed == 50


@pytest.mark.slow
def test_a_grid_search_over_heads_computes_each_sample_once(net, pairs, tmp_path) -> None:
    calls = count_calls(net.stem)
    pipeline = make_pipeline(FrozenFeatures(net, "block", str(tmp_path / "s"), batch_size=50), LogisticRegression())
    search = GridSearchCV(pipeline, {"logisticregression__C": [0.1, 1.0, 10.0]}, cv=4)
    search.fit(pairs.inputs.numpy(), pairs.targets_of.numpy())
    # The two parts of the first fold, each in one batch filled up to 50; and in each, the whole network once.
    assert calls.count(50) == 4
    calls.clear()
    search.set_params(param_grid={"logisticregression__C": [0.5, 5.0]}).fit(
        pairs.inputs.numpy(), pairs.targets_of.numpy()
    )
    assert calls.count(50) == 0
    assert search.predict(pairs.inputs.numpy()).shape == (50,)
    store = featcache.FeatureStore(str(tmp_path / "s"))
    assert [info.rows for info in store.sets()] == [50]


def test_clones_share_the_network_and_keep_the_parameters(net, tmp_path) -> None:
    frozen = FrozenFeatures(net, "block", str(tmp_path), dtype="float16")
    copied = clone(frozen)
    assert copied is not frozen
    assert copied.backbone is net
    assert copied.get_params() == frozen.get_params()
    assert copied.set_params(cut="stem").cut == "stem"
    assert frozen.cut == "block"


def test_a_fitted_transformer_pickles(net, pairs, tmp_path) -> None:
    frozen = FrozenFeatures(net, "block", str(tmp_path / "s")).fit(pairs.inputs)
    values = frozen.transform(pairs.inputs)
    again = pickle.loads(pickle.dumps(frozen))
    assert np.array_equal(again.transform(pairs.inputs), values)
    assert again.report_.computed == 0


def test_a_specified_backbone_takes_images_as_arrays_of_bytes(tmp_path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    frozen = FrozenFeatures("bundled:resnet-mini", "layer4", str(tmp_path / "s"))
    assert frozen.fit_transform(images).shape == (12, 96)
    with pytest.raises(DataError, match="not an image"):
        frozen.transform(images.astype(np.float64))


def test_wrong_uses_are_refused_in_words(net, pairs, tmp_path) -> None:
    with pytest.raises(NotFittedError):
        FrozenFeatures(net, "block", str(tmp_path / "s")).transform(pairs.inputs)
    with pytest.raises(UnknownCutError, match="block"):
        FrozenFeatures(net, "blok", str(tmp_path / "s")).fit(pairs.inputs)
    with pytest.raises(DataError, match="sequence"):
        FrozenFeatures(net, "block", str(tmp_path / "s")).fit(iter([1]))
    empty = FrozenFeatures(net, "block", str(tmp_path / "s")).fit(pairs.inputs).transform(pairs.inputs[:0])
    assert empty.shape == (0, 8)
