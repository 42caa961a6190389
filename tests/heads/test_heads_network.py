"""What a head is built of, and what building it leaves alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import featcache
from featcache.errors import HeadError, StaleError, UnknownNameError, UsageError
from featcache.heads.kinds import LinearHead, head_kinds
from featcache.heads.linear import Pool
from featcache.heads.network import new_network

from ..conftest import SmallNet, TensorPairs


@pytest.mark.slow
@pytest.mark.parametrize("head", ["suffix", "linear", "sklearn:RidgeClassifier", "sklearn:KNeighborsClassifier"])
def test_no_head_shares_anything_with_the_callers_model(made, features, net, tmp_path, head: str) -> None:
    before = copy.deepcopy(net.state_dict())
    net.train()
    net.fc.eval()
    modes = [module.training for module in net.modules()]
    trained = featcache.train_head(made, features, head=head, epochs=1)
    again = featcache.load_head(trained.save(tmp_path / "head"), made)
    for each in (trained, again):
        assert [module.training for module in net.modules()] == modes
        assert not each.model.training
        addresses = {tensor.data_ptr() for tensor in each.model.state_dict().values()}
        assert not addresses.intersection(tensor.data_ptr() for tensor in net.state_dict().values())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("head", ["suffix", "linear", "sklearn:LogisticRegression"])
def test_the_callers_random_state_and_gradient_mode_are_kept(made, features, head: str) -> None:
    torch.manual_seed(4)
    np.random.seed(4)
    expected, others = torch.rand(3), np.random.rand(3)
    torch.manual_seed(4)
    np.random.seed(4)
    with torch.no_grad():
        featcache.train_head(made, features, head=head, epochs=1)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.rand(3), expected)
    assert np.array_equal(np.random.rand(3), others)


def test_a_caller_in_inference_mode_or_with_another_default_precision_gets_the_same_head(made, features) -> None:
    plain = featcache.train_head(made, features, epochs=1).model.state_dict()
    with torch.inference_mode():
        inside = featcache.train_head(made, features, epochs=1).model.state_dict()
    torch.set_default_dtype(torch.float64)
    try:
        double = featcache.train_head(made, features, epochs=1).model.state_dict()
        linear = featcache.train_head(made, features, head="linear", epochs=1)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(inside[name], plain[name]) and torch.equal(double[name], plain[name]) for name in plain)
    assert linear.model.head.weight.dtype == torch.float32


def test_the_new_last_layer_depends_on_the_seed_alone(made) -> None:
    first, again, other = (new_network(made, 7, seed).model for seed in (1, 1, 2))
    assert first.fc.weight.shape == (7, 8)
    assert torch.equal(first.fc.weight, again.fc.weight)
    assert not torch.equal(first.fc.weight, other.fc.weight)
    rest = [name for name in first.state_dict() if not name.startswith("fc")]
    assert all(torch.equal(first.state_dict()[name], made.model.state_dict()[name]) for name in rest)


def test_the_suffix_of_a_new_network_can_be_trained_as_it_is_handed_out(made) -> None:
    network = new_network(made, 7)
    assert all(module.training for module in network.suffix.modules())
    assert network.model.fc is network.suffix.fc
    assert not network.model.stem[1].training


def test_the_last_layer_is_the_one_that_runs_last_not_the_one_that_is_defined_last(pairs) -> None:
    class Unordered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scores = nn.Linear(6, 5)
            self.stem = nn.Conv2d(3, 6, 3)
            self.middle = nn.Linear(6, 6)
            self.unused = nn.Linear(6, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scores(self.middle(self.stem(x).mean((2, 3))))

    network = new_network(featcache.split(Unordered().eval(), "stem", (pairs.inputs[:2],)), 3)
    assert network.model.scores.out_features == 3
    assert network.model.unused.out_features == 5


class Gated(nn.Module):
    """Its last layer only gates an earlier one, and has as many outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.scores = nn.Linear(4, 4)
        self.gate = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.scores(self.stem(x).mean((2, 3)))
        return x * torch.sigmoid(self.gate(x))


@pytest.mark.parametrize("classes", [4, 3, 1])
def test_a_last_layer_that_does_not_make_the_output_alone_is_refused(pairs, classes: int) -> None:
    split = featcache.split(Gated().eval(), "stem", (pairs.inputs[:2],))
    with pytest.raises(HeadError, match=r"'gate'.*--head linear"):
        new_network(split, classes)


def test_frozen_modules_behind_the_cut_keep_weights_and_statistics(made, features, net) -> None:
    trained = featcache.train_head(made, features, epochs=3, trainable=["fc"]).model.state_dict()
    kept = [name for name in trained if not name.startswith("fc")]
    assert all(torch.equal(trained[name], net.state_dict()[name]) for name in kept)
    everything = featcache.train_head(made, features, epochs=3).model.state_dict()
    assert not torch.equal(everything["tail.1.running_mean"], net.state_dict()["tail.1.running_mean"])


@pytest.mark.parametrize(
    ("kind", "shape", "expected"),
    [
        ("auto", (5,), (5,)),
        ("auto", (4, 5), (5,)),
        ("auto", (5, 4, 4), (5,)),
        ("auto", (4, 4, 5), (5,)),
        ("auto", (5, 2, 4, 4), (5,)),
        ("channels_first", (4, 4, 5), (4,)),
        ("channels_last", (5, 4, 4), (4,)),
        ("first", (4, 5), (5,)),
        ("flatten", (2, 3, 4), (24,)),
    ],
)
def test_pooling_makes_one_vector_a_sample(kind: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    values = torch.randn(3, *shape)
    pooled = Pool(kind)(values)
    assert pooled.shape == (3, *expected)
    assert pooled.dtype == torch.float32
    assert torch.allclose(pooled.mean(1), values.flatten(1).mean(1), atol=1e-5) or kind == "first"


def test_the_kind_of_pooling_is_saved_with_the_head(made, features, pairs, tmp_path) -> None:
    trained = featcache.train_head(made, features, head="linear", pool="flatten", epochs=2)
    assert trained.model.head.in_features == 8 * 6 * 6
    again = featcache.load_head(trained.save(tmp_path / "head"), made)
    here, there = featcache.predict(trained, pairs), featcache.predict(again, pairs)
    assert np.array_equal(here.probabilities, there.probabilities)
    with pytest.raises(UsageError, match="channels_first"):
        featcache.train_head(made, features, head="linear", pool="chanels_first")


def test_a_kind_of_head_can_be_added(made, features, tmp_path) -> None:
    class Wide(LinearHead):
        def train(self, built, rows, options, classes, progress):
            with torch.no_grad():
                built.stored.bias.fill_(float(options.head.partition(":")[2]))
            return []

    head_kinds.register("filled", Wide())
    try:
        trained = featcache.train_head(made, features, head="filled:2.5")
        again = featcache.load_head(trained.save(tmp_path / "head"), made)
        assert again.model.head.bias.tolist() == [2.5] * 4
        with pytest.raises(UnknownNameError, match=r"filled.*sklearn:NAME"):
            featcache.train_head(made, features, head="fill")
    finally:
        head_kinds._entries.pop("filled")


def test_features_of_another_network_get_no_probabilities(made, features, pairs, tmp_path) -> None:
    trained = featcache.train_head(made, features, head="linear", epochs=1)
    elsewhere = featcache.extract(SmallNet().eval(), pairs, str(tmp_path / "other"), cut="block")
    with pytest.raises(StaleError, match="other weights"):
        trained.predict_proba(elsewhere)
    with pytest.raises(StaleError, match="'stem'"):
        trained.predict_proba(featcache.extract(made.model, pairs, str(tmp_path / "other"), cut="stem"))


def test_inputs_to_predict_are_a_dataset_a_list_or_a_generator(made, features, pairs) -> None:
    trained = featcache.train_head(made, features, head="linear", epochs=1)
    expected = featcache.predict(trained, pairs)
    for inputs in (list(pairs.inputs), (each for each in pairs.inputs), [(each, None) for each in pairs.inputs]):
        found = featcache.predict(trained, inputs, batch_size=50)
        assert found.labels == expected.labels
        assert np.allclose(found.probabilities, expected.probabilities, atol=1e-6)
        assert found.names[3] == "item 3"


def test_an_unreadable_input_is_named_or_skipped(made, features, pairs) -> None:
    class Broken(TensorPairs):
        def __getitem__(self, index: int):
            if index == 4:
                raise OSError("truncated file")
            return super().__getitem__(index)

    trained = featcache.train_head(made, features, head="linear", epochs=1)
    broken = Broken(pairs.inputs, pairs.targets_of)
    with pytest.raises(featcache.errors.UnreadableSampleError, match=r"item 4.*truncated"):
        featcache.predict(trained, broken)
    found = featcache.predict(trained, broken, on_error="skip", batch_size=3)
    assert len(found.labels) == len(found.names) == 49
    assert [(each.position, each.reason) for each in found.skipped] == [(4, "truncated file")]
