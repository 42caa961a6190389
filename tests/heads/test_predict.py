"""``head.predict`` gives what the head's network gives, for inputs and for cached features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import featcache
from featcache.errors import DataError, StaleError, UsageError


@pytest.fixture
def trained(made, features) -> featcache.TrainedHead:
    return featcache.train_head(made, features, epochs=2, device="cpu")


@pytest.mark.parametrize("as_what", ["tensor", "list", "dataset", "array"])
def test_inputs_of_any_form_give_exactly_what_the_network_gives(trained, pairs, as_what: str) -> None:
    inputs = {"tensor": pairs.inputs, "list": list(pairs.inputs), "dataset": pairs, "array": pairs.inputs.numpy()}
    with torch.no_grad():
        expected = trained.model.eval()(pairs.inputs)
    found = trained.predict(inputs[as_what], device="cpu")
    assert np.array_equal(found.values, expected.argmax(1))
    assert np.array_equal(found.probabilities, torch.softmax(expected.double(), 1).numpy())
    assert found.names[1] == "item 1"


def test_features_give_what_the_network_gives_of_their_samples(trained, features, pairs) -> None:
    found, expected = trained.predict(features, device="cpu"), trained.predict(pairs, device="cpu")
    assert np.array_equal(found.probabilities, trained.predict_proba(features, device="cpu"))
    assert np.allclose(found.probabilities, expected.probabilities, atol=1e-6)
    assert (found.names, found.labels) == (features.names, expected.labels)


def test_a_network_in_training_mode_predicts_in_evaluation_mode_and_is_left_in_training_mode(
    trained, features, pairs
) -> None:
    before = [trained.predict(given, device="cpu") for given in (pairs, features)]
    trained.model.train()
    trained.model.stem.eval()
    modes = [module.training for module in trained.model.modules()]
    state = {name: value.clone() for name, value in trained.model.state_dict().items()}
    for given, expected in zip((pairs, features), before, strict=True):
        assert np.array_equal(trained.predict(given, device="cpu").probabilities, expected.probabilities)
    assert [module.training for module in trained.model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in trained.model.state_dict().items())


def test_what_cannot_be_predicted_is_refused(trained, features, net, pairs, tmp_path: Path) -> None:
    for given in ("photo.jpg", {"input_ids": pairs.inputs}, 3):
        with pytest.raises(DataError, match="inputs are a dataset or an iterable of inputs"):
            trained.predict(given)
    with pytest.raises(UsageError, match="leave transform out"):
        trained.predict(features, transform=torch.nn.Identity())
    with pytest.raises(DataError, match="there are no rows"):
        trained.predict(features[:0])
    with torch.no_grad():
        net.stem[0].weight += 1
    others = featcache.extract(net, pairs, str(tmp_path / "others"), cut="block")
    with pytest.raises(StaleError, match="other weights"):
        trained.predict(others)
