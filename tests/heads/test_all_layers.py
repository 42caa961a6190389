"""One head on the pooled features of several cuts together."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

import featcache
from featcache.errors import HeadError, StaleError, UsageError
from featcache.testing.small import SmallSamples, small_network

CUTS = ["stem", "block"]


class LateRelu(nn.Module):
    """A network that writes into what its first layer returns."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.relu, self.two, self.fc = (
            nn.Linear(4, 8),
            nn.ReLU(inplace=True),
            nn.Linear(8, 6),
            nn.Linear(6, 3),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.two(self.relu(self.one(x))))


@pytest.fixture
def made(tmp_path: Path):
    model, samples = small_network(), SmallSamples()
    features = featcache.extract(model, samples, str(tmp_path / "features"), cut=CUTS, pool="auto")
    splits = featcache.split(model, CUTS, (samples.inputs[:4],))
    return model, samples, features, splits


def trained(made, **options):
    _, _, features, splits = made
    return featcache.train_head(splits, features, head="all-layers", device="cpu", validation=0.25, **options)


def test_the_head_reads_the_pooled_outputs_of_all_cuts_side_by_side(made) -> None:
    model, samples, features, _ = made
    head = trained(made)
    assert head.cuts == CUTS
    assert head.layers[-1].in_features == 4 + 6
    seen = {}
    for cut in CUTS:
        model.get_submodule(cut).register_forward_hook(
            lambda _m, _i, out, cut=cut: seen.update({cut: out.mean((2, 3))})
        )
    with torch.no_grad():
        model(samples.inputs)
        expected = head.layers[-1](torch.cat([seen[cut] for cut in CUTS], 1))
        assert torch.allclose(head.model(samples.inputs), expected, atol=1e-5)
    assert np.allclose(head.predict_proba(features), expected.softmax(1).numpy(), atol=1e-5)


def test_whole_sets_and_pooled_ones_give_the_same_head(made, tmp_path: Path) -> None:
    model, samples, _, splits = made
    whole = featcache.extract(model, samples, str(tmp_path / "whole"), cut=CUTS)
    one, other = trained(made), trained((model, samples, whole, splits))
    assert torch.allclose(one.layers[-1].weight, other.layers[-1].weight, atol=1e-3)
    assert np.allclose(one.predict_proba(whole), other.predict_proba(whole), atol=1e-3)


def test_the_head_is_as_good_as_logistic_regression_on_the_same_vectors(made) -> None:
    _, _, features, _ = made
    head = trained(made, weight_decay=0.01)
    vectors = np.concatenate([features[cut].numpy()[0] for cut in CUTS], axis=1)
    fitted = LogisticRegression(max_iter=1000).fit(vectors, features["stem"].targets)
    assert head.evaluate(features).accuracy >= fitted.score(vectors, features["stem"].targets) - 0.05


def test_a_saved_head_is_loaded_with_splits_in_any_order(made, tmp_path: Path) -> None:
    _, samples, _, splits = made
    head = trained(made)
    folder = head.save(tmp_path / "head")
    assert json.loads((folder / "head.json").read_text())["cuts"] == CUTS
    loaded = featcache.load_head(folder, splits[::-1])
    assert torch.equal(loaded.model(samples.inputs), head.model(samples.inputs))
    assert torch.equal(featcache.merge(folder, splits)(samples.inputs), head.model(samples.inputs))
    assert torch.equal(featcache.merge(head, splits)(samples.inputs), head.model(samples.inputs))
    with pytest.raises(HeadError, match="stem, block"):
        featcache.load_head(folder, featcache.split(splits[0].model, ["stem", "fc"], (samples.inputs[:4],)))


def test_a_head_is_refused_with_another_network(made, tmp_path: Path) -> None:
    model, _, features, splits = made
    folder = trained(made).save(tmp_path / "head")
    with torch.no_grad():
        model.block[0].weight.mul_(2)
    with pytest.raises(HeadError, match="another backbone"):
        featcache.load_head(folder, splits)
    with pytest.raises(StaleError, match="other weights"):
        featcache.train_head(splits, features, head="all-layers")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt2"])
def test_a_head_is_exported(made, tmp_path: Path, suffix: str) -> None:
    report = featcache.export_head(trained(made), tmp_path / f"head{suffix}")
    assert (tmp_path / f"head{suffix}").exists()
    assert (report.difference or 0.0) < 1e-4


def test_an_output_that_the_network_writes_into_is_exported_as_it_was(tmp_path: Path) -> None:
    model = LateRelu().eval()
    samples = [(torch.randn(4, generator=torch.Generator().manual_seed(n)), n % 3) for n in range(30)]
    features = featcache.extract(model, samples, str(tmp_path / "features"), cut=["one", "two"])
    splits = featcache.split(model, ["one", "two"], (torch.randn(3, 4),))
    head = featcache.train_head(splits, features, head="all-layers", device="cpu")
    assert featcache.export_head(head, tmp_path / "head.pt2").difference < 1e-4


def test_random_views_are_trained_on(made, tmp_path: Path) -> None:
    model, samples, _, splits = made
    features = featcache.extract(
        model, samples, str(tmp_path / "views"), cut=CUTS, pool="auto", augment=AddNoise(), views=2
    )
    head = featcache.train_head(splits, features, head="all-layers", device="cpu")
    assert head.metrics.samples


class AddNoise:
    """Random noise."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return image + 0.1 * torch.randn_like(image)


def test_a_split_of_several_cuts_is_copied_and_pickled(made) -> None:
    _, samples, _, _ = made
    split = trained(made).split
    again = pickle.loads(pickle.dumps(split))
    assert torch.equal(again.prefix(samples.inputs), split.prefix(samples.inputs))
    assert "stem, block" in repr(split)
    with pytest.raises(UsageError, match="no suffix"):
        _ = split.suffix


def test_splits_that_were_made_one_by_one_are_made_again_together(made) -> None:
    model, samples, features, _ = made
    apart = [featcache.split(model, cut, (samples.inputs[:4],)) for cut in CUTS]
    head = featcache.train_head(apart, features, head="all-layers", device="cpu", validation=0.25)
    assert torch.equal(head.model(samples.inputs), trained(made).model(samples.inputs))
    assert len({id(each._analysis.runs) for each in head.split.splits}) == 1


def test_what_does_not_belong_together_is_refused_in_words(made, tmp_path: Path) -> None:
    model, samples, features, splits = made
    train = featcache.train_head
    with pytest.raises(UsageError, match="two cuts or more"):
        train(splits[0], features["stem"], head="all-layers")
    with pytest.raises(UsageError, match="two cuts or more"):
        train(splits[:1], {"stem": features["stem"]}, head="all-layers")
    with pytest.raises(UsageError, match="once"):
        train([*splits, splits[0]], features, head="all-layers")
    with pytest.raises(UsageError, match="in a dict by cut"):
        train(splits, features["stem"], head="all-layers")
    with pytest.raises(UsageError, match="those at stem"):
        train(splits, {"stem": features["stem"]}, head="all-layers")
    with pytest.raises(UsageError, match="one cut"):
        train(splits[0], features, head="linear")
    fewer = {**features, "stem": features["stem"][:12]}
    with pytest.raises(UsageError, match="same samples"):
        train(splits, fewer, head="all-layers")
    other = featcache.extract(model, samples, str(tmp_path / "half"), cut="stem", pool="auto", dtype="float16")
    with pytest.raises(UsageError, match="differ in dtype"):
        train(splits, {**features, "stem": other}, head="all-layers")
    first = featcache.extract(model, samples, str(tmp_path / "flat"), cut="stem", pool="flatten")
    with pytest.raises(UsageError, match="pooled in several ways"):
        train(splits, {**features, "stem": first}, head="all-layers")
    with pytest.raises(UsageError, match="names modules"):
        train(splits, features, head="all-layers", trainable=["fc"])
